"""A plan as text. Knows what `build` returns; computes nothing."""

from typing import Any


def describe(plan: dict[str, Any]) -> str:
    """Return a plan as lines for people."""
    stages = "\n".join(map(_stage_line, plan["stages"]))
    training, memory, disk = plan["training"], plan["memory_gib"], plan["disk_gib"]
    nothing_left = all(stage["status"] != "to do" for stage in plan["stages"])
    time_left = "nothing is to do" if nothing_left else f"about {plan['minutes']} minutes for what is to do"
    return (
        f"{plan['recipe']} on {plan['base']} ({plan['machine']})\n{stages}\n"
        f"time      {time_left}\n"
        f"training  rank {training['rank']}, {training['epochs']} epochs of {training['rows_an_epoch']} rows, "
        f"{training['tokens_a_row']} tokens a row, the longest {training['longest_row']}\n"
        f"          {training['micro_batch']} rows at once, {training['accumulation']} times a step\n"
        f"memory    {memory['needed']} GiB needed, {memory['available']} GiB available\n"
        f"{_memory_table(memory)}\n"
        f"disk      {disk['predicted']} GiB needed, {disk['free']} GiB free\n"
        f"verdict   {plan['verdict']}"
    )


def _memory_table(memory: dict[str, Any]) -> str:
    """Return the parts of what is needed as rows, in GiB; parts of nothing are left out.

    Needed is what was probed with what a long run adds to it, else what was predicted.
    """
    training, evaluation = memory["training"], memory["evaluation"]
    rows = [
        (name.replace("_", " "), value, evaluation["parts"][name])
        for name, value in training["parts"].items()
        if value or evaluation["parts"][name]
    ]
    rows += [(name, training[name], evaluation[name]) for name in ("predicted", "probed", "needed")]
    lines = [f"  {'GiB':<11} {'training':>8} {'evaluation':>10}"]
    lines += [f"  {name:<11} {_number(left):>8} {_number(right):>10}" for name, left, right in rows]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _stage_line(stage: dict[str, Any]) -> str:
    line, seconds = f"  {stage['name']:<11} {stage['status']:<10}", stage["seconds"]
    if stage["status"] != "to do":
        return line.rstrip()
    return f"{line} about " + (f"{seconds / 60:.1f} min" if seconds >= 60 else f"{max(1, round(seconds))} s")
