"""Exports hold what was said, whatever it was: as JSON, as fenced Markdown, and as cells that are no formulas."""

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from factory.history.rows import Answer, Conversation, Turn
from factory.web.transcripts import COLUMNS, guard_cell, to_csv, to_jsonl, to_markdown

FEW = settings(max_examples=80, deadline=None)
TEXT = st.lists(
    st.sampled_from(
        ["=", "+1", "-", "@SUM", "\t", "\r\n", "\n", '"', ",", "`", "```", "~~~", "# ", "\u2028", "é"]
    )
    | st.text(max_size=6)
).map("".join)
RISKY = ("=", "+", "-", "@", "\t", "\r")


def answer(pane: int, text: str, number: int = 1, **values) -> Answer:
    identity = values.pop("identity", {"quantization": "Q8_0"})
    return Answer(f"id{pane}{number}", pane, f"model{pane}", text, identity, **values)


def asked(question: str, system: str = "") -> tuple[dict[str, str], ...]:
    head = [{"role": "system", "content": system}] if system else []
    return (*head, {"role": "user", "content": question})


def drawn_anew() -> Conversation:
    """A greedy answer, and one in its place that an endpoint gave, with another seed and system text."""
    first = answer(0, "1", settings={"temperature": 0.0, "seed": 7}, sent=asked("One?", "Be short."))
    away = {
        "kind": "endpoint",
        "where": "endpoint",
        "endpoint": "https://afar.example/v1",
        "endpoint_model": "big",
    }
    more = {"identity": away, "instead_of": "tuned", "settings": {"temperature": 0.7, "seed": 4711}}
    sent = (*asked("Zero?", "Be long."), {"role": "assistant", "content": "0"}, *asked("One?"))
    return conversation(turn(1, "One?", first, answer(0, "uno", 2, sent=sent, **more)))


def turn(number: int, prompt: str, *answers: Answer, system: str = "Be short.") -> Turn:
    return Turn(f"turn{number}", number, prompt, system, {"seed": 7}, 1_700_000_000.0, answers)


def conversation(*turns: Turn) -> Conversation:
    return Conversation("c1", 1_700_000_000.0, "c0", "turn9", turns)


def test_jsonl_has_a_thread_for_each_pane_with_where_it_comes_from() -> None:
    talk = conversation(
        turn(1, "One?", answer(1, "1"), answer(2, "uno"), answer(1, "1 again", 9)),
        turn(2, "Two?", answer(1, "2", 2), answer(2, "", 2, error="down")),
    )
    first, second = map(json.loads, to_jsonl([talk]).splitlines())
    assert first["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1 again"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "2"},
    ]
    assert [row["response_id"] for row in first["provenance"]["responses"]] == ["id19", "id12"]
    assert first["provenance"]["responses"][0]["identity"] == {"quantization": "Q8_0"}
    assert (first["provenance"]["parent"], first["provenance"]["created"]) == (
        "c0",
        "2023-11-14T22:13:20+00:00",
    )
    assert [message["content"] for message in second["messages"]] == ["Be short.", "One?", "uno"]


def test_a_system_message_stands_where_the_text_changes() -> None:
    talk = conversation(
        turn(1, "a", answer(1, "b"), system=""),
        turn(2, "c", answer(1, "d", 2), system="New."),
        turn(3, "e", answer(1, "f", 3), system="New."),
    )
    (row,) = map(json.loads, to_jsonl([talk]).splitlines())
    assert "".join(message["role"][0] for message in row["messages"]) == "uasuaua"


def test_conversations_without_answers_leave_no_line() -> None:
    assert to_jsonl([conversation(turn(1, "One?"))]) == to_jsonl([]) == to_markdown([]) == ""


def test_jsonl_says_what_an_answer_was_really_drawn_with_and_who_stood_in() -> None:
    (row,) = map(json.loads, to_jsonl([drawn_anew()]).splitlines())
    assert [message["content"] for message in row["messages"]] == ["Be long.", "One?", "uno"]
    (source,) = row["provenance"]["responses"]
    assert source["settings"] == {"temperature": 0.7, "seed": 4711}
    assert (source["instead_of"], source["identity"]["endpoint"]) == ("tuned", "https://afar.example/v1")
    assert [message["content"] for message in source["sent"]] == ["Be long.", "Zero?", "0", "One?"]


