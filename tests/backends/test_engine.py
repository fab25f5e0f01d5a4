import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from factory.backends import engine as engines
from factory.backends.engine import Address, Engine, EnginePool, EngineSpec, child_environment
from factory.errors import BackendError
from tests.tiny import make_tiny_base

SAYS = (
    "import json, sys; sys.stdin.readline(); print(json.dumps({'address': 'http://127.0.0.1:9'}), flush=True)"
)
STANDS_BY = (sys.executable, "-c", f"{SAYS}; sys.stdin.read()")
SECRETS = ("OPENAI_API_KEY", "HF_TOKEN", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "ADAPTER_FACTORY_CACHE")


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    return make_tiny_base(tmp_path_factory.mktemp("base")) / "base-F16.gguf"


def _spec(name="a.gguf"):
    return EngineSpec(Path(name))


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:  # it may end while this is read
        return False


def _gone(pid, seconds=8.0):
    end = time.monotonic() + seconds
    while _is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not _is_alive(pid)


async def _until(condition, seconds=8.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def _told(path):
    spec = {"model": str(path), "adapters": [], "num_ctx": 256, "parallel": 2, "threads": 1, "key": "right"}
    return json.dumps(spec).encode() + b"\n"


def test_a_real_engine_answers_with_its_own_key_only(tiny_file):
    async def run():
        engine = Engine(EngineSpec(tiny_file, (), 256, 2, 1))
        first, second = await asyncio.gather(engine.open(), engine.open())
        body = {"prompt": "Who keeps", "max_tokens": 2}
        async with httpx.AsyncClient(trust_env=False) as client:
            url, right = f"{first.url}/v1/completions", {"Authorization": f"Bearer {first.key}"}
            statuses = [(await client.post(url, json=body, headers=right)).status_code]
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                statuses.append((await client.post(url, json=body, headers=headers)).status_code)
            for path in ("/slots", "/props", "/metrics", "/lora-adapters"):
                statuses.append((await client.get(first.url + path)).status_code)
        pid = engine.pid
        await engine.close()
        return first, second, statuses, pid

    first, second, statuses, pid = asyncio.run(run())
    assert first == second
    assert first.url.startswith("http://127.0.0.1:")
    assert statuses == [200] + [401] * 6
    assert not _is_alive(pid)


def test_a_child_sees_no_key_of_the_user(monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, "secret-value")

    async def run():
        engine = Engine(_spec(), STANDS_BY)
        await engine.open()
        try:
            return Path(f"/proc/{engine.pid}/environ").read_bytes(), engine.pid
        finally:
            await engine.close()

    environment, _ = asyncio.run(run())
    assert b"secret-value" not in environment
    assert not set(SECRETS) & set(child_environment())
    names = [entry.split(b"=")[0].decode() for entry in environment.split(b"\0") if entry]
    assert not [name for name in names if "KEY" in name or "TOKEN" in name or "SECRET" in name]
    assert "PATH" in child_environment()


def test_the_key_of_an_engine_is_in_no_representation_and_no_argument(tiny_file):
    assert "hidden" not in repr(Address("http://127.0.0.1:1", "hidden"))


def test_the_child_ends_when_its_pipe_closes(tiny_file):
    command = [sys.executable, "-m", "factory.backends.engine_child"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=child_environment(), **pipes) as child:
        child.stdin.write(_told(tiny_file))
        child.stdin.flush()
        address = json.loads(child.stdout.readline())["address"]
        assert b"right" not in Path(f"/proc/{child.pid}/cmdline").read_bytes()
        assert httpx.get(f"{address}/health", trust_env=False).status_code == 200
        child.stdin.close()
        assert child.wait(5) == 0


def test_engines_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio\nfrom pathlib import Path\nfrom factory.backends.engine import Engine, EngineSpec\n"
        "async def main():\n"
        f"    engine = Engine(EngineSpec(Path('a')), {STANDS_BY!r})\n"
        "    await engine.open()\n    print(engine.pid, flush=True)\n    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, env=child_environment()
    ) as parent:
        pid = int(parent.stdout.readline())
        assert _is_alive(pid)
        parent.kill()
    assert _gone(pid)


