"""What stands in for an endpoint repeats the question in the shape of the route, whole or in pieces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.api.stub import stub_answer, stub_chunks, stub_text

SAID = "This is a stub, not a model: no key for an endpoint is set. It was asked: "


def chat(*contents):
    return {"messages": [{"role": "user", "content": content} for content in contents]}


@pytest.mark.parametrize(
    ("body", "repeated"),
    [
        (chat("Hello", "Who\n keeps  it?"), "Who keeps it?"),
        ({"prompt": "def f("}, "def f("),
        (chat("{question} {0} {x!r}"), "{question} {0} {x!r}"),
        (
            chat(" ".join(f"w{number}" for number in range(40))),
            " ".join(f"w{number}" for number in range(30)),
        ),
        ({}, ""),
    ],
)
def test_the_last_turn_is_repeated_in_its_first_thirty_words(body, repeated):
    assert stub_text(body) == SAID + repeated


def test_a_chat_gets_a_message_and_a_completion_a_text():
    said = stub_answer(chat("Hi"))
    assert said["object"] == "chat.completion"
    assert said["choices"] == [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": SAID + "Hi"}}
    ]
    completed = stub_answer({"prompt": "Hi"})
    assert completed["object"] == "text_completion"
    assert completed["choices"] == [{"index": 0, "finish_reason": "stop", "text": SAID + "Hi"}]
    assert said["usage"] == completed["usage"] == dict.fromkeys(said["usage"], 0)


def test_a_stream_names_the_role_once_ends_once_and_closes_with_the_usage():
    *pieces, end, usage = stub_chunks(chat("Who keeps it?"))
    deltas = [piece["choices"][0]["delta"] for piece in pieces]
    assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert [piece["choices"][0]["finish_reason"] for piece in [*pieces, end]] == [None] * len(pieces) + [
        "stop"
    ]
    assert end["choices"][0]["delta"] == {"content": ""}
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 0)
    assert {piece["object"] for piece in [*pieces, end, usage]} == {"chat.completion.chunk"}


@settings(max_examples=50)
@given(st.text(max_size=60))
def test_the_pieces_of_either_route_make_the_whole_answer(question):
    deltas = [choice["delta"] for piece in stub_chunks(chat(question)) for choice in piece["choices"]]
    whole = stub_answer(chat(question))["choices"][0]["message"]["content"]
    assert "".join(delta["content"] for delta in deltas) == whole
    texts = [choice["text"] for piece in stub_chunks({"prompt": question}) for choice in piece["choices"]]
    assert "".join(texts) == stub_answer({"prompt": question})["choices"][0]["text"] == whole
