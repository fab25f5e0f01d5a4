"""What a conversation from the history shows in the panes, and when there is no similar text to show."""

from factory.api.models import Catalog, ServedModel
from factory.api.router import Router
from factory.history.rows import Answer, Conversation, Exchange, Turn
from factory.rows import write_rows
from factory.web.markup import paragraph
from factory.web.pane_panels import kept_lines, pane_chats, pane_models, similar_html, who_answered
from factory.web.panes import NOTE, spoken
from factory.web.similar import LABEL
from tests.made import make_chunks

QUESTION = "Which code opens it?"
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
    assert [turn["role"] for turn in chats[0]] == ["user", "assistant", NOTE] * 2
    assert spoken(chats[0]) == [
        {"role": "user", "content": "Q1?"},
        {"role": "assistant", "content": "new"},
        {"role": "user", "content": "Q2?"},
        {"role": "assistant", "content": "(no answer)"},
    ]
    assert [turn["content"] for turn in spoken(chats[2])] == ["Q1?", "two"]
    assert (len(chats), chats[1], chats[3]) == (4, [], [])


def test_every_answer_has_a_note_on_who_gave_it_also_one_that_another_model_gave_in_its_place():
    measured = {
        "ttft_s": 0.254,
        "tokens_per_s": 61.5,
        "prompt_tokens": 12,
        "completion_tokens": 3,
        "cost": 0.0,
    }
    own = answer(1, identity=IDENTITY, settings={"temperature": 0.0}, **measured)
    away = {"kind": "endpoint", "endpoint": "https://afar.example/v1", "endpoint_model": "big"}
    other = answer(1, model="afar", identity=away, instead_of="tuned")
    notes = [
        turn["content"] for turn in pane_chats(conversation((own,), (other,)))[1] if turn["role"] == NOTE
    ]
    assert notes == [
        f"tuned · Q8_0 file {'ab' * 6} + adapter {'cd' * 6} · base tiny · on this machine\n"
        "greedy · first token 0.25 s · 62 tokens/s · 12 read + 3 written · no cost (local)",
        "Stand-in for tuned: afar · big at https://afar.example/v1 · leaves this machine\n"
        "first token unknown · unknown · tokens unknown · cost unknown",
    ]


def test_the_lines_say_how_the_last_answer_of_each_pane_ended():
    lines = kept_lines(conversation((answer(0),), (answer(1), answer(3, "", error="the endpoint is down"))))
    assert lines[:2] == [paragraph("Ready."), None]
    assert lines[2:4] == [paragraph("From the history."), "1-0"]
    assert lines[6:] == [paragraph("Failed: the endpoint is down"), "3-0"]


def test_a_conversation_without_turns_leaves_every_pane_ready():
    assert kept_lines(conversation()) == [paragraph("Ready."), None] * 4
    assert pane_chats(conversation()) == [[], [], [], []]


def test_a_pane_gets_the_last_model_it_answered_with_that_is_still_served():
    router = router_of(ServedModel("base", "base"), ServedModel("tuned", "adapter"))
    turns = [
        (answer(0, model="base"), answer(1, model="tuned"), answer(2, model="gone")),
        (answer(0, model="tuned"), answer(1, model="gone"), answer(9, model="base")),
    ]
    assert pane_models(conversation(*turns), router) == ["tuned", "tuned", None, None]


def served(name, bundle=None, **digests):
    """A model and an exchange with it."""
    model = ServedModel(name, "adapter", bundle=bundle, **digests)
    return model, Exchange(QUESTION, answer(0, "4711", name, identity={"model": name, **model.provenance}))


def test_similar_text_is_looked_for_in_what_the_model_that_answered_was_trained_on(tmp_path):
    base, asked = served("base")
    assert "base, which answered, was not trained here" in similar_html(router_of(base), asked)
    assert "base, which answered, is not served any more" in similar_html(router_of(), asked)


def test_a_model_that_was_made_anew_under_the_same_name_is_not_the_one_that_answered():
    old, asked = served("tuned", sha256="a" * 64, adapter_sha256="b" * 64)
    anew, _ = served("tuned", sha256="a" * 64, adapter_sha256="c" * 64)
    assert who_answered(router_of(old), asked.answer) is old
    assert who_answered(router_of(anew), asked.answer) is None
    assert who_answered(router_of(), asked.answer) is None


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
    model, asked = served("tuned", bundle=tmp_path / "bundle")
    shown = similar_html(router_of(ServedModel("base", "base"), model), asked)
    assert shown.startswith(paragraph("Similar texts found in what tuned was trained on: 1."))
    assert f"<caption>{LABEL}</caption>" in shown
    assert '<th scope="row">passage</th><td>gates.md</td>' in shown
    assert "The &lt;code&gt; of the north gate" in shown
    assert "pump.md" not in shown
