"""The process of a run: its command word for word, its log, and how waiting for it ends."""

import shlex
import sys
import time
from pathlib import Path

import psutil
import pytest

from factory.web import runner
from factory.web.job import LOG, new_job

ROOT = Path("/work place")
RECIPE = ROOT / "recipes/quick.yaml"
FOLDER = ROOT / "build/hand book"


def job_of(epochs=None):
    return new_job(Path("hand book"), "handbook", "quick", epochs)


@pytest.fixture
def begin(tmp_path):
    """Start lines of Python as a run; what still lives at the end is killed."""
    started = []
    (tmp_path / "out").mkdir()

    def run(code, shown="factory run quick.yaml"):
        started.append(runner.start([sys.executable, "-c", code], tmp_path / "out", tmp_path, shown))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_the_arguments_are_relative_to_the_root_and_set_aside_what_is_about_other_documents():
    assert runner.run_arguments(job_of(3), RECIPE, FOLDER, ROOT) == [
        "run", "recipes/quick.yaml",
        "--set", 'name="handbook"',
        "--set", 'ingest.source="build/hand book/docs"',
        "--set", 'ingest.include=["**"]',
        "--set", "evaluate.questions=null",
        "--set", "train.epochs=3",
        "--out", "build/hand book",
    ]  # fmt: skip


def test_without_a_number_of_epochs_the_recipes_own_counts_and_a_recipe_elsewhere_keeps_its_path():
    arguments = runner.run_arguments(job_of(), Path("/elsewhere/quick.yaml"), FOLDER, ROOT)
    assert arguments[1] == "/elsewhere/quick.yaml"
    assert not any("epochs" in argument for argument in arguments)


def test_a_shell_reads_the_shown_command_as_the_one_that_runs():
    shown = shlex.split(runner.shell_command(job_of(3), RECIPE, FOLDER, ROOT))
    command = runner.run_command(job_of(3), RECIPE, FOLDER, ROOT)
    assert command[:3] == [sys.executable, "-m", "factory.cli"]
    assert shown == ["factory", *command[3:]]


def test_names_that_end_like_keys_go_and_names_that_only_hold_such_a_word_stay():
    kept = {"KEYBOARD": "us", "TOKENIZERS_PARALLELISM": "false", "PASSWORD_STORE_DIR": "/p", "PATH": "/bin"}
    secret = dict.fromkeys(("api_key", "GH_TOKEN", "Client_Secret", "PGPASSWORD", "MYSQL_PASSWD"), "x")
    assert runner.without_secrets(kept | secret | {"GOOGLE_CREDENTIAL": "x"}) == kept


def test_each_attempt_adds_its_command_and_what_it_says_to_the_log(begin, tmp_path):
    code = "import os, sys; print(os.getcwd()); print(repr(sys.stdin.read()), file=sys.stderr); sys.exit(7)"
    assert [runner.wait(begin(code), tmp_path, 1.0, lambda: False) for _ in range(2)] == [7, 7]
    lines = (tmp_path / "out" / LOG).read_text(encoding="utf-8").splitlines()
    one = {"$ factory run quick.yaml", str(tmp_path.resolve()), "''"}
    assert lines[0] == lines[3] == "$ factory run quick.yaml"
    assert set(lines[:3]) == set(lines[3:]) == one


def test_a_run_finds_this_package_wherever_it_is_called_and_leads_its_own_group(begin, tmp_path):
    code = "import os, factory; print(factory.__path__[0], os.getpgrp() == os.getpid())"
    assert runner.wait(begin(code), tmp_path, 1.0, lambda: False) == 0
    package = Path(runner.__file__).parents[1]
    assert (tmp_path / "out" / LOG).read_text(encoding="utf-8").endswith(f"\n{package} True\n")


def test_who_leaves_lets_the_process_alone(begin, tmp_path):
    process = begin("import time; time.sleep(600)")
    assert runner.wait(process, tmp_path, 0.0, lambda: True) is None
    assert process.is_running()
    assert process.status() != psutil.STATUS_ZOMBIE


def test_a_process_that_ended_unseen_is_not_taken_for_a_running_job(begin):
    assert runner.find(job_of()) is None
    process = begin("")
    started = {"pid": process.pid, "process_started": process.create_time()}
    deadline = time.monotonic() + 30
    while process.status() != psutil.STATUS_ZOMBIE:  # it ends, and nobody has asked how
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    assert runner.find(job_of().model_copy(update=started)) is None
