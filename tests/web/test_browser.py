"""The playground in a browser: panes side by side, stopping, asking again, feedback, what is kept."""

import json
import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect

from factory.facts.feedback import examples
from factory.feedback import _answers, _said
from tests.web.browser import answers, ask, choose, open_playground, status, unfold
from tests.web.model_stub import ADAPTER, BASE

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PROMPT_S = 0.5
TRIES = 3  # a machine that is busy with something else may be late once


def start_two(page, stub):
    """Ask two slow models and return their calls once both speak."""
    choose(page, 1, "slow-one")
    choose(page, 2, "slow-two")
    ask(page, "Count.")
    for pane in (1, 2):
        expect(answers(page, pane).last).to_contain_text("word3")
    return stub.last("slow-one"), stub.last("slow-two")


def wait_for_end(call, since):
    """How long after a moment a client left a call, in seconds."""
    assert call.ended.wait(5), "the model still speaks"
    assert call.left is not None, "the model came to its end"
    return call.left - since


def ask_and_wait(page, question, panes=(1, 2)):
    ask(page, question)
    for pane in panes:
        expect(answers(page, pane).last).to_contain_text(question)
        expect(status(page, pane)).to_contain_text("Done in")


class TestCompare:
    def test_two_models_answer_at_the_same_time_and_stop_all_ends_both(self, page, stub):
        calls = start_two(page, stub)
        assert not any(call.ended.is_set() for call in calls)
        for pane in (1, 2):
            expect(status(page, pane)).to_have_text("Answering …")
        since = time.monotonic()
        page.get_by_role("button", name="Stop all").click()
        assert max(wait_for_end(call, since) for call in calls) < 2
        for pane in (1, 2):
            expect(status(page, pane)).to_have_text("Stopped.")

    def test_under_each_answer_stands_who_gave_it_and_what_was_measured(self, page):
        ask_and_wait(page, "What is a lantern?")
        expect(page.locator("#pane-1 .identity p")).to_have_text(
            "Q8_0 file abababababab · base SmolLM2 · on this machine"
        )
        expect(page.locator("#pane-2 .identity p")).to_contain_text("+ adapter cdcdcdcdcdcd")
        for pane in (1, 2):
            line = status(page, pane).inner_text()
            for part in ("first token 0.", "tokens/s", "7 read + ", "no cost (local)"):
                assert part in line

    def test_three_or_four_panes_on_choice(self, page, stub):
        expect(page.locator("#pane-3")).to_be_hidden()
        page.locator("#pane-count").get_by_label("4").check()
        for pane in (3, 4):
            choose(page, pane, BASE)
        ask_and_wait(page, "Who are you four?", panes=(1, 2, 3, 4))
        page.locator("#pane-count").get_by_label("3").check()
        expect(page.locator("#pane-4")).to_be_hidden()
        ask_and_wait(page, "Who are you three?", panes=(1, 2, 3))
        assert sum(call.question == "Who are you three?" for call in stub.calls) == 3

    def test_a_pane_that_fails_says_so_and_the_others_answer(self, page):
        page.locator("#pane-count").get_by_label("3").check()
        choose(page, 1, "failing")
        choose(page, 3, "breaking")
        ask(page, "Are you well?")
        expect(status(page, 1)).to_have_text("Failed: out of order")
        expect(status(page, 3)).to_contain_text("Failed: breaking broke off in its answer")
        expect(answers(page, 3)).to_have_text("one two")
        expect(answers(page, 2)).to_contain_text("Are you well?")
        expect(status(page, 2)).to_contain_text("Done in")

    def test_stopping_one_pane_ends_its_answer_at_once_and_the_other_goes_on(self, page, stub):
        waits = []
        while len(waits) < TRIES and (not waits or min(waits) > PROMPT_S):
            stopped, other = start_two(page, stub)
            since = time.monotonic()
            page.get_by_role("button", name="Stop pane 1").click()
            waits.append(wait_for_end(stopped, since))
            said = other.num_words
            expect(status(page, 1)).to_have_text("Stopped.")
            page.wait_for_timeout(300)
            assert other.num_words > said
            expect(status(page, 2)).to_have_text("Answering …")
            page.get_by_role("button", name="New conversation").click()
            wait_for_end(other, since)
        assert min(waits) < PROMPT_S

    def test_closing_the_page_ends_all_answers_at_once(self, page, stub, site):
        waits = []
        while len(waits) < TRIES and (not waits or min(waits) > PROMPT_S):
            again = page.context.new_page()
            open_playground(again, f"{site.url}/ui/")
            calls = start_two(again, stub)
            since = time.monotonic()
            again.close()
            waits.append(max(wait_for_end(call, since) for call in calls))
        assert min(waits) < PROMPT_S

    def test_four_fast_answers_leave_the_page_quick_enough_to_stop_them(self, page, stub):
        page.locator("#pane-count").get_by_label("4").check()
        for pane in (1, 2, 3, 4):
            choose(page, pane, "fast")
        ask(page, "Count fast.")
        for pane in (1, 2, 3, 4):
            expect(answers(page, pane)).to_contain_text("word9")
        since = time.monotonic()
        page.get_by_role("button", name="Stop all").click(timeout=20_000)
        calls = [call for call in stub.calls if call.name == "fast"]
        assert len(calls) == 4
        assert max(wait_for_end(call, since) for call in calls) < 2

    def test_a_new_conversation_is_empty_though_answers_were_being_given(self, page, stub):
        calls = start_two(page, stub)
        page.get_by_role("button", name="New conversation").click()
        for call in calls:
            wait_for_end(call, 0)
        expect(page.locator("#notice p")).to_have_text("A new conversation.")
        page.wait_for_timeout(300)
        for pane in (1, 2):
            expect(answers(page, pane)).to_have_count(0)
            expect(status(page, pane)).to_have_text("Ready.")
        unfold(page, "Rate or correct an answer")
        page.locator("#save-feedback").click()
        expect(page.get_by_test_id("toast-body")).to_contain_text("Pane 1 has no finished answer to rate.")

    def test_the_prompt_is_shown_as_the_model_reads_it(self, page):
        ask_and_wait(page, "What is read?")
        unfold(page, "Where does an answer come from")
        page.get_by_role("button", name="Show the rendered prompt").click()
        expect(page.get_by_label("Rendered prompt")).to_have_value(re.compile("assistant"))
        assert page.get_by_label("Rendered prompt").input_value() == (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is read?<|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    def test_asking_again_takes_another_seed_and_replaces_only_that_answer(self, page, stub):
        ask_and_wait(page, "Which number?")
        first, second = (answers(page, pane).inner_text() for pane in (1, 2))
        assert stub.last(ADAPTER).body["seed"] == 0
        page.locator("#pane-2").get_by_role("button", name="Ask again with another seed").click()
        expect(answers(page, 2)).not_to_have_text(second)
        expect(status(page, 2)).to_contain_text("Done in")
        assert answers(page, 2).count() == 1
        assert answers(page, 1).inner_text() == first
        assert stub.last(ADAPTER).body["seed"] != 0
        assert stub.last(ADAPTER).body["temperature"] > 0

    def test_editing_takes_the_last_question_back_and_the_old_one_stays_in_the_history(self, page, site):
        ask_and_wait(page, "First?")
        ask_and_wait(page, "Secnod?")
        page.get_by_role("button", name="Edit last question").click()
        box = page.locator("#question").get_by_role("textbox")
        expect(box).to_have_value("Secnod?")
        expect(answers(page, 1)).to_have_count(1)
        ask_and_wait(page, "Second?")
        edited, old = (
            site.history.load_conversation(row.id) for row in site.history.list_conversations()[:2]
        )
        assert [turn.prompt for turn in edited.turns] == ["First?", "Second?"]
        assert [turn.prompt for turn in old.turns] == ["First?", "Secnod?"]

    def test_a_branch_leaves_the_conversation_before_it_as_it_is(self, page, site):
        ask_and_wait(page, "Trunk?")
        page.get_by_role("button", name="Branch from here").click()
        expect(page.locator("#notice p")).to_contain_text("A branch")
        ask_and_wait(page, "Twig?")
        branch, old = (
            site.history.load_conversation(row.id) for row in site.history.list_conversations()[:2]
        )
        assert branch.parent == old.id
        assert [turn.prompt for turn in branch.turns] == ["Trunk?", "Twig?"]
        assert [turn.prompt for turn in old.turns] == ["Trunk?"]
        assert {answer.pane for answer in branch.turns[1].answers} == {0, 1}


class TestWhatIsKept:
    def test_a_corrected_answer_becomes_a_training_row(self, page, site, tmp_path):
        ask_and_wait(page, "What does the lantern cost?")
        unfold(page, "Rate or correct an answer")
        page.get_by_label("Bad").check()
        page.get_by_label("Wrong fact").check()
        page.locator("#gold").get_by_role("textbox").fill("It costs 40 marks.")
        page.locator("#save-feedback").click()
        expect(page.locator("#feedback-status p")).to_have_text("Saved.")
        (kept,) = site.history.feedback_with_gold()
        assert (kept.question, kept.gold, kept.model) == (
            "What does the lantern cost?",
            "It costs 40 marks.",
            BASE,
        )
        assert kept.tags == ("wrong_fact",)
        (row,) = _answers(_said(site.root / "playground.db")[0])
        (tmp_path / "feedback.jsonl").write_text(row.model_dump_json())
        (example,) = examples(tmp_path / "feedback.jsonl", "Be brief.")
        assert [message.content for message in example.messages][1:] == [kept.question, kept.gold]

    def test_after_a_reload_the_conversation_opens_from_the_history_and_is_exported(self, page, site):
        ask_and_wait(page, "Will you stay?")
        page.reload()
        page.locator("#question").get_by_role("textbox").wait_for()
        expect(answers(page, 1)).to_have_count(0)
        unfold(page, "History")
        page.get_by_label("Will you stay? (1)").first.check()
        page.get_by_role("button", name="Open", exact=True).click()
        expect(page.locator("#notice p")).to_have_text("Opened.")
        for pane in (1, 2):
            expect(answers(page, pane)).to_contain_text("Will you stay?")
            expect(status(page, pane)).to_contain_text("From the history · first token 0.")
        unfold(page, "Rate or correct an answer")
        page.get_by_label("Good").check()
        page.locator("#save-feedback").click()
        expect(page.locator("#feedback-status p")).to_have_text("Saved.")
        (turn,) = site.history.load_conversation(site.history.list_conversations()[0].id).turns
        assert site.history.feedback(turn.last_answers()[0].response_id).thumb == "up"
        page.get_by_role("button", name="Export the chosen conversation").click()
        with page.expect_download() as download:
            page.locator("a[download]").first.click()
        assert download.value.suggested_filename == "conversation.jsonl"
        rows = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
        assert [row["provenance"]["pane"] for row in rows] == [0, 1]
        for row in rows:
            assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
            assert row["messages"][0]["content"] == "Will you stay?"
