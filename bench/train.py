"""Measures training against TRL's SFTTrainer, and writes bench/training.json and bench/training.md.

    python bench/train.py [--repeats 3] [--only CASE ...] [--rows 600] [--resume]

Both sides train the same rows in turns, each time in a fresh process, the peer in an environment of its own
(bench/peers.txt, made once in build/bench-peers). Each measurement is kept in build/bench/training.jsonl when it is
made, and `--resume` takes from there what an interrupted run has measured; once all cases are written, it is removed.
"""

import argparse
import json
import os
import subprocess
import sys
import venv
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from report import Measured, are_close, write

ROOT = Path(__file__).parent.parent
BENCH, WORK, PEERS = ROOT / "bench", ROOT / "build" / "bench", ROOT / "build" / "bench-peers"
CASES = ("chat", "apart", "long", "mfu", "growth", "gradient")
COMPARED = {"chat", "apart", "long"}
MODES = ("plain", "padding_free", "packing")
OVERRIDDEN = "model_loss"  # no setting of the peer: a method of it replaced
BATCH_SIZE = 16
TRIAL_STEPS = 6
SCRIPTS = {"ours": "ours.py", "peer": "peer_trl.py", "gradient": "gradient.py"}
QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Job:
    """One measurement: which side trains which rows, and how. `mode` and `weights` are the peer's."""

    side: str
    rows: str
    repeat: int = 1
    batch_size: int = BATCH_SIZE
    epochs: int = 1
    limit: int | None = None
    mode: str = "plain"
    weights: str = "float32"

    @property
    def name(self) -> str:
        """What tells this measurement from all others."""
        return "/".join(str(value) for value in asdict(self).values())


class Runner:
    """Runs measurements in fresh processes and keeps their results in a file."""

    def __init__(self, peer: Path | None, prepared: dict[str, Any], resume: bool) -> None:
        """Take up what was measured before, or begin an empty file."""
        self.peer, self._prepared, self._file = peer, prepared, WORK / "training.jsonl"
        self._known: dict[str, dict[str, Any]] = {}
        if resume and self._file.exists():
            lines = [json.loads(line) for line in self._file.read_text(encoding="utf-8").splitlines()]
            self._known = {line["job"]: line for line in lines}
        else:
            self._file.write_text("", encoding="utf-8")

    def __call__(self, job: Job) -> dict[str, Any]:
        """Return a measurement, made now or known from before.

        Raises:
            RuntimeError: the process failed; its last words say why.
        """
        if job.name not in self._known:
            sys.stderr.write(f"{job.name}\n")
            python = self.peer if job.side == "peer" else Path(sys.executable)
            settings = self._prepared | asdict(job) | {"rows": str(WORK / f"{job.rows}.jsonl")}
            settings |= {"learning_rate": 1e-3, "max_gradient_norm": 1.0}
            result = ask(str(python), str(BENCH / SCRIPTS[job.side]), json.dumps(settings))
            self._known[job.name] = {"job": job.name} | result
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._known[job.name]) + "\n")
        return self._known[job.name]

    def forget(self) -> None:
        """Remove the file: the next run measures anew."""
        self._file.unlink()


def ask(*command: str) -> dict[str, Any]:
    """Run a process and return the JSON of its last line.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | QUIET)
    if done.returncode:
        raise RuntimeError(f"{Path(command[1]).name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def open_peer() -> Path | None:
    """Return the Python of the peer's environment, made when it is missing, or None where it cannot be made."""
    wanted, python, made = BENCH / "peers.txt", PEERS / "bin" / "python", PEERS / "peers.txt"
    pins = wanted.read_text(encoding="utf-8")
    if made.exists() and made.read_text(encoding="utf-8") == pins:
        return python
    sys.stderr.write("installing bench/peers.txt into build/bench-peers (once)\n")
    install = [str(python), "-m", "pip", "install", "-q", "-r", str(wanted)]
    try:
        venv.create(PEERS, with_pip=True, clear=True)
        subprocess.run(install, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        sys.stderr.write(f"TRL cannot be installed, only the project is measured: {said[-1]}\n")
        return None
    made.write_text(pins, encoding="utf-8")
    return python


def choose(run: Runner, job: Job, measured: Measured, case: str) -> Job:
    """Return the peer's job at the settings that were fastest in a short trial, of those with the right loss.

    The modes are tried with float32 weights, and the fastest once more with bfloat16 ones. What it would reach with
    its loss replaced is tried, too, and never chosen.
    """
    best = replace(job, repeat=0, limit=TRIAL_STEPS * job.batch_size // job.epochs)
    right = run(best)
    measured.trials[f"{case}: plain, float32 weights"] = (right["examples_per_second"], True)
    changes = [*({"mode": mode} for mode in MODES[1:]), {"weights": "bfloat16"}, {"mode": OVERRIDDEN}]
    for change in changes:
        trial = replace(best, **change)
        try:
            result = run(trial)
        except RuntimeError as error:
            sys.stderr.write(f"{trial.name} is left out: {error}\n")
            continue
        close = are_close(result["losses"], right["losses"])
        measured.trials[f"{case}: {trial.mode}, {trial.weights} weights"] = (
            result["examples_per_second"],
            close,
        )
        faster = result["examples_per_second"] > run(best)["examples_per_second"]
        if close and faster and trial.mode != OVERRIDDEN:
            best = trial
    measured.chosen[case] = f"{best.mode}, {best.weights} weights"
    return replace(job, mode=best.mode, weights=best.weights)


def compare(run: Runner, case: str, job: Job, repeats: int, measured: Measured) -> None:
    """Measure both sides in turns."""
    peer = choose(run, replace(job, side="peer"), measured, case) if run.peer else None
    for repeat in range(1, repeats + 1):
        measured.add(case, "ours", run(replace(job, repeat=repeat)))
        if peer:
            measured.add(case, "peer", run(replace(peer, repeat=repeat)))


def measure(run: Runner, cases: list[str], rows: int, num_long: int, repeats: int) -> Measured:
    """Return the measurements of some cases."""
    measured = Measured(rows)
    size = min(BATCH_SIZE, rows // 16)
    chat = Job("ours", f"chat-{rows}", batch_size=size)
    compared = {
        "chat": chat,
        "apart": replace(chat, rows=f"apart-{rows}"),
        "long": Job("ours", f"long-{num_long}", batch_size=2, epochs=2),
    }
    for case in compared:
        if case in cases:
            compare(run, case, compared[case], repeats, measured)
    for repeat in range(1, repeats + 1):
        if "mfu" in cases:
            measured.add("mfu", "ours", run(replace(chat, repeat=repeat)))
        for number in (rows // 4, rows, 4 * rows) if "growth" in cases else ():
            measured.add("growth", str(number), run(replace(chat, rows=f"chat-{number}", repeat=repeat)))
    if "gradient" in cases:
        measured.add("gradient", "ours", run(replace(chat, side="gradient")))
    return measured


def main() -> None:
    """Measure and write both files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument(
        "--rows", type=int, default=600, help="of the chat cases; below 256, steps are smaller"
    )
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    prepared = ask(sys.executable, str(BENCH / "rows.py"), str(WORK), str(options.rows))
    peer = open_peer() if COMPARED & set(options.only) else None
    run = Runner(peer, prepared, options.resume)
    measured = measure(run, options.only, options.rows, prepared["num_long"], options.repeats)
    sys.stdout.write(write(measured, BENCH))
    if set(options.only) == set(CASES):
        run.forget()


if __name__ == "__main__":
    main()
