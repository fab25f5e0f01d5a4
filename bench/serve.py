"""Measures what the project promises about serving, and writes bench/serving.json and bench/serving.md.

    python bench/serve.py [--bundle FOLDER] [--soak SECONDS] [--kills N]

Everything is asked of a `factory serve` process over HTTP, as a client would. With `--soak`, mixed requests run for
that long while the engines are killed `--kills` times; else the short measurements are made.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from datetime import date
from functools import partial
from pathlib import Path

import httpx
import psutil
import uvicorn

from factory import hardware
from factory.api.guard import Guard
from factory.api.keys import read_key
from factory.api.models import build_catalog
from factory.api.router import Router
from factory.api.routes import build_api
from factory.bundle.manifest import read_manifest
from factory.web.serve import ServeConfig, make_rules

ROOT = Path(__file__).parent.parent
QUESTIONS = (
    "Why is the sky blue?", "How do I boil an egg?", "Tell me about the sea.", "What is a lighthouse for?",
    "How does a bicycle stay upright?", "What is bread made of?", "Why do leaves fall?", "What is two plus two?",
    "What is the capital of France?", "Which day comes after Monday?", "How many days are in a week?",
    "Count from one to ten.", "What do bees make?", "What is frozen water called?", "Say hello.",
    "What is the opposite of hot?", "Who wrote Romeo and Juliet?", "Name the months of the year.",
)  # fmt: skip
CHATS = 8
TOKENS = 64
ANSWER_TOKENS = 12  # of an answer that is compared
STREAMED_TOKENS = (4, ANSWER_TOKENS, 48)  # a longer stream keeps an engine busy; its beginning is compared
# Nats. Requests that share a step change the order of llama.cpp's sums, and activations round to 8 bits: both together
# tipped answers whose least sure token led the next by up to 0.43.
SURE_GAP = 0.6
REPEATS = 3


@asynccontextmanager
async def server(*arguments, **environment):
    """Run `factory serve` on a free port and yield a client for it and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "factory.cli", "serve", *map(str, arguments), "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True
    )
    headers = {"Authorization": f"Bearer {read_key()}"}
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=180, limits=limits
    ) as client:
        for _ in range(600):
            with suppress(httpx.HTTPError):
                await client.get("/health")
                break
            if process.poll() is not None:
                raise SystemExit(process.stderr.read())
            await asyncio.sleep(0.2)
        else:
            process.kill()
            raise SystemExit(f"factory serve does not answer on port {port} after two minutes: is it busy?")
        try:
            yield client, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(30)


