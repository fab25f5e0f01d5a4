"""The training benchmark's results: medians, ratios and the files they are written to. Measures nothing."""

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from factory import hardware

LIMIT = 0.02  # relative difference of two loss curves
EVERY = 10  # steps
TITLES = {
    "chat": "chat, shared system turn",
    "apart": "chat, no shared beginning",
    "long": "rows of 1,024 tokens",
}
RATES = (
    ("examples_per_second", 1, "examples/s"),
    ("tokens_per_second", 1, "tokens/s"),
    ("peak_mib", 1024, "GiB, peak"),
)
TRL = "TRL SFTTrainer"
NOTES = """
All cases train SmolLM2-135M-Instruct with LoRA r 16, alpha 32 on all seven linear layers of all layers: AdamW at a
constant 1e-3, no weight decay, clipping at 1.0, 16 rows a step (2 of the long ones), bf16. Both sides start from
the same saved adapter and see the same token ids in the same order, like lengths together; loss on answers and
their end-of-turn token only (on the last half of the long rows). The first two steps are not timed. A row's tokens
are counted whole on both sides, shared or not. Memory is the highest resident memory of the process; a ratio below
1 is less. Rows without a shared beginning have nothing in common but the three tokens that open a turn.

TRL trains without checkpoints, logs or gradient checkpointing, with its fused AdamW and sdpa attention. `packing`
lays a fourth of a step's rows in one sequence, as its packing does, so that a step keeps its rows. The fastest of its
settings that gave the same losses in a trial of six steps was measured. `model_loss` is none of them: there the
method `compute_loss` is replaced by the model's own loss, which is faster on a CPU; it shows what is left to a user
who changes TRL.

MFU is needed operations over the best rate of a bf16 matrix product (1024, 2048 or 4096 square) that the same
process reaches on all threads. Counted are, for each token, 2 operations a frozen parameter forward and 2 backward
(gradients of inputs; frozen weights have none of their own), LoRA's products with their weights' gradients,
attention on what a token may see, and the output layer on tokens with loss. "Hardware" counts the shared beginning
once, as the engine computes it, "rows whole" counts it in every row, as others must. Padding is not counted.

Gradients are those of 16 chat rows with B not zero, against plain peft in float64; the relative error of all of
the adapter's gradient as one vector, and of the one tensor that is furthest off.
"""


