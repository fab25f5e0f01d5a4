"""The queue of training runs: one at a time, through restarts and kills, with stand-ins for the run itself."""

import contextlib
import itertools
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import RecipeError, UsageError
from factory.recipe import load_recipe
from factory.web import runner
from factory.web.job import Job, new_job, write_job
from factory.web.jobs import JobQueue

RECIPE = "name: quick\ningest: {source: elsewhere, include: ['own/**']}\nevaluate: {questions: own.jsonl}\n"
ENDS_WHEN_TOLD = """
    import pathlib, time
    while not pathlib.Path("go").exists():
        time.sleep(0.02)
"""
SERVER = """
import sys, time
from pathlib import Path
from factory.web.jobs import JobQueue
root, code = Path(sys.argv[1]), sys.argv[2]
queue = JobQueue(root / "build", root, lambda *_: [sys.executable, "-c", code])
queue.submit("handbook", "quick", [root / "plan.md"])
time.sleep(600)
"""


def stand_in(code: str) -> runner.Command:
    """A command that runs a few lines instead; `sys.argv[1]` is the job's id."""
    return lambda job, recipe, folder, root: [sys.executable, "-c", textwrap.dedent(code), job.id]


def until(condition, seconds: float = 60.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


def ended(queue: JobQueue, job_id: str) -> Job:
    return until(lambda: None if (job := queue.get(job_id)).active else job)


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/quick.yaml").write_text(RECIPE)
    (tmp_path / "plan.md").write_text("# Plan\n\nThe depot opens at seven.\n")
    return tmp_path


@pytest.fixture
def open_queue(root):
    """Open queues that are closed, and whose runs are killed, when the test ends."""
    queues = []

    def opened(code: str = "", **options) -> JobQueue:
        queues.append(JobQueue(root / "build", root, stand_in(code), **options))
        return queues[-1]

    yield opened
    (root / "go").touch()
    for queue in queues:
        for job in queue.jobs():
            with contextlib.suppress(UsageError):  # it has ended
                queue.cancel(job.id)
        until(lambda queue=queue: not any(job.active for job in queue.jobs()))
    for queue in queues:
        queue.close()


def submit(queue: JobQueue, root: Path, name: str = "handbook") -> Job:
    return queue.submit(name, "quick", [root / "plan.md"])


def running(queue: JobQueue, job_id: str = "handbook") -> Job:
    return until(lambda: job if (job := queue.get(job_id)).state == "running" else None)


def test_a_job_runs_in_the_root_and_is_announced_before_it_is_shown_as_done(open_queue, root):
    queue = open_queue("open('ran', 'w').write('yes')")
    heard = []
    queue.on_end(lambda job: heard.append((job.state, queue.get(job.id).state)))
    queue.on_end(lambda job: 1 / 0)
    job = ended(queue, submit(queue, root).id)
    assert (job.state, job.exit_code, job.error, job.pid) == ("done", 0, None, None)
    assert heard == [("done", "running")]
    assert (root / "ran").read_text() == "yes"
    assert (root / "build/handbook/docs/plan.md").read_text().startswith("# Plan")


def test_one_run_at_a_time_in_the_order_of_asking(open_queue, root):
    queue = open_queue(
        """
        import sys, time
        for word in ("begins", "ends"):
            with open("order", "a") as file:
                file.write(f"{sys.argv[1]} {word}\\n")
            time.sleep(0.1)
        """
    )
    first, second, third = (submit(queue, root, name) for name in ("b", "a", "a"))
    assert [job.id for job in queue.jobs()] == ["a-2", "a", "b"]
    for job in (first, second, third):
        ended(queue, job.id)
    order = (root / "order").read_text().split("\n")[:-1]
    assert order == ["b begins", "b ends", "a begins", "a ends", "a-2 begins", "a-2 ends"]


def test_a_failed_run_says_its_own_error_and_can_be_tried_again(open_queue, root):
    queue = open_queue(
        """
        import pathlib, sys
        if pathlib.Path("mended").exists():
            sys.exit(0)
        sys.exit("noise\\nerror: the base 'x' is unknown: name another")
        """
    )
    job = ended(queue, submit(queue, root).id)
    assert (job.state, job.exit_code, job.error) == ("failed", 1, "the base 'x' is unknown: name another")
    (root / "mended").touch()
    queue.retry(job.id)
    assert ended(queue, job.id).state == "done"
    assert queue.get(job.id).error is None
    with pytest.raises(UsageError, match="'handbook' is done: only what failed"):
        queue.retry(job.id)


def test_a_run_that_is_killed_from_outside_fails_with_the_signal(open_queue, root):
    queue = open_queue(ENDS_WHEN_TOLD)
    submit(queue, root)
    os.kill(running(queue).pid, signal.SIGKILL)
    job = ended(queue, "handbook")
    assert (job.state, job.exit_code) == ("failed", -9)
    assert "signal 9, maybe for lack of memory" in job.error


def test_a_cancelled_run_is_interrupted_and_may_put_itself_in_order(open_queue, root):
    queue = open_queue(
        """
        import sys, time
        try:
            open("up", "w").close()
            time.sleep(600)
        except KeyboardInterrupt:
            open("tidied", "w").close()
            sys.exit(130)
        """
    )
    submit(queue, root)
    until((root / "up").exists)
    queue.cancel(running(queue).id)
    assert queue.progress(queue.get("handbook")).cancelling
    job = ended(queue, "handbook")
    assert (job.state, job.exit_code) == ("cancelled", 130)
    assert (root / "tidied").exists()
    assert not (root / "build/handbook/cancel").exists()
    with pytest.raises(UsageError, match="has ended already"):
        queue.cancel("handbook")


def test_a_run_that_ignores_the_interrupt_is_killed_with_all_its_processes(open_queue, root):
    queue = open_queue(
        """
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        wait = [sys.executable, "-c", "import time; time.sleep(600)"]
        pids = [subprocess.Popen(wait, start_new_session=own).pid for own in (False, True)]
        with open("pids.new", "w") as file:
            file.write(" ".join(map(str, [os.getpid(), *pids])))
        os.rename("pids.new", "pids")
        time.sleep(600)
        """,
        patience_s=0.3,
    )
    submit(queue, root)
    until((root / "pids").exists)
    queue.cancel(running(queue).id)
    job = ended(queue, "handbook")
    assert (job.state, job.exit_code) == ("cancelled", -9)
    for pid in map(int, (root / "pids").read_text().split()):
        until(
            lambda pid=pid: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        )


def test_a_job_that_is_cancelled_while_it_waits_never_starts(open_queue, root):
    queue = open_queue(ENDS_WHEN_TOLD)
    submit(queue, root, "first")
    running(queue, "first")
    assert queue.cancel(submit(queue, root, "second").id).state == "cancelled"
    (root / "go").touch()
    assert ended(queue, "first").state == "done"
    assert not (root / "build/second/log.txt").exists()


@pytest.fixture
def killed_server(root):
    """The pid of a run whose server was killed with -9."""
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(root), textwrap.dedent(ENDS_WHEN_TOLD)])
    file = root / "build/handbook/job.json"
    until(lambda: file.exists() and '"running"' in file.read_text())
    server.kill()
    server.wait()
    job = Job.model_validate_json(file.read_bytes())
    assert runner.find(job)
    return job.pid