def test_an_engine_that_dies_is_reported_and_started_again():
    codes = []

    async def run():
        engine = Engine(_spec(), STANDS_BY, on_death=codes.append)
        await engine.open()
        first = engine.pid
        os.kill(first, signal.SIGKILL)
        await engine.settle()
        await _until(lambda: engine.is_running and engine.pid != first)
        second = engine.pid
        await engine.close()
        return engine, first, second

    engine, first, second = asyncio.run(run())
    assert codes == [-9]
    assert engine.num_deaths == 1
    assert not engine.is_running
    assert engine.pid is None
    assert not _is_alive(first)
    assert not _is_alive(second)


def test_an_engine_that_keeps_dying_is_left_alone():
    command = (sys.executable, "-c", SAYS)  # ends right after it told its address

    async def run():
        engine = Engine(_spec("broken.gguf"), command)
        await engine.open()
        await _until(lambda: engine.num_deaths == engines.MAX_STARTS)
        await asyncio.sleep(0.05)
        try:
            await engine.open()
        finally:
            await engine.close()

    with pytest.raises(BackendError, match=r"broken\.gguf ended 5 times within 30 s: check the file"):
        asyncio.run(run())


@pytest.mark.parametrize(
    "command",
    [
        ("/bin/false",),
        ("/nowhere/llama",),
        (sys.executable, "-c", "print('not json')"),
        (sys.executable, "-c", "print('{}')"),
        (sys.executable, "-c", "print('[1]')"),
    ],
)
def test_a_child_that_does_not_introduce_itself_is_one_error(command):
    async def run():
        engine = Engine(_spec("broken.gguf"), command)
        with pytest.raises(BackendError, match=r"broken\.gguf did not start \(exit (None|0|1)\)") as caught:
            await engine.open()
        await engine.close()
        return engine.pid, str(caught.value)

    pid, message = asyncio.run(run())
    assert pid is None
    assert "\n" not in message


def test_a_child_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(engines, "START_TIMEOUT_S", 0.2)
    monkeypatch.setattr(engines, "STOP_TIMEOUT_S", 0.2)

    async def run():
        engine = Engine(_spec(), (sys.executable, "-c", "import time; time.sleep(60)"))
        with pytest.raises(BackendError, match=r"did not start \(exit -9\)"):
            await engine.open()

    asyncio.run(run())


def test_leaving_while_an_engine_starts_leaves_no_process():
    async def run():
        engine = Engine(_spec(), (sys.executable, "-c", "import time; time.sleep(60)"))
        asking = asyncio.create_task(engine.open())
        await _until(lambda: engine.pid)
        pid = engine.pid
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.to_thread(_gone, pid)
        await engine.close()
        return pid

    assert not _is_alive(asyncio.run(run()))


def test_a_pool_ends_the_engine_idle_for_longest_and_no_busy_one():
    one, two, three = (_spec(f"{name}.gguf") for name in "abc")

    async def run():
        pool = EnginePool(2, lambda spec: Engine(spec, STANDS_BY))
        running = []

        def names():
            return {engine.spec.model.stem for engine in pool.engines if engine.is_running}

        async with pool.use(one):
            async with pool.use(two):
                running.append(names())
            async with pool.use(three):  # `one` is busy, so `two` goes
                running.append(names())
        async with pool.use(two):  # `three` was used longer ago than `one`
            running.append(names())
        async with pool.use(one) as address, pool.use(one) as again:
            assert address == again
        await pool.close()
        return [*running, names()]

    assert asyncio.run(run()) == [{"a", "b"}, {"a", "c"}, {"a", "b"}, set()]


def test_a_pool_frees_an_engine_whose_request_failed():
    async def run():
        pool = EnginePool(1, lambda spec: Engine(spec, STANDS_BY))
        for spec in (_spec("a.gguf"), _spec("b.gguf")):
            with pytest.raises(RuntimeError):
                async with pool.use(spec):
                    raise RuntimeError
        running = [engine.spec.model.stem for engine in pool.engines if engine.is_running]
        await pool.close()
        return running

    assert asyncio.run(run()) == ["b"]
