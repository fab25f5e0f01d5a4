"""A llama.cpp server in a child process: started when needed, watched, started again when it dies. Knows no request.

The child gets no environment but the few variables that programs need to run, so no key can leak through it, and a
random key of its own, so that no other program of this machine can use it.
"""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import factory
from factory.errors import BackendError

logger = logging.getLogger(__name__)
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 5.0
SETTLE_S = 0.5
MAX_STARTS, STARTS_WINDOW_S = 5, 30.0  # an engine that dies this often at once is not started again by itself
PASSED_ON = frozenset(
    {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"}
    | {"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "VIRTUAL_ENV"}
)


@dataclass(frozen=True)
class EngineSpec:
    """What an engine loads: a GGUF file, LoRA adapters in GGUF (each request names their scales), and its room.

    `num_ctx` tokens are shared by up to `parallel` requests at a time.
    """

    model: Path
    adapters: tuple[Path, ...] = ()
    num_ctx: int = 4096
    parallel: int = 8
    threads: int = 2


@dataclass(frozen=True)
class Address:
    """Where a running engine listens, and the key it wants."""

    url: str
    key: str = field(repr=False)


def child_environment() -> dict[str, str]:
    """Return the environment of the child: what programs need to run, and no key."""
    kept = {name: value for name, value in os.environ.items() if name.upper() in PASSED_ON}
    root = str(Path(factory.__file__).parent.parent)
    return kept | {"PYTHONPATH": root, "PYTHONNOUSERSITE": "1"}


class Engine:
    """One llama.cpp server process; `open` may be called by many requests at once."""

    def __init__(
        self,
        spec: EngineSpec,
        command: Sequence[str] = (sys.executable, "-m", "factory.backends.engine_child"),
        on_death: Callable[[int], None] = lambda code: None,
    ) -> None:
        """Start nothing yet. `on_death` is called with the exit code of an engine that ended by itself."""
        self.spec, self.num_deaths = spec, 0
        self._command, self._on_death = tuple(command), on_death
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._address: Address | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._starts: deque[float] = deque(maxlen=MAX_STARTS)

    @property
    def is_running(self) -> bool:
        """Whether the process is alive and has told its address."""
        return self._address is not None and self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The process's id, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def open(self) -> Address:
        """Return where the engine listens, after starting it if it does not run.

        Raises:
            BackendError: it does not start, or keeps dying.
        """
        async with self._lock:
            if not self.is_running:
                await self._start()
            assert self._address is not None, "a started engine has an address"
            return self._address

    async def settle(self) -> None:
        """Wait a moment for the end of a process that broke off, which is known later than its connections close."""
        if process := self._process:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), SETTLE_S)

    async def close(self) -> None:
        """End the process, if it runs."""
        if self._watcher:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        async with self._lock:
            await self._end()

    async def _start(self) -> None:
        if len(self._starts) == MAX_STARTS and time.monotonic() - self._starts[0] < STARTS_WINDOW_S:
            raise BackendError(
                f"The engine of {self.spec.model.name} ended {MAX_STARTS} times within {STARTS_WINDOW_S:.0f} s: "
                "check the file with `factory verify`, or free memory, and ask again in half a minute"
            )
        self._starts.append(time.monotonic())
        key = secrets.token_urlsafe(32)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=child_environment(),
                start_new_session=True,  # Ctrl-C is for the server, which ends its engines itself
            )
            self._address = Address(await asyncio.wait_for(self._introduce(key), START_TIMEOUT_S), key)
        except asyncio.CancelledError:  # who asked has left: nobody would ever end this process
            self._kill()
            raise
        except (TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            process = self._process
            await self._end()
            code = process.returncode if process else None
            raise BackendError(
                f"The engine of {self.spec.model.name} did not start (exit {code}): the file may be damaged, too "
                "large for this machine's memory, or of an architecture that this llama.cpp does not know"
            ) from error
        self._watcher = asyncio.create_task(self._watch(self._process))
        logger.info("engine of %s runs as process %d", self.spec.model.name, self._process.pid)

    async def _introduce(self, key: str) -> str:
        """Tell the child what to load and return the address it answers with."""
        process, spec = self._process, self.spec
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        told = {
            "model": str(spec.model),
            "adapters": [str(path) for path in spec.adapters],
            "num_ctx": spec.num_ctx,
            "parallel": spec.parallel,
            "threads": spec.threads,
            "key": key,
        }
        process.stdin.write(json.dumps(told).encode() + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            await process.wait()
        return str(json.loads(line)["address"])

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Wait for the end of a process that nobody ended, report it, and start the next one."""
        code = await process.wait()
        self._address = None
        self.num_deaths += 1
        logger.warning("engine of %s ended with code %d: it is started again", self.spec.model.name, code)
        self._on_death(code)
        with contextlib.suppress(BackendError):  # the next request says it
            await self.open()

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _end(self) -> None:
        process, self._process, self._address = self._process, None, None
        if process is None:
            return
        if process.stdin:
            process.stdin.close()
        if process.returncode is None:
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                await process.wait()


class EnginePool:
    """Engines by what they load; when more than `most` would run, the one idle for longest is ended."""

    def __init__(self, most: int = 3, make: Callable[[EngineSpec], Engine] = Engine) -> None:
        """Start nothing yet."""
        self._most, self._make = most, make
        self._engines: dict[EngineSpec, Engine] = {}
        self._used: dict[EngineSpec, float] = {}
        self._busy: dict[EngineSpec, int] = {}
        self._lock = asyncio.Lock()

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engines made so far, running or not."""
        return tuple(self._engines.values())

    @contextlib.asynccontextmanager
    async def use(self, spec: EngineSpec) -> AsyncIterator[Address]:
        """Hold an engine for one request, so that it is not ended meanwhile."""
        self._busy[spec] = self._busy.get(spec, 0) + 1
        self._used[spec] = time.monotonic()
        try:
            async with self._lock:
                engine = self._engines.setdefault(spec, self._make(spec))
                await self._make_room(spec)
            yield await engine.open()
        finally:
            self._busy[spec] -= 1
            self._used[spec] = time.monotonic()

    async def settle(self, spec: EngineSpec) -> None:
        """Wait a moment for the end of an engine that broke off, so that the next use starts it again."""
        if engine := self._engines.get(spec):
            await engine.settle()

    async def close(self) -> None:
        """End all engines."""
        await asyncio.gather(*(engine.close() for engine in self._engines.values()))

    async def _make_room(self, wanted: EngineSpec) -> None:
        running = [spec for spec, engine in self._engines.items() if engine.is_running and spec != wanted]
        idle = sorted((spec for spec in running if not self._busy.get(spec)), key=self._used.__getitem__)
        for spec in idle[: max(0, len(running) + 1 - self._most)]:
            await self._engines[spec].close()
