"""A queue of training runs that survives a restart of the server: one folder a job, one run at a time. Knows no page.

What is on the disk is the truth. A run goes on when the server ends, and is watched again by the next one; what
was cut off is queued again and resumes from its last finished stage, because the command line does so.
"""

import contextlib
import itertools
import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from factory import store
from factory.errors import UsageError
from factory.quiet import explain
from factory.web import runner
from factory.web.job import CANCEL, DOCUMENTS, Job, check_request, claim_folder, new_job, read_jobs, write_job
from factory.web.job_progress import Progress, error_line, find_bundle, read_progress
from factory.web.uploads import accept_documents

logger = logging.getLogger(__name__)
PATIENCE_S = 10.0  # what an interrupted run gets to put itself in order
LOOK_S = 2.0  # how often an idle worker looks for jobs that another server was given


class JobQueue:
    """Training runs in `folder`, worked off by one thread; `root` is where `recipes/` is and commands are run.

    With `root / "build"` as the folder, finished models stand where the command line looks for them. Of several
    servers on one folder, one works and all show the same.
    """

    def __init__(
        self,
        folder: Path,
        root: Path,
        command: runner.Command = runner.run_command,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Find what is left of earlier servers and go on with it."""
        self.folder, self.root = folder.resolve(), root.resolve()
        self._command, self._patience_s = command, patience_s
        self._lock, self._wake, self._closed = threading.RLock(), threading.Event(), threading.Event()
        self._listeners: list[Callable[[Job], Any]] = []
        self._unreadable: set[Path] = set()
        self._thread = threading.Thread(target=self._work, name="training-queue", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop working; a run that has started goes on by itself and is found by the next queue."""
        self._closed.set()
        self._wake.set()
        self._thread.join()

    def on_end(self, listener: Callable[[Job], Any]) -> None:
        """Have a function called, in the worker's thread, with each job that ends, just before it is shown as ended."""
        self._listeners.append(listener)

    def recipes(self) -> dict[str, Path]:
        """Return the recipes that can be chosen, by label."""
        return {path.stem: path for path in sorted((self.root / "recipes").glob("*.yaml"))}

    def jobs(self) -> list[Job]:
        """Return all jobs, the newest first; one that cannot be read is logged once and left out."""
        found = list(read_jobs(self.folder))
        jobs = [item for item in found if isinstance(item, Job)]
        with self._lock:
            for path in {item for item in found if isinstance(item, Path)} - self._unreadable:
                logger.warning("%s cannot be read and is left out: delete its folder", path)
                self._unreadable.add(path)
        return sorted(jobs, key=lambda job: (job.created, job.id), reverse=True)

    def get(self, job_id: object) -> Job:
        """Return a job by its id.

        Raises:
            UsageError: there is none.
        """
        for job in self.jobs():
            if job.id == job_id:
                return job
        raise UsageError(f"There is no training run {str(job_id)[:80]!r}: choose one from the list")

    def submit(self, name: str, recipe: str, files: Sequence[Path], epochs: int | None = None) -> Job:
        """Copy the documents into a new job's folder and queue it; `epochs` takes the place of the recipe's.

        Raises:
            UsageError: the name, the recipe, the epochs or a file cannot be used.
            RecipeError: the recipe has faults.
        """
        recipes = self.recipes()
        check_request(name, recipe, epochs, recipes)
        folder = claim_folder(self.folder, name)
        try:
            job = new_job(folder, name, recipe, epochs)
            self._check_recipe(job, recipes[recipe], folder)
            accept_documents(files, folder / DOCUMENTS)
            write_job(self.folder, job)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._wake.set()
        return job

    def cancel(self, job_id: str) -> Job:
        """Take a job out of the queue, or have its run interrupted and, if that does not help, killed.

        Raises:
            UsageError: there is no such job, or it has ended.
        """
        with self._lock:
            job = self.get(job_id)
            if not job.active:
                raise UsageError(f"{job.id!r} has ended already ({job.state}): there is nothing to cancel")
            if job.state == "queued":
                return self._change(job, state="cancelled")
            (self.folder / job.id / CANCEL).touch()
            return job

    def retry(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again; its run goes on from the last finished stage.

        Raises:
            UsageError: there is no such job, or it has not failed and was not cancelled.
        """
        with self._lock:
            job = self.get(job_id)
            if job.state not in {"failed", "cancelled"}:
                raise UsageError(
                    f"{job.id!r} is {job.state}: only what failed or was cancelled can be retried"
                )
            (self.folder / job.id / CANCEL).unlink(missing_ok=True)
            job = self._change(job, state="queued", exit_code=None, error=None)
        self._wake.set()
        return job

    def progress(self, job: Job) -> Progress:
        """Return how far a job is, from what its run has written."""
        return read_progress(job, self.folder / job.id, self.shell_command(job))

    def bundle(self, job: Job) -> Path | None:
        """Return the bundle of a job that gave one, else None."""
        return find_bundle(job, self.folder / job.id)

    def shell_command(self, job: Job) -> str:
        """Return what a person types in the root folder to do the same."""
        return runner.shell_command(job, self._recipe_of(job), self.folder / job.id, self.root)

    def _check_recipe(self, job: Job, recipe: Path, folder: Path) -> None:
        from factory.recipe import load_recipe

        arguments = runner.run_arguments(job, recipe, folder, self.root)
        load_recipe(recipe, [value for flag, value in itertools.pairwise(arguments) if flag == "--set"])

    def _recipe_of(self, job: Job) -> Path:
        return self.recipes().get(job.recipe, self.root / "recipes" / f"{job.recipe}.yaml")

    def _change(self, job: Job, **values: Any) -> Job:
        return write_job(self.folder, job.model_copy(update=values))

    def _work(self) -> None:
        while not self._closed.is_set():
            try:
                if any(job.active for job in self.jobs()):
                    with (
                        contextlib.suppress(BlockingIOError),
                        store.locked(self.folder),
                    ):  # else another works
                        self._drain()
            except OSError:  # a full disk, or a folder that somebody deleted: it may be better later
                logger.exception("the training queue in %s", self.folder)
            self._wake.wait(LOOK_S)
            self._wake.clear()

    def _drain(self) -> None:
        while not self._closed.is_set() and (job := self._next()):
            try:
                self._attend(job)
            except Exception as error:  # the thread must outlive whatever one job does
                logger.exception("training run %s", job.id)
                self._end(job, state="failed", error=explain(error, "This run"))

    def _next(self) -> Job | None:
        """Return the run that goes on, else the job that waits longest."""
        waiting = [job for job in reversed(self.jobs()) if job.active]
        return next((job for job in waiting if job.state == "running"), waiting[0] if waiting else None)

    def _attend(self, job: Job) -> None:
        """See one job to its end, or to that of this queue; one whose process vanished is queued again."""
        folder = self.folder / job.id
        process = runner.find(job) if job.state == "running" else None
        if job.state == "queued":
            process, job = self._start(job)
            if process is None:
                return
        code = runner.wait(process, folder, self._patience_s, self._closed.is_set) if process else None
        if self._closed.is_set():
            return
        if (folder / CANCEL).exists():
            self._end(job, state="cancelled", exit_code=code)
        elif code == 0:
            self._end(job, state="done", exit_code=code)
        elif code is not None or error_line(folder):
            self._end(job, state="failed", exit_code=code, error=error_line(folder) or _describe_end(code))
        else:  # nobody knows how it ended: its next attempt finds everything done, or resumes
            with self._lock:
                self._change(job, state="queued", pid=None, process_started=None)

    def _start(self, job: Job) -> tuple[Any, Job]:
        """Start a queued job unless it was cancelled meanwhile; return its process, None if so."""
        folder = self.folder / job.id
        with self._lock:
            if (job := self.get(job.id)).state != "queued":
                return None, job
            command = self._command(job, self._recipe_of(job), folder, self.root)
            process = runner.start(command, folder, self.root, self.shell_command(job))
            try:
                began = process.create_time()
                return process, self._change(job, state="running", pid=process.pid, process_started=began)
            except BaseException:  # a run that is written down nowhere would never be found again
                process.kill()
                raise

    def _end(self, job: Job, **values: Any) -> None:
        ended = job.model_copy(update={"pid": None, "process_started": None, **values})
        for listener in self._listeners:
            try:
                listener(ended)
            except Exception:
                logger.exception("what follows the end of %s failed", job.id)
        with self._lock:
            write_job(self.folder, ended)
            (self.folder / job.id / CANCEL).unlink(missing_ok=True)


def _describe_end(code: int | None) -> str:
    if code is not None and code < 0:
        return f"The run was ended by signal {-code}, maybe for lack of memory: retry goes on from the last stage"
    return f"The run ended with exit code {code} and said no error: look at the log"
