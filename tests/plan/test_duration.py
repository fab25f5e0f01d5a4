"""Times of the stages: they grow with the work, and the quickstart takes what it took."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from factory.lora.setup import outline, setup_of
from factory.pipeline import STEPS
from factory.plan import duration
from factory.plan.workload import Rows, Workload
from factory.recipe import Recipe, load_recipe


def read_setup(recipe, base):
    return setup_of(outline(base, recipe.train), recipe.train, "cpu", torch.float32)


def work(files, rows, tokens, questions):
    return Workload(files, Rows(rows, rows * tokens, tokens, 256), questions)


def unheld(recipe: Recipe) -> Recipe:
    """Return a recipe that looks at no general questions, which takes as long for any rows."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"retain": 0.0})})


def test_every_stage_has_a_time_that_grows_with_what_it_works_on(make_run, base):
    recipe = unheld(make_run().recipe)
    setup = read_setup(recipe, base)
    small, large = work(10, 100, 36.0, 50), work(20, 200, 36.0, 100)
    fast, slower = duration.Speeds(1e11, 1e11), duration.Speeds(5e10, 5e10)
    first, second = (duration.estimate_seconds(recipe, setup, work, fast) for work in (small, large))
    assert list(first) == [step.stage for step in STEPS]
    for stage in ("ingest", "chunk", "synthesize", "curate", "train"):
        assert second[stage] == pytest.approx(2 * first[stage])
    assert second["evaluate"] > first["evaluate"]
    slow = duration.estimate_seconds(recipe, setup, small, slower)
    for stage in ("train", "merge", "quantize", "verify", "evaluate", "export"):
        assert slow[stage] == pytest.approx(2 * first[stage])


def test_a_look_at_general_questions_takes_as_long_for_any_rows(make_run, base):
    recipe, speeds = make_run().recipe, duration.Speeds(1e11, 1e11)
    setup = read_setup(recipe, base)
    looks = [
        duration.estimate_seconds(recipe, setup, rows, speeds)["train"]
        - duration.estimate_seconds(unheld(recipe), setup, rows, speeds)["train"]
        for rows in (work(10, 100, 36.0, 50), work(10, 300, 36.0, 50))
    ]
    assert looks[0] == pytest.approx(looks[1])
    assert looks[0] > 0


def test_only_the_fast_engine_takes_less_time_where_passages_repeat(make_run, base):
    recipe = unheld(make_run().recipe)
    setup, speeds = read_setup(recipe, base), duration.Speeds(1e11, 1e11)
    assert setup.fused
    for fused, expected in ((True, 0.6), (False, 1.0)):
        engine = replace(setup, fused=fused)
        every, once = (
            duration.estimate_seconds(
                recipe, engine, Workload(9, Rows(100, 8000, 80.0, 256, repeated), 50), speeds
            )["train"]
            for repeated in (0, 3200)
        )
        assert once == pytest.approx(expected * every)


def test_the_quickstart_is_estimated_as_it_was_measured(base):
    recipe = load_recipe(Path("recipes/quickstart.yaml"))
    seconds = duration.estimate_seconds(
        recipe,
        read_setup(recipe, base),
        work(37, 747, 29.76, 441),
        duration.Speeds(425e9, duration.MEASURED_FLOPS),
    )
    measured = {
        "curate": 3.9,
        "train": 578,
        "merge": 1.9,
        "quantize": 18.4,
        "verify": 22.1,
        "evaluate": 228,
        "export": 1.3,
    }
    for stage, took in measured.items():
        assert seconds[stage] == pytest.approx(took, rel=0.2), stage


@pytest.mark.slow
def test_the_probe_measures_a_plausible_speed():
    assert 1e8 < duration.probe_flops() < 1e14