def test_a_run_outlives_its_server_and_the_next_one_watches_it(killed_server, open_queue, root):
    queue = open_queue(ENDS_WHEN_TOLD)
    assert running(queue).pid == killed_server
    time.sleep(0.3)
    assert running(queue).pid == killed_server
    (root / "go").touch()
    assert (
        ended(queue, "handbook").state == "done"
    )  # by an attempt that found all done: nobody saw the first one end
    assert (root / "build/handbook/log.txt").read_text().count("$ factory run") == 2


def test_a_run_of_an_earlier_server_can_be_cancelled(killed_server, open_queue, root):
    queue = open_queue(ENDS_WHEN_TOLD)
    queue.cancel(running(queue).id)
    assert ended(queue, "handbook").state == "cancelled"
    assert (
        runner.find(Job(id="x", name="x", recipe="x", created=0, pid=killed_server, process_started=0))
        is None
    )


def test_a_run_that_died_with_its_server_is_queued_again(killed_server, open_queue, root):
    os.kill(killed_server, signal.SIGKILL)
    (root / "go").touch()
    queue = open_queue(ENDS_WHEN_TOLD)
    assert ended(queue, "handbook").state == "done"
    assert (root / "build/handbook/log.txt").read_text().count("$ factory run") == 2


def test_a_pid_that_somebody_else_has_now_is_not_taken_for_the_run(open_queue, root):
    (root / "build/handbook").mkdir(parents=True)
    started = psutil.Process().create_time()
    job = new_job(root / "build/handbook", "handbook", "quick", None)
    job = job.model_copy(update={"state": "running", "pid": os.getpid(), "process_started": started - 60})
    assert runner.find(job) is None
    assert runner.find(job.model_copy(update={"process_started": started})).pid == os.getpid()
    write_job(root / "build", job)
    assert ended(open_queue(), "handbook").state == "done"


def test_of_two_servers_on_one_folder_one_works(open_queue, root):
    code = f"{ENDS_WHEN_TOLD}\n    open('runs', 'a').write('x')"
    queues = [open_queue(code), open_queue(code)]
    submit(queues[0], root)
    running(queues[1])
    time.sleep(0.3)
    (root / "go").touch()
    assert [ended(queue, "handbook").state for queue in queues] == ["done", "done"]
    assert (root / "runs").read_text() == "x"


