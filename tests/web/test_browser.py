"""The playground in a browser: panes side by side, stopping, asking again, feedback, what is kept."""

import json
import re
import tarfile
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect

from factory.facts.feedback import examples
from factory.feedback import _answers, _said
from factory.rows import write_rows
from tests.made import make_chunks
from tests.web.browser import (
    answers,
    ask,
    choose,
    click,
    notes,
    open_playground,
    open_tab,
    status,
    unfold,
)
from tests.web.model_stub import ADAPTER, BASE
from tests.web.shelf_inputs import ONE, TWO, write_root

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PROMPT_S = 0.5


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


def seconds_to_end(calls, since, stalls):
    """How long after a moment clients left calls, less the time in which the machine was busy with something else."""
    return max(wait_for_end(call, since) - stalls.between(since, call.left) for call in calls)


def turn(role, text):
    """A turn as the stubs' template renders it."""
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def ask_and_wait(page, question, panes=(1, 2)):
    ask(page, question)
    for pane in panes:
        expect(answers(page, pane).last).to_contain_text(question)
        expect(status(page, pane)).to_contain_text("Done in")


class TestCompare:
    @pytest.mark.alone
    def test_two_models_answer_at_the_same_time_and_stop_all_ends_both(self, page, stub, stalls):
        calls = start_two(page, stub)
        assert not any(call.ended.is_set() for call in calls)
        for pane in (1, 2):
            expect(status(page, pane)).to_have_text("Answering …")
        since = click(page, page.get_by_role("button", name="Stop all"))
        assert seconds_to_end(calls, since, stalls) < PROMPT_S
        for pane in (1, 2):
            expect(status(page, pane)).to_have_text("Stopped.")

    def test_under_each_answer_stands_who_gave_it_and_what_was_measured(self, page):
        ask_and_wait(page, "What is a lantern?")
        expect(notes(page, 1)).to_contain_text(
            "smollm2-135m · Q8_0 file abababababab · base SmolLM2 · on this machine"
        )
        expect(notes(page, 2)).to_contain_text("tolvane · Q8_0 file abababababab + adapter cdcdcdcdcdcd")
        for pane in (1, 2):
            line = notes(page, pane).inner_text()
            for part in ("greedy", "first token 0.", "tokens/s", "7 read + ", "no cost (local)"):
                assert part in line

    def test_earlier_answers_keep_what_was_said_of_them_when_the_model_changes_and_when_they_are_opened(
        self, page
    ):
        ask_and_wait(page, "Who was first?")
        kept = [notes(page, pane).inner_text() for pane in (1, 2)]
        choose(page, 2, "markup")
        ask(page, "Who was second?")
        expect(notes(page, 2).last).to_contain_text("markup · markup at http://127.0.0.1")
        expect(notes(page, 2).last).to_contain_text("on this machine")
        expect(notes(page, 2).last).to_contain_text("no cost (local)")
        expect(status(page, 1)).to_contain_text("Done in")
        assert [notes(page, pane).first.inner_text() for pane in (1, 2)] == kept
        both = [notes(page, pane).all_inner_texts() for pane in (1, 2)]
        page.reload()
        page.locator("#question").get_by_role("textbox").wait_for()
        unfold(page, "History")
        page.get_by_label("Who was first? (2)").first.check()
        page.get_by_role("button", name="Open", exact=True).click()
        expect(page.locator("#notice p")).to_have_text("Opened.")
        expect(notes(page, 1)).to_have_count(2)
        assert [notes(page, pane).all_inner_texts() for pane in (1, 2)] == both

    def test_copying_an_answer_copies_what_was_said_and_nothing_else(self, page):
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        ask_and_wait(page, "Copy?")
        page.locator("#pane-1 .bot-row + .message-buttons button").first.click()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == answers(page, 1).inner_text().strip()
        assert copied.endswith("Copy?")

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

    @pytest.mark.alone
    def test_stopping_one_pane_ends_its_answer_at_once_and_the_other_goes_on(self, page, stub, stalls):
        stopped, other = start_two(page, stub)
        since = click(page, page.get_by_role("button", name="Stop pane 1"))
        assert seconds_to_end([stopped], since, stalls) < PROMPT_S
        said = other.num_words
        expect(status(page, 1)).to_have_text("Stopped.")
        page.wait_for_timeout(300)
        assert other.num_words > said
        expect(status(page, 2)).to_have_text("Answering …")
        page.get_by_role("button", name="New conversation").click()
        wait_for_end(other, since)

    @pytest.mark.alone
    def test_closing_the_page_ends_all_answers_at_once(self, page, stub, site, stalls):
        again = page.context.new_page()
        open_playground(again, f"{site.url}/ui/")
        calls = start_two(again, stub)
        since = time.monotonic()
        again.close()
        assert seconds_to_end(calls, since, stalls) < PROMPT_S

    @pytest.mark.alone
    def test_four_fast_answers_leave_the_page_quick_enough_to_stop_them(self, page, stub, stalls):
        page.locator("#pane-count").get_by_label("4").check()
        for pane in (1, 2, 3, 4):
            choose(page, pane, "fast")
        ask(page, "Count fast.")
        for pane in (1, 2, 3, 4):
            expect(answers(page, pane)).to_contain_text("word9")
        since = click(page, page.get_by_role("button", name="Stop all"))
        calls = [call for call in stub.calls if call.name == "fast"]
        assert len(calls) == 4
        assert seconds_to_end(calls, since, stalls) < PROMPT_S

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
        expect(page.get_by_test_id("toast-body")).to_contain_text("Pane 1 has no finished answer yet.")

    def test_the_prompt_is_shown_as_the_model_read_it(self, page, stub):
        ask_and_wait(page, "What is read?")
        first = answers(page, 1).inner_text().strip()
        unfold(page, "Where does an answer come from")
        page.get_by_role("button", name="Show the rendered prompt").click()
        alone = turn("system", "Be brief.") + turn("user", "What is read?") + "<|im_start|>assistant\n"
        expect(page.get_by_label("Rendered prompt")).to_have_value(alone)

        page.get_by_label("Send the earlier turns along").check()
        ask_and_wait(page, "And now?")
        sent = stub.last(BASE).body["messages"]
        assert sent == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is read?"},
            {"role": "assistant", "content": first},
            {"role": "user", "content": "And now?"},
        ]
        both = "".join(turn(message["role"], message["content"]) for message in sent)
        page.get_by_label("Send the earlier turns along").uncheck()
        choose(page, 1, ADAPTER)  # what is chosen now is not what was asked
        page.get_by_role("button", name="Show the rendered prompt").click()
        expect(page.get_by_label("Rendered prompt")).to_have_value(f"{both}<|im_start|>assistant\n")

    def test_an_earlier_turn_is_sent_only_where_that_was_asked_for(self, page, stub):
        ask_and_wait(page, "One?")
        ask_and_wait(page, "Two?")
        for model in (BASE, ADAPTER):
            assert [message["content"] for message in stub.last(model).body["messages"]] == [
                "Be brief.",
                "Two?",
            ]

    def test_asking_again_takes_another_seed_and_replaces_only_that_answer(self, page, stub, site):
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
        (kept,) = site.history.load_conversation(site.history.list_conversations()[0].id).turns
        greedy, anew = (answer.settings for answer in kept.answers if answer.model == ADAPTER)
        assert (greedy["temperature"], greedy["seed"]) == (0.0, 0)
        assert anew["temperature"] == stub.last(ADAPTER).body["temperature"]
        assert anew["seed"] == stub.last(ADAPTER).body["seed"]
        expect(notes(page, 2)).to_contain_text(f"temperature 0.7, seed {anew['seed']}")

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