async def stream(client, model, question, tokens=TOKENS, url="/v1/chat/completions", **extra):
    """Return the seconds to the first word and to the end, the tokens and the text of one streamed answer.

    Raises:
        RuntimeError: it was refused, or ended with an error event.
        ValueError: it ended without saying why.
    """
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": tokens}
    body |= {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0} | extra
    started, first, written, texts, reason = time.perf_counter(), None, 0, [], None
    async with client.stream("POST", url, json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"status {response.status_code}: {(await response.aread())[:200]!r}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(chunk["error"]["message"])
            if chunk.get("choices"):
                choice = chunk["choices"][0]
                texts.append(choice["delta"].get("content") or "")
                reason = choice.get("finish_reason") or reason
                if first is None and texts[-1]:
                    first = time.perf_counter() - started
            if chunk.get("usage"):
                written = chunk["usage"]["completion_tokens"]
    if reason is None:
        raise ValueError("the stream ended without a finish reason")
    seconds = time.perf_counter() - started
    return first or seconds, seconds, written, "".join(texts)


async def eight_at_a_time(calls):
    """Await calls, no more than eight of them running, and return their results in order."""
    slots = asyncio.Semaphore(CHATS)

    async def run(call):
        async with slots:
            return await call()

    return await asyncio.gather(*map(run, calls))


async def chat(client, model, start):
    """Ask all questions one after another, beginning with one of them, and return the answers."""
    return [await stream(client, model, question) for question in (*QUESTIONS[start:], *QUESTIONS[:start])]


async def concurrency(client, model):
    """Return tokens a second of one chat and of eight that ask the same questions, and the worst first word of these.

    The eight begin with different questions, so that all of them are busy to the end. A first word is compared with
    the median.
    """
    await stream(client, model, "Hello")
    alone, together, waits = [], [], []
    for _ in range(REPEATS):
        started = time.perf_counter()
        written = sum(answer[2] for answer in await chat(client, model, 0))
        alone.append(written / (time.perf_counter() - started))
        started = time.perf_counter()
        starts = [number * len(QUESTIONS) // CHATS for number in range(CHATS)]
        chats = await asyncio.gather(*(chat(client, model, start) for start in starts))
        answers = [answer for answers in chats for answer in answers]
        together.append(sum(answer[2] for answer in answers) / (time.perf_counter() - started))
        firsts = [answer[0] for answer in answers]
        waits.append(max(firsts) / statistics.median(firsts))
    return statistics.median(alone), statistics.median(together), statistics.median(waits)


async def differing(client, model):
    """Return the share of answers asked eight at a time that differ from the ones asked alone."""
    alone = [(question, (await whole(client, model, question))[0]) for question in QUESTIONS]
    together = await eight_at_a_time([partial(whole, client, model, pair[0]) for pair in alone * REPEATS])
    return statistics.mean(
        found[0] != answer for found, (_, answer) in zip(together, alone * REPEATS, strict=True)
    )


async def overhead(bundle):
    """Return what our API adds to the very engine it asks: milliseconds a request and a token."""
    command = [sys.executable, __file__, "--bundle", str(bundle), "--inner"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        told = json.loads(process.stdout.readline())
        # llama.cpp drops connections after some use, so that ours asks over a new one each time, and so does this.
        headers = {"Authorization": f"Bearer {told['key']}", "Connection": "close"}
        direct = httpx.AsyncClient(base_url=told["engine"], headers=headers, timeout=60)
        ours = httpx.AsyncClient(
            base_url=told["ours"], headers={"Authorization": f"Bearer {read_key()}"}, timeout=60
        )
        short, long = {"ours": [], "direct": []}, {"ours": [], "direct": []}
        async with direct, ours:
            for number in range(32):
                question = f"Count to a hundred, please ({number})."
                await stream(
                    direct, told["model"], question, 1
                )  # from here on both find the prompt in the cache
                for name, asked in (("ours", ours), ("direct", direct)):
                    one = await stream(asked, told["model"], question, 1)
                    many = await stream(asked, told["model"], question, TOKENS)
                    if number > 3:
                        short[name].append(one[1])
                        long[name].append(many[1] - many[0])
        process.stdin.close()
    medians = {name: statistics.median(values) for name, values in short.items()}
    spans = {name: statistics.median(values) for name, values in long.items()}
    return 1000 * (medians["ours"] - medians["direct"]), 1000 * (spans["ours"] - spans["direct"]) / TOKENS


async def inner(bundle):
    """Serve a bundle's first file as `factory serve` does and tell where the engine behind it listens."""
    config = ServeConfig((bundle,), finds_more=False)
    catalog = build_catalog([bundle], with_bases=False)
    model = next(model for model in catalog.models.values() if model.engine)
    router = Router(catalog)
    app = Guard(build_api(router), make_rules(config))
    # uvicorn opens the port, as in `factory serve`: on a socket from elsewhere asyncio leaves Nagle's algorithm on, and
    # every small write waits up to 40 ms for the acknowledgement of the one before.
    web = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", proxy_headers=False))
    running = asyncio.create_task(web.serve())
    async with router.pool.use(model.engine) as address:
        while not web.started:
            await asyncio.sleep(0.01)
        told = {"engine": address.url, "key": address.key, "model": model.id}
        told["ours"] = f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
    web.should_exit = True
    await running


async def swap(client, base, adapter):
    """Return the milliseconds that a change of adapter adds to the first word."""
    same, changed = [], []
    for number in range(20):
        question = f"What is the code of gate {number}?"
        for model in (base, adapter):
            changed.append((await stream(client, model, question, 1))[0])
            same.append((await stream(client, model, question + " Please.", 1))[0])
    return 1000 * (statistics.median(changed) - statistics.median(same))


async def stop(client, server_process, model):
    """Return the worst time in seconds from closing a stream to the engine being idle, of five."""
    worst = 0.0
    for _ in range(5):
        body = {"model": model, "messages": [{"role": "user", "content": "Tell a very long story."}]}
        body |= {"stream": True, "max_tokens": 1500, "temperature": 1.2, "seed": 3}
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            seen = 0
            async for _ in response.aiter_lines():
                seen += 1
                if seen > 20:
                    break
        closed = time.perf_counter()
        worst = max(worst, await idle_after(server_process, closed))
    return worst


async def idle_after(server_process, closed):
    """Return the seconds after `closed` at which the engines last used the processor."""
    engines = server_process.children(recursive=True)
    used, last = None, closed
    while time.perf_counter() - last < 0.5:
        now = sum(sum(engine.cpu_times()[:2]) for engine in engines)
        if used is not None and now > used:
            last = time.perf_counter()
        used = now
        await asyncio.sleep(0.02)
    return last - closed


async def soak(bundle, seconds, kills):
    """Ask for a while under kills; return the outcomes, the number of kills, and memory at the start and the end."""
    rng, outcomes, done = random.Random(0), Counter(), asyncio.Event()
    async with server(bundle) as (client, process):
        listed = (await client.get("/v1/models")).json()["data"]
        models = [card["id"] for card in listed if card.get("kind") in {"base", "adapter", "file"}]
        expected = await sure_answers(client, models)

        async def worker():
            while not done.is_set():
                model = rng.choice(models)
                question, answer, lead = rng.choice(expected[model])
                try:
                    if rng.random() < 0.5:
                        kind, tokens = "streamed", rng.choice(STREAMED_TOKENS)
                        found = (await stream(client, model, question, tokens))[3]
                    else:
                        kind, tokens = "in one piece", ANSWER_TOKENS
                        found = (await whole(client, model, question))[0]
                    if agrees(found, answer, tokens):
                        outcomes[f"right, {kind}"] += 1
                    else:
                        wrong = f"{answer!r} (led by {lead:.2f}) became {found!r}"
                        outcomes[f"WRONG, {kind}: {model}, {question!r}, {tokens} tokens: {wrong}"] += 1
                except RuntimeError as error:
                    outcomes[f"clear error: {str(error)[:60]}"] += 1
                except (httpx.HTTPError, ValueError, KeyError) as error:
                    outcomes[f"BROKEN: {type(error).__name__}"] += 1

        workers = [asyncio.create_task(worker()) for _ in range(6)]
        started, killed, memory = time.perf_counter(), 0, []
        while time.perf_counter() - started < seconds:
            await asyncio.sleep(5)
            memory.append(process.memory_info().rss)
            due = int((time.perf_counter() - started) / seconds * kills)
            engines = [child for child in process.children() if child.is_running()]
            if killed < due and engines:
                with suppress(psutil.Error):
                    rng.choice(engines).kill()
                    killed += 1
        done.set()
        await asyncio.gather(*workers)
    tenth = max(1, len(memory) // 10)
    return (
        outcomes,
        killed,
        statistics.median(memory[tenth : 3 * tenth]),
        statistics.median(memory[-2 * tenth :]),
    )


def agrees(found, answer, tokens):
    """Tell whether an answer of so many tokens is the expected one, as far as both go."""
    if tokens < ANSWER_TOKENS:
        return bool(found) and answer.startswith(found)
    return found == answer if tokens == ANSWER_TOKENS else found.startswith(answer)


async def sure_answers(client, models):
    """Return for each model the questions whose greedy answer is no near-tie, with that answer and its lead."""
    sure = {}
    for model in models:
        answers = [(question, *(await whole(client, model, question))) for question in QUESTIONS]
        sure[model] = [answer for answer in answers if answer[2] > SURE_GAP]
        if not sure[model]:
            raise SystemExit(f"{model} is sure of no answer: ask other questions")
    return sure


async def whole(client, model, question):
    """Return a greedy answer in one piece, and by how much its least sure token led, in nats."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": ANSWER_TOKENS}
    body |= {"temperature": 0, "logprobs": True, "top_logprobs": 2}
    response = await client.post("/v1/chat/completions", json=body)
    if response.status_code != 200:
        raise RuntimeError(response.json()["error"]["message"])
    choice = response.json()["choices"][0]
    pairs = [token["top_logprobs"] for token in choice["logprobs"]["content"]]
    return choice["message"]["content"], min(first["logprob"] - second["logprob"] for first, second in pairs)


def row(work, ours, limit, unit):
    """Return one result; the peer is the promised limit."""
    return {"work": work, "ours": round(ours, 3), "peer": limit, "peer_name": "promise", "unit": unit}


async def measure(bundle):
    """Return the rows of the short measurements."""
    rows = []
    async with server(bundle) as (client, process):
        cards = (await client.get("/v1/models")).json()["data"]
        base = next(card["id"] for card in cards if card["kind"] == "base")
        adapter = next(card["id"] for card in cards if card["kind"] == "adapter")
        files = [card["id"] for card in cards if card["kind"] == "file"]
        alone, together, wait = await concurrency(client, base)
        rows.append(
            row(
                "chats eight at a time against one after another, total tokens/s",
                together / alone,
                2.0,
                "times, at least",
            )
        )
        rows.append(row("the same, alone", alone, None, "tokens/s"))
        rows.append(row("worst first word of 8 against their median", wait, 4.0, "times, at most"))
        rows.append(row("adapter swap", await swap(client, base, adapter), 100.0, "ms, at most"))
        rows.append(
            row(
                "client gone to engine idle, worst of 5",
                await stop(client, process, files[0]),
                0.5,
                "s, at most",
            )
        )
        for model in (base, *files, adapter):
            work = f"answers of {model} that differ when eight ask at once"
            rows.append(row(work, 100 * await differing(client, model), None, "%"))
    request_ms, token_ms = await overhead(bundle)
    rows.append(row("our API over the engine itself, a request", request_ms, 5.0, "ms, at most"))
    rows.append(row("our API over the engine itself, a token", token_ms, 0.3, "ms, at most"))
    return rows


def write(rows, name, bundle, seconds=None, folder=ROOT / "bench"):
    """Write results, and what they were measured on, as JSON and as a table."""
    about = {"date": date.today().isoformat(), "bundle": read_manifest(bundle).name}
    about |= {"cores": hardware.num_cores(), "machine": platform.machine()}
    about |= {"seconds": seconds} if seconds else {}
    (folder / f"{name}.json").write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n")
    measured = f"{about['date']}, {about['cores']} cores, {about['machine']}, bundle `{about['bundle']}`"
    lines = ["# Serving", "", measured + (f", {seconds:,.0f} seconds" if seconds else ""), ""]
    lines += ["| work | measured | promise | unit |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {entry['work']} | {entry['ours']} | {entry['peer'] or '-'} | {entry['unit']} |" for entry in rows
    ]
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n")


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=ROOT / "build/quickstart/bundle")
    parser.add_argument("--soak", type=float, help="run mixed requests for that many seconds instead")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--inner", action="store_true", help="what the measurement of overhead starts")
    options = parser.parse_args()
    bundle = options.bundle.resolve()
    if options.inner:
        asyncio.run(inner(bundle))
        return
    if options.soak:
        outcomes, killed, before, after = asyncio.run(soak(bundle, options.soak, options.kills))
        rows = [row(name, count, None, "answers") for name, count in sorted(outcomes.items())]
        rows.append(row("engines killed", killed, options.kills, "times"))
        rows.append(
            row("server memory, last fifth against second tenth", after / before, 1.05, "times, at most")
        )
        write(rows, "soak", bundle, options.soak)
    else:
        rows = asyncio.run(measure(bundle))
        write(rows, "serving", bundle)
    sys.stdout.write(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