def test_csv_has_the_settings_and_the_system_text_of_each_answer() -> None:
    first, second = csv.DictReader(io.StringIO(to_csv([drawn_anew()]), newline=""))
    assert [json.loads(row["settings"])["seed"] for row in (first, second)] == [7, 4711]
    assert [row["system"] for row in (first, second)] == ["Be short.", "Be long."]
    assert [row["instead_of"] for row in (first, second)] == ["", "tuned"]
    assert json.loads(second["identity"])["endpoint"] == "https://afar.example/v1"
    assert [len(json.loads(row["sent"])) for row in (first, second)] == [2, 4]


def test_markdown_says_below_each_answer_who_gave_it_and_how_it_was_drawn() -> None:
    page = to_markdown([drawn_anew()])
    one, two = page.split("### ")[1:]
    assert '`{"temperature": 0.0, "seed": 7}`' in one
    assert "System text of this answer" not in one
    assert '`{"temperature": 0.7, "seed": 4711}` · earlier messages sent along 2' in two
    assert "`Stand-in for tuned: model0 · big at https://afar.example/v1 · leaves this machine`" in two
    assert "System text of this answer:\n\n```text\nBe long.\n```" in two
    assert "settings `unknown`" in to_markdown([conversation(turn(1, "?", answer(0, "x")))])


@FEW
@given(TEXT, TEXT)
def test_jsonl_gives_every_text_back(prompt: str, text: str) -> None:
    lines = to_jsonl([conversation(turn(1, prompt, answer(1, text)))]).split("\n")
    assert lines.pop() == ""
    messages = [message for line in lines for message in json.loads(line)["messages"]]
    assert [message["content"] for message in messages[1:]] == ([prompt, text] if text else [])


@FEW
@given(TEXT, TEXT)
def test_markdown_renders_nothing_that_was_said(prompt: str, text: str) -> None:
    page = to_markdown([conversation(turn(1, prompt, answer(1, text), system=""))])
    tokens = MarkdownIt("commonmark").parse(page)
    fences = [token.content for token in tokens if token.type == "fence"]
    lines = [f"{part}\n".replace("\r\n", "\n").replace("\r", "\n") for part in (prompt, text)]
    assert fences == [line.replace("\0", "\ufffd") for line in lines]
    headings = [
        tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"
    ]
    assert headings == ["Conversation of 2023-11-14T22:13:20+00:00", "Question 1", "Pane 1: `model1`"]
    assert not [token for token in tokens if token.type == "html_block"]


@FEW
@given(TEXT)
def test_names_and_errors_stay_on_their_line_of_markdown(text: str) -> None:
    spoken = Answer("id", 1, text, "x", {}, error=text)
    tokens = MarkdownIt("commonmark").parse(to_markdown([conversation(turn(1, "?", spoken))]))
    kinds = {child.type for token in tokens for child in token.children or []}
    assert kinds <= {"text", "code_inline"}


@FEW
@given(TEXT, TEXT)
def test_csv_gives_cells_back_of_which_none_is_a_formula(prompt: str, text: str) -> None:
    shown = answer(1, text, finish_reason=text, error=prompt)
    rows = list(csv.reader(io.StringIO(to_csv([conversation(turn(1, prompt, shown))]), newline="")))
    assert rows[0] == list(COLUMNS)
    cells = dict(zip(COLUMNS, rows[1], strict=True))
    assert len(rows) == 2
    assert cells["prompt"] in {prompt, f"'{prompt}"}
    assert cells["answer"] in {text, f"'{text}"}
    for cell in rows[1]:
        assert not cell.startswith(RISKY)
        assert not cell.lstrip().startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1", "\tx"])
def test_a_cell_that_a_spreadsheet_could_run_is_guarded(cell: str) -> None:
    assert guard_cell(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "1+1", "a=b", "40 kg", -0.5, 3, "'=1"])
def test_other_cells_and_numbers_stay(cell) -> None:
    assert guard_cell(cell) == cell


def test_unknown_numbers_say_so_and_zero_is_zero() -> None:
    text = to_csv(
        [conversation(turn(1, "?", answer(1, "x", cost=0.0, ttft_s=0.5), answer(2, "y")), turn(2, "!"))]
    )
    first, second, unanswered = csv.DictReader(io.StringIO(text, newline=""))
    assert (first["cost"], first["ttft_s"], first["prompt_tokens"]) == ("0.0", "0.5", "unknown")
    assert second["cost"] == "unknown"
    assert (unanswered["prompt"], unanswered["answer"], unanswered["cost"]) == ("!", "", "")
