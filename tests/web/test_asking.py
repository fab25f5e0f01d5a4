import asyncio
import time
from contextlib import aclosing
from itertools import pairwise

import pytest

from factory.api.errors import UnknownModelError
from factory.api.models import EndpointSpec, ServedModel, endpoint_model, stub_model
from factory.api.router import Attempt
from factory.history.rows import Answer
from factory.web.asking import Progress, Settings, ask, drawn, identity_line, stats
from tests.api.served import FakeUpstream, chunk, drips, fake_router, stub_router

TURNS = [{"role": "user", "content": "Who keeps the gate?"}]
PLAIN = Settings()
MODEL = ServedModel(
    "m", "adapter", sha256="a" * 64, adapter_sha256="b" * 64, base="tiny", quantization="Q8_0"
)


def _ask(router, model, turns=TURNS, settings=PLAIN, most=None):
    """Return the texts as they grew and the last progress; leave after `most` steps."""

    async def run():
        texts, progress = [], None
        try:
            async with aclosing(ask(router, model, turns, settings, 1)) as steps:
                async for progress in steps:
                    texts.append(progress.text)
                    if len(texts) == most:
                        break
        finally:
            await router.close()
        return texts, progress

    return asyncio.run(run())


def test_an_answer_grows_to_its_end():
    texts, progress = _ask(stub_router(), "stub-endpoint")
    answer = progress.answer()

    assert len(texts) > 5
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert answer.text == texts[-1].strip()
    assert answer.text.endswith("Who keeps the gate?")
    assert (answer.pane, answer.model, answer.finish_reason, answer.error) == (
        1,
        "stub-endpoint",
        "stop",
        None,
    )
    assert progress.ttft_s is not None
    assert 0 <= progress.ttft_s <= progress.seconds
    assert answer.ttft_s == pytest.approx(progress.ttft_s, abs=1e-3)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.tokens_per_s) == (0, 0, None)


def test_the_shared_settings_reach_the_engine():
    def answers(handler, body):
        handler.begin(kind="text/event-stream")
        handler.wfile.write(chunk("x", timings={"predicted_per_second": 12.34}) + b"data: [DONE]\n\n")

    settings = Settings("Be brief.", 0.5, 0.9, 7, seed=3)
    with FakeUpstream(answers) as engine:
        _, progress = _ask(fake_router(engine.url), "slow", settings=settings)
        ((_, headers, body),) = engine.seen

    assert body["messages"] == [{"role": "system", "content": "Be brief."}, *TURNS]
    sent = {name: body[name] for name in ("temperature", "top_p", "max_tokens", "seed", "lora")}
    assert sent == {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3, "lora": []}
    assert headers["Authorization"] == "Bearer engine-key"
    assert progress.tokens_per_s() == 12.3
    answer = progress.answer()
    assert (list(answer.sent), answer.system) == (body["messages"], "Be brief.")
    kept = {name: value for name, value in answer.settings.items() if name != "stop"}
    assert kept == {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3}
    assert drawn(answer) == "temperature 0.5, seed 3"


def test_leaving_stops_the_engine_within_half_a_second_and_keeps_what_was_said():
    with FakeUpstream(drips) as engine:
        _, progress = _ask(fake_router(engine.url), "slow", most=3)
        left = time.monotonic()
        while not engine.closed and time.monotonic() < left + 2:
            time.sleep(0.01)
        assert engine.closed[0] - left < 0.5

    assert progress.answer().text == "word word word"
    assert progress.answer().finish_reason is None


@pytest.mark.parametrize(
    ("turns", "settings", "reason"),
    [
        ([], Settings(), "messages"),
        ([{"role": "user", "content": 1}], Settings(), "messages"),
        (TURNS, Settings(temperature=9.0), "temperature"),
        (TURNS, Settings(max_tokens=0), "max_tokens"),
        (TURNS, Settings(temperature=float("nan")), "temperature"),
    ],
)
def test_what_a_browser_sends_is_checked_as_over_the_api(turns, settings, reason):
    texts, progress = _ask(stub_router(), "stub-endpoint", turns, settings)

    assert texts == [""]
    assert progress.error.startswith(reason)
    assert progress.answer().error == progress.error


def test_an_engine_that_breaks_off_leaves_its_half_answer_and_the_reason():
    def breaks(handler, body):
        handler.begin(kind="text/event-stream")
        handler.wfile.write(chunk("half "))

    with FakeUpstream(breaks) as engine:
        _, progress = _ask(fake_router(engine.url), "slow")
    assert progress.answer().text == "half"
    assert "broke off" in progress.error


def test_a_model_that_is_not_served_is_named():
    with pytest.raises(UnknownModelError, match="'ghost' is not served here"):
        _ask(stub_router(), "ghost")


def test_an_answers_identity_says_which_bytes_and_where():
    away = endpoint_model(EndpointSpec("afar", "https://afar.example/v1", "big"))
    stand_in = Progress(0, MODEL, attempt=Attempt(away, "m"))

    own = {"model": "m", "where": "local", "kind": "adapter", "base": "tiny", "quantization": "Q8_0"}
    own |= {"sha256": "a" * 64, "adapter_sha256": "b" * 64}
    assert Progress(0, MODEL).answer().identity == own
    assert stand_in.answer().identity["endpoint"] == "https://afar.example/v1"
    assert (stand_in.answer().cost, Progress(0, MODEL).answer().cost) == (None, 0.0)
    near = endpoint_model(EndpointSpec("near", "http://127.0.0.1:11434/v1", "llama3.2"))
    assert Progress(0, near).answer().cost == 0.0
    assert (stand_in.answer().instead_of, Progress(0, MODEL).answer().instead_of) == ("m", "")
    assert identity_line(stand_in.answer()) == (
        "Stand-in for m: afar · big at https://afar.example/v1 · leaves this machine"
    )
    file = f"Q8_0 file {'a' * 12} + adapter {'b' * 12}"
    assert identity_line(Progress(0, MODEL).answer()) == f"m · {file} · base tiny · on this machine"
    assert "a stub, not a model" in identity_line(Progress(0, stub_model()).answer())


def test_an_answer_that_is_no_more_than_its_name_says_that_its_file_is_unknown():
    bare = Answer("id", 0, "m", "", {})
    assert (identity_line(bare), drawn(bare)) == ("m · file unknown · on this machine", "")


def test_numbers_that_nobody_knows_read_unknown():
    assert (
        stats(Progress(0, MODEL).answer())
        == "first token unknown · unknown · tokens unknown · no cost (local)"
    )
    known = Progress(0, MODEL, ttft_s=0.5, seconds=2.5, usage={"prompt_tokens": 9, "completion_tokens": 40})
    assert stats(known.answer()) == "first token 0.50 s · 20 tokens/s · 9 read + 40 written · no cost (local)"
    assert Progress(0, MODEL, ttft_s=1.0, seconds=1.0, usage={"completion_tokens": 1}).tokens_per_s() is None
