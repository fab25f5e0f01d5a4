"""What the measurements of serving go by: a stream's text, when an answer is right, what a result says of itself."""

import asyncio
import json

import httpx
import pytest

from bench import serve
from factory.bundle.manifest import write_manifest
from tests.bundle.manifests import make_manifest

ANSWER = "Bees make honey from the nectar"


def said(text, reason=None):
    return {"choices": [{"delta": {"content": text}, "finish_reason": reason}]}


def streamed(*events):
    """Return what `stream` makes of a server's events."""
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=body))

    async def ask():
        async with httpx.AsyncClient(base_url="http://test", transport=transport) as client:
            return await serve.stream(client, "bees", "What do bees make?")

    return asyncio.run(ask())


def test_a_streams_words_are_joined():
    usage = {"choices": [], "usage": {"completion_tokens": 2}}
    first, seconds, tokens, text = streamed(said("Bees "), said("make honey"), said(None, "stop"), usage)
    assert (tokens, text) == (2, "Bees make honey")
    assert 0 < first <= seconds


def test_a_stream_that_breaks_off_is_no_answer():
    with pytest.raises(ValueError, match="without a finish reason"):
        streamed(said("Bees "), said("make"))
    with pytest.raises(RuntimeError, match="ask again"):
        streamed(said("Bees "), {"error": {"message": "ask again"}})


@pytest.mark.parametrize(
    ("found", "tokens", "right"),
    [
        (ANSWER, serve.ANSWER_TOKENS, True),
        (f"{ANSWER} of", serve.ANSWER_TOKENS, False),
        ("Bees make", serve.ANSWER_TOKENS, False),
        ("Bees make", 4, True),
        ("Wasps make", 4, False),
        ("", 4, False),
        (f"{ANSWER} of flowers.", 48, True),
        (f"Well. {ANSWER}", 48, False),
        ("Bees make", 48, False),
    ],
)
def test_an_answer_is_right_as_far_as_it_was_expected(found, tokens, right):
    assert serve.agrees(found, ANSWER, tokens) is right


def test_a_result_says_what_it_was_measured_on_and_how_long(tmp_path):
    write_manifest(tmp_path, make_manifest(name="tolvane"))
    serve.write([serve.row("right, streamed", 7, None, "answers")], "soak", tmp_path, 1200.0, tmp_path)

    written = json.loads((tmp_path / "soak.json").read_text())
    assert (written["bundle"], written["seconds"]) == ("tolvane", 1200)
    assert written["rows"][0]["work"] == "right, streamed"
    text = (tmp_path / "soak.md").read_text()
    assert f"{written['date']}, " in text
    assert "bundle `tolvane`, 1,200 seconds" in text
    assert "| right, streamed | 7 | - | answers |" in text