class TestWhereItComesFrom:
    def test_similar_text_is_of_the_model_that_answered_whichever_is_chosen_now(self, page, site):
        run = site.root / "build" / "run"
        (run / "chunks").mkdir(parents=True)
        passage = "The ferry leaves at seven from the quay."
        write_rows(run / "chunks" / "chunks.jsonl", make_chunks("# Ferry", passage, path="ferry.md"))
        ask_and_wait(page, "When does the ferry leave the quay?")
        choose(page, 2, BASE)
        unfold(page, "Where does an answer come from")
        part = page.get_by_role("group", name="Of pane", exact=True)
        part.get_by_label("2").check()
        page.get_by_role("button", name="Show similar training rows").click()
        expect(page.locator("#sources p")).to_have_text(
            "Similar texts found in what tolvane was trained on: 1."
        )
        expect(page.locator("#sources")).to_contain_text("similar text, not a citation")
        expect(page.locator("#sources")).to_contain_text(passage)
        part.get_by_label("1").check()
        page.get_by_role("button", name="Show similar training rows").click()
        expect(page.locator("#sources p")).to_contain_text(f"{BASE}, which answered, was not trained here")


class TestLibrary:
    def test_two_entries_are_compared_and_one_is_downloaded(self, page, site):
        write_root(site.root)
        open_tab(page, "Library")
        page.get_by_role("button", name="Refresh").click()
        chosen = page.get_by_role("group", name="Second").get_by_role("radio", checked=True)
        expect(chosen).to_have_count(
            1
        )  # what Refresh chooses comes first, and would come over what is chosen here
        page.get_by_role("group", name="First").get_by_label(ONE).check()
        page.get_by_role("group", name="Second").get_by_label(TWO).check()
        page.get_by_role("button", name="Compare", exact=True).click()
        expect(page.get_by_text("+30.0 points, significant")).to_be_visible()

        page.get_by_role("group", name="Details of").get_by_label(ONE).check()
        link = page.get_by_role("link", name="Download as one file")
        expect(link).to_have_attribute("href", re.compile("one%2Fbundle"))
        with page.expect_download() as download:
            link.click()
        assert download.value.suggested_filename == "one.tar"
        with tarfile.open(download.value.path()) as archive:
            assert {"one/manifest.json", "one/model-Q8_0.gguf"} <= set(archive.getnames())


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
            expect(status(page, pane)).to_have_text("From the history.")
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
            assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
            assert row["messages"][1]["content"] == "Will you stay?"
