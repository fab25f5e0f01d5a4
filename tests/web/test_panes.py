"""What panes share: what stopping keeps, which models stand first, how fields read, how chats come back as texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.api.models import Catalog, ServedModel
from factory.api.router import Router
from factory.web.asking import Settings
from factory.web.markup import paragraph
from factory.web.panes import (
    LONGEST_QUESTION,
    chat_turns,
    explained,
    first_choices,
    leave_turn,
    model_ids,
    plain_turns,
    read_settings,
    stop_pane,
)

TEXTS = st.text(alphabet="<>&;#/abglmpt1 \n", max_size=30)


def router_of(*kinds):
    """A router of models that are named by their number and kind."""
    models = [ServedModel(f"{number}-{kind}", kind) for number, kind in enumerate(kinds)]
    return Router(Catalog({model.id: model for model in models}))


def test_a_pane_that_answers_is_stopped_and_one_that_has_ended_keeps_its_line():
    stopped = set()
    assert stop_pane(stopped, "t", 2, paragraph("Answering …")) == paragraph("Stopped.")
    assert stop_pane(stopped, "t", 0, paragraph("first token 0.20 s")) == {"__type__": "update"}
    assert stopped == {("t", 2), ("t", 0)}


def test_leaving_a_turn_stops_its_four_panes_and_those_of_no_other():
    stopped = {("other", 1)}
    leave_turn(stopped, "t")
    assert stopped == {("other", 1), ("t", 0), ("t", 1), ("t", 2), ("t", 3)}


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
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    again = plain_turns(chat_turns(turns))
    assert again == turns
    typed = [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in chat_turns(again)]
    assert plain_turns(typed) == turns


def test_an_error_nobody_meant_is_not_explained_away():
    with pytest.raises(ZeroDivisionError), explained():
        1 / 0  # noqa: B018