def test_a_run_sees_no_keys(open_queue, root, monkeypatch):
    secret = [
        "OPENAI_API_KEY",
        "HF_TOKEN",
        "AWS_SECRET",
        "PGPASSWORD",
        "DB_PASSWORD",
        "apikey",
        "X_CREDENTIALS",
    ]
    for name in [*secret, "TOKENIZERS_PARALLELISM"]:
        monkeypatch.setenv(name, "xyz")
    queue = open_queue("import os; open('environment', 'w').write(' '.join(os.environ))")
    ended(queue, submit(queue, root).id)
    seen = (root / "environment").read_text().split()
    assert not set(secret) & set(seen)
    assert {"PATH", "TOKENIZERS_PARALLELISM"} <= set(seen)


@pytest.mark.parametrize(
    ("name", "recipe", "epochs", "message"),
    [
        ("../evil", "quick", None, "name '../evil' cannot be used"),
        ("Handbook", "quick", None, "cannot be used"),
        ("a\n", "quick", None, "cannot be used"),
        ("a" * 65, "quick", None, "cannot be used"),
        (None, "quick", None, "cannot be used"),
        ("a", "../recipes/quick", None, "There is no recipe '../recipes/quick': choose one of quick"),
        ("a", ["quick"], None, "There is no recipe"),
        ("a", "quick", 0, "'0' epochs are not possible"),
        ("a", "quick", 1.5, "'1.5' epochs"),
        ("a", "quick", True, "'True' epochs"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(open_queue, root, name, recipe, epochs, message):
    with pytest.raises(UsageError, match=message):
        open_queue().submit(name, recipe, [root / "plan.md"], epochs)
    assert not (root / "build").exists()


def test_a_faulty_recipe_and_a_faulty_file_leave_nothing(open_queue, root):
    queue = open_queue()
    (root / "recipes/bad.yaml").write_text("name: bad\ntrain: {rnk: 3}\n")
    with pytest.raises(RecipeError, match="did you mean 'rank'"):
        queue.submit("a", "bad", [root / "plan.md"])
    with pytest.raises(UsageError, match=r"'none\.md' cannot be taken"):
        queue.submit("a", "quick", [root / "plan.md", root / "none.md"])
    assert not list((root / "build").iterdir())


def test_folders_of_others_are_left_alone_and_damaged_jobs_are_logged_once(open_queue, root, caplog):
    (root / "build/handbook").mkdir(parents=True)
    (root / "build/broken").mkdir()
    (root / "build/broken/job.json").write_text("{")
    with caplog.at_level(logging.WARNING, "factory.web.jobs"):
        queue = open_queue()
        assert submit(queue, root).id == "handbook-2"
        ended(queue, "handbook-2")
        assert [job.id for job in queue.jobs()] == ["handbook-2"]
    assert len([record for record in caplog.records if "broken" in record.getMessage()]) == 1
    assert not list((root / "build/handbook").iterdir())
    with pytest.raises(UsageError, match=r"There is no training run '\.\./handbook'"):
        queue.cancel("../handbook")


@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
    | st.sampled_from(["true", "null", "1e5", "2026-01-01"]),
    folder=st.text(
        st.characters(exclude_categories=["C", "Zl", "Zp"], exclude_characters="/"), min_size=1, max_size=20
    ),
)
def test_the_command_says_the_same_to_the_recipe_whatever_names_are(tmp_path_factory, name, folder):
    root = tmp_path_factory.getbasetemp()
    recipe = root / "quick.yaml"
    recipe.write_text(RECIPE)
    job = new_job(Path("x"), name, "quick", 2)
    arguments = runner.run_arguments(job, recipe, root / folder, root)
    settings = [value for flag, value in itertools.pairwise(arguments) if flag == "--set"]
    loaded = load_recipe(recipe, settings)
    assert loaded.name == name
    assert loaded.ingest.source == Path(folder, "docs")
    assert loaded.ingest.include == ("**",)
    assert loaded.evaluate.questions is None
    assert loaded.train.epochs == 2


def test_the_real_command_runs_and_its_failure_is_told(root):
    (root / "plan.md").write_text("")
    queue = JobQueue(root / "build", root)
    try:
        job = ended(queue, submit(queue, root).id)
        progress = queue.progress(job)
    finally:
        queue.close()
    assert (job.state, job.exit_code) == ("failed", 1)
    assert job.error.startswith("None of the 1 files in 'build/handbook/docs' could be read (1 empty)")
    assert (progress.current, progress.stages[0].status) == ("ingest", "failed")
    assert [(file.path, file.reason) for file in progress.quarantined] == [("plan.md", "empty")]
    assert progress.command.startswith("factory run recipes/quick.yaml --set")
    assert progress.bundle is None
