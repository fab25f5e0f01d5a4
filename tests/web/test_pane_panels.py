"""What a conversation from the history shows in the panes, and when there is no similar text to show."""

import pytest

from factory.api.errors import UnknownModelError
from factory.api.models import Catalog, ServedModel
from factory.api.router import Router
from factory.history.rows import Answer, Conversation, Turn
from factory.rows import write_rows
from factory.web.markup import paragraph
from factory.web.pane_panels import kept_lines, pane_chats, pane_models, similar_html
from factory.web.similar import LABEL
from tests.made import make_chunks

TURNS = [{"role": "user", "content": "Which code opens it?"}, {"role": "assistant", "content": "4711"}]
IDENTITY = {"quantization": "Q8_0", "base": "tiny", "sha256": "ab" * 32, "adapter_sha256": "cd" * 32}


def answer(pane, text="40 kg", model="tuned", number=0, **values):
    return Answer(f"{pane}-{number}", pane, model, text, values.pop("identity", {}), **values)


def conversation(*turns):
    """A conversation of prompts with their answers."""
    made = [Turn(f"t{at}", at, f"Q{at}?", "", {}, 0.0, answers) for at, answers in enumerate(turns, 1)]
    return Conversation("c", 0.0, None, None, tuple(made))


def router_of(*models):
    return Router(Catalog({model.id: model for model in models}))


def test_each_pane_shows_the_questions_it_answered_with_its_last_answers():
    first = (answer(0, "old"), answer(2, "two"), answer(0, "new", number=1))
    chats = pane_chats(conversation(first, (answer(0, ""), answer(7, "of a pane there is not"))))
    assert chats[0] == [
        {"role": "user", "content": "Q1?"},
        {"role": "assistant", "content": "new"},
        {"role": "user", "content": "Q2?"},
        {"role": "assistant", "content": "(no answer)"},
    ]
    assert [turn["content"] for turn in chats[2]] == ["Q1?", "two"]
    assert (len(chats), chats[1], chats[3]) == (4, [], [])


def test_the_lines_say_who_answered_last_what_was_measured_and_why_it_failed():
    measured = answer(
        1, identity=IDENTITY, ttft_s=0.254, tokens_per_s=61.5, prompt_tokens=12, completion_tokens=3, cost=0.0
    )
    lines = kept_lines(conversation((answer(0),), (measured, answer(3, "", error="the endpoint is down"))))
    assert lines[:3] == [paragraph(""), paragraph("Ready."), None]
    assert lines[3:6] == [
        paragraph(f"tuned · Q8_0 file {'ab' * 6} + adapter {'cd' * 6} · base tiny · on this machine"),
        paragraph(
            "From the history · first token 0.25 s · 62 tokens/s · 12 read + 3 written · no cost (local)"
        ),
        "1-0",
    ]
    assert lines[9:] == [
        paragraph("tuned · file unknown · on this machine"),
        paragraph("Failed: the endpoint is down"),
        "3-0",
    ]


def test_a_conversation_without_turns_leaves_every_pane_ready():
    assert kept_lines(conversation()) == [paragraph(""), paragraph("Ready."), None] * 4
    assert pane_chats(conversation()) == [[], [], [], []]


def test_a_pane_gets_the_last_model_it_answered_with_that_is_still_served():
    router = router_of(ServedModel("base", "base"), ServedModel("tuned", "adapter"))
    turns = [
        (answer(0, model="base"), answer(1, model="tuned"), answer(2, model="gone")),
        (answer(0, model="tuned"), answer(1, model="gone"), answer(9, model="base")),
    ]
    assert pane_models(conversation(*turns), router) == ["tuned", "tuned", None, None]


def test_similar_text_needs_a_trained_model_and_an_answer(tmp_path):
    router = router_of(
        ServedModel("base", "base"), ServedModel("tuned", "adapter", bundle=tmp_path / "bundle")
    )
    nothing = paragraph(
        "There is nothing to look in: choose a pane with a trained model and a finished answer."
    )
    assert similar_html(router, "base", TURNS) == similar_html(router, "tuned", TURNS[:1]) == nothing
    with pytest.raises(UnknownModelError, match="'gone'"):
        similar_html(router, "gone", TURNS)


def test_a_passage_of_the_run_is_shown_under_a_label_that_claims_no_origin(tmp_path):
    for folder in ("dataset", "chunks", "bundle"):
        (tmp_path / folder).mkdir()
    for name in ("train", "facts"):
        (tmp_path / "dataset" / f"{name}.jsonl").touch()
    passages = [
        *make_chunks("# Gates", "The <code> of the north gate is 4711.", title="Site book", path="gates.md"),
        *make_chunks("# Pressure", "The pump runs at 12 bar.", title="Pump manual", path="pump.md"),
        *make_chunks("# Leave", "You have 27 days a year.", title="Leave policy", path="leave.md"),
    ]
    write_rows(tmp_path / "chunks/chunks.jsonl", passages)
    router = router_of(ServedModel("tuned", "adapter", bundle=tmp_path / "bundle"))
    shown = similar_html(router, "tuned", TURNS)
    assert shown.startswith(paragraph("Similar texts found: 1."))
    assert f"<caption>{LABEL}</caption>" in shown
    assert '<th scope="row">passage</th><td>gates.md</td>' in shown
    assert "The &lt;code&gt; of the north gate" in shown
    assert "pump.md" not in shown
