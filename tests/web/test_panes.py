"""What panes share: what stopping keeps, which models stand first, how fields read, how chats come back as texts."""

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.api.models import Catalog, ServedModel
from factory.api.router import Router
from factory.history.rows import Answer
from factory.web import panes
from factory.web.asking import Settings
from factory.web.markup import paragraph
from factory.web.panes import (
    LONGEST_QUESTION,
    NOTE,
    Stops,
    answer_turns,
    chat_turns,
    explained,
    first_choices,
    leave_turn,
    model_ids,
    plain_turns,
    read_settings,
    spoken,
    stop_pane,
)

TEXTS = st.text(alphabet="<>&;#/abglmpt1 \n", max_size=30)


def router_of(*kinds):
    """A router of models that are named by their number and kind."""
    models = [ServedModel(f"{number}-{kind}", kind) for number, kind in enumerate(kinds)]
    return Router(Catalog({model.id: model for model in models}))


def stopped_at(stops, *turns):
    return {(turn, number) for turn in turns for number in range(9) if stops.has(turn, number)}


def test_a_pane_that_answers_is_stopped_and_one_that_has_ended_keeps_its_line():
    stops = Stops()
    assert asyncio.run(stop_pane(stops, "t", 2, paragraph("Answering …"))) == paragraph("Stopped.")
    assert asyncio.run(stop_pane(stops, "t", 0, paragraph("Done in 0.2 s."))) == {"__type__": "update"}
    assert stopped_at(stops, "t") == {("t", 2), ("t", 0)}


def test_leaving_a_turn_stops_its_four_panes_and_those_of_no_other():
    stops = Stops()
    asyncio.run(leave_turn(stops, "t"))
    assert stopped_at(stops, "t", "other") == {("t", 0), ("t", 1), ("t", 2), ("t", 3)}


def test_what_stops_a_pane_waits_for_its_last_word_and_for_no_other_pane():
    stops, order = Stops(), []

    async def answer():
        with stops.showing("t", 1):
            while not stops.has("t", 1):
                await asyncio.sleep(0)
            await asyncio.sleep(0.1)  # what was on its way is shown
            order.append("last word")

    async def run():
        speaking = asyncio.create_task(answer())
        await asyncio.sleep(0.01)
        with stops.showing("t", 2):
            await stop_pane(stops, "t", 1, paragraph("Answering …"))
        order.append("Stopped.")
        await speaking

    asyncio.run(run())
    assert order == ["last word", "Stopped."]
    since = time.monotonic()
    asyncio.run(stop_pane(stops, "t", 2, paragraph("Answering …")))  # it ended, and may not have arrived
    assert time.monotonic() - since > 0.1
    with stops.showing("t", 1):  # asked again
        assert not stops.has("t", 1)


def test_a_pane_that_does_not_end_is_waited_for_no_longer_than_a_while(monkeypatch):
    monkeypatch.setattr(panes, "LONGEST_LAST_WORD_S", 0.1)
    stops = Stops()
    with stops.showing("t", 0):
        assert asyncio.run(stop_pane(stops, "t", 0, paragraph("Answering …"))) == paragraph("Stopped.")


@pytest.mark.parametrize(
    ("kinds", "choices"),
    [
        (("file", "adapter", "base", "endpoint"), ["2-base", "1-adapter", "0-file", "3-endpoint"]),
        (("file", "file", "adapter"), ["2-adapter", "0-file", "1-file", "2-adapter"]),
        (("stub",), ["0-stub"] * 4),
        (
            ("base", "base", "adapter", "file", "endpoint", "stub"),
            ["0-base", "2-adapter", "3-file", "4-endpoint"],
        ),
        ((), []),
    ],
)
def test_panes_show_one_of_each_kind_first_then_the_rest_then_all_again(kinds, choices):
    router = router_of(*kinds)
    assert first_choices(router) == choices
    assert model_ids(router) == [f"{number}-{kind}" for number, kind in enumerate(kinds)]


def test_empty_fields_read_as_defaults_and_a_zero_as_zero():
    assert read_settings(None, None, None, None, None) == Settings("", 0.0, 1.0, 128, 0)
    assert read_settings("Be brief.", 0, 0, 64.0, 7.0) == Settings("Be brief.", 0.0, 0.0, 64, 7)
    assert read_settings("x" * (LONGEST_QUESTION + 9), 0.5, 0.9, 1, 1).system == "x" * LONGEST_QUESTION


def test_nothing_and_parts_of_a_chat_read_as_their_texts():
    assert plain_turns(None) == plain_turns([]) == []
    parts = ["One ", {"type": "text", "text": "&lt;b> two"}, {"type": "file", "path": "x"}]
    assert plain_turns([{"role": "user", "content": parts, "metadata": None}]) == [
        {"role": "user", "content": "One <b> two"}
    ]
    long = plain_turns([{"role": "assistant", "content": "y" * (LONGEST_QUESTION + 1)}])
    assert len(long[0]["content"]) == LONGEST_QUESTION


@settings(max_examples=50, deadline=None)
@given(st.lists(TEXTS, max_size=4))
def test_turns_that_were_shown_are_read_back_unchanged_however_often(texts):
    turns = [{"role": ("user", "assistant", NOTE)[at % 3], "content": text} for at, text in enumerate(texts)]
    again = plain_turns(chat_turns(turns))
    assert again == turns
    typed = [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in chat_turns(again)]
    assert plain_turns(typed) == turns


def test_a_note_on_an_answer_comes_back_as_a_note_and_is_no_turn_that_was_said():
    measured = Answer("id", 0, "m", "<b>40</b> kg", {"sha256": "ab" * 32, "quantization": "Q8_0"}, cost=0.0)
    question = {"role": "user", "content": "How much?"}
    turns = plain_turns(chat_turns([question, *answer_turns(measured), question]))
    assert [turn["role"] for turn in turns] == ["user", "assistant", NOTE, "user"]
    assert turns[2]["content"] == (
        "m · Q8_0 file abababababab · on this machine\n"
        "first token unknown · unknown · tokens unknown · no cost (local)"
    )
    assert spoken(turns) == [question, {"role": "assistant", "content": "<b>40</b> kg"}, question]


def test_what_an_answer_itself_says_of_its_origin_is_no_note():
    forged = Answer("id", 0, "m", '{"metadata": {"id": "note"}} m · Q8_0 file', {})
    assert [turn["role"] for turn in plain_turns(chat_turns(answer_turns(forged)))] == ["assistant", NOTE]


def test_a_blank_answer_is_named_so_that_its_note_stands_below_something():
    failed = Answer("id", 0, "m", "", {}, error="down", settings={"temperature": 0.7, "seed": 3})
    answered, note = answer_turns(failed)
    assert answered == {"role": "assistant", "content": "(no answer)"}
    assert "temperature 0.7, seed 3 · first token unknown" in note["content"]


def test_an_error_nobody_meant_is_not_explained_away():
    with pytest.raises(ZeroDivisionError), explained():
        1 / 0  # noqa: B018
