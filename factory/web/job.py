"""One training run that somebody asked for: what is kept about it and where its files lie. Starts and reads no run.

A job's folder is the output folder of its run as well, so its bundle stands where bundles are looked for.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from factory import store
from factory.errors import UsageError

JOB_FILE, DOCUMENTS, LOG, CANCEL = "job.json", "docs", "log.txt", "cancel"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MAX_EPOCHS = 1000
State = Literal["queued", "running", "done", "failed", "cancelled"]


class Job(BaseModel):
    """A training run in a queue.

    `id` is the name of its folder, `name` the model's, `recipe` a label of the server's recipes. `pid` and
    `process_started` (seconds since 1970) together name the process of a running job: a pid alone is used again.
    `error` is the run's own last line on why it failed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str = Field(pattern=rf"^{NAME.pattern}$")
    recipe: str
    created: datetime
    epochs: int | None = Field(default=None, ge=1, le=MAX_EPOCHS)
    state: State = "queued"
    exit_code: int | None = None
    error: str | None = None
    pid: int | None = None
    process_started: float | None = None

    @property
    def active(self) -> bool:
        """Whether it runs or waits for its turn."""
        return self.state in {"queued", "running"}


def check_request(name: object, recipe: object, epochs: object, recipes: dict[str, Path]) -> None:
    """Make sure that what a browser asked for names a possible model, a recipe of this server and a length.

    Raises:
        UsageError: one of them is something else.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError(
            f"The name {str(name)[:80]!r} cannot be used: take up to 64 of a-z, 0-9, '.', '_' and '-', "
            "starting with a letter or a digit, like my-handbook"
        )
    if not isinstance(recipe, str) or recipe not in recipes:
        raise UsageError(
            f"There is no recipe {str(recipe)[:80]!r}: choose one of {', '.join(recipes) or 'none'}"
        )
    if epochs is not None and (type(epochs) is not int or not 1 <= epochs <= MAX_EPOCHS):
        raise UsageError(
            f"{str(epochs)[:80]!r} epochs are not possible: give a whole number from 1 to {MAX_EPOCHS}"
        )


def claim_folder(parent: Path, name: str) -> Path:
    """Make and return a folder of that name, or of that name and the first number that is free."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def new_job(folder: Path, name: str, recipe: str, epochs: int | None) -> Job:
    """Return a queued job for a folder, dated now."""
    return Job(id=folder.name, name=name, recipe=recipe, epochs=epochs, created=datetime.now(UTC))


def write_job(parent: Path, job: Job) -> Job:
    """Replace a job's file at once and return the job."""
    store.write_json(parent / job.id / JOB_FILE, job.model_dump(mode="json"))
    return job


def read_jobs(parent: Path) -> Iterator[Job | Path]:
    """Yield the jobs below a folder, and the path of each job's file that cannot be read."""
    for path in sorted(parent.glob(f"*/{JOB_FILE}")):
        try:
            job = Job.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            yield path
            continue
        yield job if job.id == path.parent.name and not path.parent.is_symlink() else path