@dataclass
class Measured:
    """Results by case and side; `trials` are the peer's settings with their rate and whether the loss was right."""

    rows: int
    results: dict[str, dict[str, list[dict[str, Any]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    trials: dict[str, tuple[float, bool]] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)

    def add(self, case: str, side: str, result: dict[str, Any]) -> None:
        """Keep one result."""
        self.results[case][side].append(result)

    def median(self, case: str, side: str, key: str) -> float | None:
        """Return the median of a figure, or None where nothing was measured."""
        values = [result[key] for result in self.results.get(case, {}).get(side, [])]
        return statistics.median(values) if values else None


def difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the largest relative difference of two loss curves at every tenth step and the last."""
    places = {*range(EVERY - 1, len(theirs), EVERY), len(theirs) - 1}
    return max(abs(ours[place] - theirs[place]) / theirs[place] for place in places)


def are_close(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Tell whether two loss curves are of equal length and agree within `LIMIT`."""
    return len(ours) == len(theirs) and difference(ours, theirs) <= LIMIT


def row(work: str, ours: float, peer: float | None, peer_name: str, unit: str) -> dict[str, object]:
    """Return one result; without a peer there is no ratio."""
    ratio = None if not peer else float(f"{ours / peer:.4g}")
    ours, peer = (None if value is None else float(f"{value:.4g}") for value in (ours, peer))
    return {
        "work": work,
        "ours": ours,
        "peer": peer,
        "peer_name": peer_name if peer is not None else "",
        "unit": unit,
        "ratio": ratio,
    }


def compared_rows(measured: Measured, case: str) -> list[dict[str, object]]:
    """Return rates, memory and the distance of the loss curves."""
    rows = []
    for key, size, unit in RATES:
        ours, peer = (measured.median(case, side, key) for side in ("ours", "peer"))
        rows.append(row(TITLES[case], ours / size, peer and peer / size, TRL, unit))
    sides = measured.results[case]
    pairs = zip(sides["ours"], sides.get("peer", []), strict=False)
    apart = [100 * difference(ours["losses"], peer["losses"]) for ours, peer in pairs]
    if apart:
        rows.append(row(f"{TITLES[case]}: loss curves apart", max(apart), 100 * LIMIT, "limit", "% at most"))
    return rows


def mfu_rows(measured: Measured) -> list[dict[str, object]]:
    """Return the machine's peak and the share of it that training reaches."""
    runs = measured.results["mfu"]["ours"]
    peak = statistics.median(run["peak_flops"] for run in runs)
    shares = {
        key: statistics.median(100 * run[key] / run["seconds"] / run["peak_flops"] for run in runs)
        for key in ("flops", "flops_whole")
    }
    slower = measured.median("chat", "peer", "seconds_per_row")
    theirs = slower and shares["flops_whole"] * measured.median("mfu", "ours", "seconds_per_row") / slower
    return [
        row("bf16 matrix product, best rate", peak / 1e9, None, "", "GFLOP/s"),
        row("chat: MFU, hardware", shares["flops"], None, "", "%"),
        row("chat: MFU, rows whole", shares["flops_whole"], theirs, TRL, "%"),
    ]


def growth_rows(measured: Measured) -> list[dict[str, object]]:
    """Return the time a row with more rows, relative to the fewest."""
    few = measured.rows // 4
    first = measured.median("growth", str(few), "seconds_per_row")
    return [
        row(
            f"time a row, {times * few} rows against {few}",
            measured.median("growth", str(times * few), "seconds_per_row") / first,
            1.0,
            "proportional",
            "times",
        )
        for times in (4, 16)
    ]


def gradient_rows(measured: Measured) -> list[dict[str, object]]:
    """Return the errors of the gradient."""
    found = measured.results["gradient"]["ours"][0]
    peers = {"peft_autocast": "peft, bf16 autocast", "peft_autocast_bfloat16_weights": "peft, bf16 weights"}
    rows = []
    for key, what in (("whole", "whole gradient"), ("worst", "worst tensor")):
        rows.append(
            row(
                f"error of the {what}, float32",
                found["ours_float32"][key],
                found["peft_float32"][key],
                "peft, float32",
                "relative",
            )
        )
        rows += [
            row(f"error of the {what}, bf16", found["ours_bfloat16"][key], found[peer][key], name, "relative")
            for peer, name in peers.items()
        ]
    return rows


def spread(measured: Measured) -> list[str]:
    """Return how far the repeats of each case lie apart, as lines."""
    lines = []
    for case in (case for case in TITLES if case in measured.results):
        for side, results in measured.results[case].items():
            rates = [result["examples_per_second"] for result in results]
            lines.append(f"- {TITLES[case]}, {side}: {min(rates):.3g} to {max(rates):.3g} examples/s")
    return lines


def machine(measured: Measured) -> str:
    """Return one line about where, when and with what was measured."""
    results = [one for sides in measured.results.values() for side in sides.values() for one in side]
    versions: dict[str, str] = {}
    for result in results:
        versions |= result["versions"]
    told = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    repeats = max(len(side) for sides in measured.results.values() for side in sides.values())
    return (
        f"Measured on {hardware.describe_machine()}, {date.today().isoformat()}; medians of {repeats}, both sides in "
        f"turns, each in a fresh process. {told}."
    )


def write(measured: Measured, folder: Path) -> str:
    """Write training.json and training.md; return the text of the latter."""
    rows = [one for case in TITLES if case in measured.results for one in compared_rows(measured, case)]
    for case, make in (("mfu", mfu_rows), ("growth", growth_rows), ("gradient", gradient_rows)):
        if case in measured.results:
            rows += make(measured)
    (folder / "training.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    cells = [[("-" if value is None else str(value)) for value in one.values()] for one in rows]
    table = [
        "| work | ours | peer | what the peer is | unit | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    table += [f"| {' | '.join(line)} |" for line in cells]
    trials = [
        f"- {name}: {rate:.3g} examples/s{'' if close else ', other losses'}"
        for name, (rate, close) in measured.trials.items()
    ]
    chosen = [f"- {TITLES[case]}: {what}" for case, what in measured.chosen.items()]
    parts = [machine(measured), "", *table, NOTES]
    for title, lines in (
        ("TRL was measured as", chosen),
        ("Its trials", trials),
        ("Repeats", spread(measured)),
    ):
        parts += [f"{title}:", "", *lines, ""] if lines else []
    text = "\n".join(parts).rstrip() + "\n"
    (folder / "training.md").write_text(text, encoding="utf-8")
    return text
