"""A plan as text says what its JSON says."""

import pytest

from factory.pipeline import STEPS
from factory.plan import build
from factory.plan.text import describe


def test_the_text_of_a_plan_says_what_the_json_says(make_run):
    made = build.make_plan(make_run())
    text = describe(made)
    assert text.startswith("tiny on tiny-base (")
    assert f"verdict   {made['verdict']}" in text
    assert (
        f"{made['memory_gib']['needed']} GiB needed, {made['memory_gib']['available']} GiB available" in text
    )
    assert f"{made['training']['micro_batch']} rows at once" in text
    assert text.count(" to do ") == len(STEPS)
    assert f"about {made['minutes']} minutes for what is to do" in text
    assert made["minutes"] == pytest.approx(sum(stage["seconds"] for stage in made["stages"]) / 60, abs=0.1)


def test_memory_is_a_table_of_parts_and_of_what_was_tried(make_run, monkeypatch):
    monkeypatch.setattr(build.fit, "available_bytes", lambda device: 64 << 30)
    monkeypatch.setattr(build, "probe_training", lambda *arguments: 3 << 30)
    made = build.make_plan(make_run())
    lines = [line.split() for line in describe(made).splitlines()]
    parts = made["memory_gib"]["training"]["parts"], made["memory_gib"]["evaluation"]["parts"]
    for name in ("weights", "activations", "logits"):
        assert [name, *(f"{part[name]:.2f}" for part in parts)] in lines
    assert ["probed", "3.00", "-"] in lines
    needed = [made["memory_gib"][stage]["needed"] for stage in ("training", "evaluation")]
    assert ["needed", *(f"{size:.2f}" for size in needed)] in lines
    assert made["memory_gib"]["needed"] == max(needed)


def test_nothing_to_do_is_said(make_run, monkeypatch):
    run = make_run()
    monkeypatch.setattr(run, "states", lambda: {step.stage: "up to date" for step in STEPS})
    assert "nothing is to do" in describe(build.make_plan(run))
