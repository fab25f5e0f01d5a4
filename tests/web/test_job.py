"""A job's own rules: which folder it gets, what a file of it may hold, which jobs are read back and in which order."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from factory import store
from factory.errors import UsageError
from factory.web.job import JOB_FILE, Job, check_request, claim_folder, new_job, read_jobs, write_job

RECIPES = {"quick": Path("recipes/quick.yaml"), "long": Path("recipes/long.yaml")}


def make_job(parent, name):
    return write_job(parent, new_job(claim_folder(parent, name), name, "quick", 3))


def test_a_folder_gets_the_first_number_that_is_free(tmp_path):
    parent = tmp_path / "build"
    assert [claim_folder(parent, "handbook").name for _ in range(2)] == ["handbook", "handbook-2"]
    (parent / "handbook-3").write_text("a file takes the name as well")
    assert claim_folder(parent, "handbook") == parent / "handbook-4"
    (parent / "handbook-2").rmdir()
    assert claim_folder(parent, "handbook").name == "handbook-2"
    assert all(folder.is_dir() for folder in parent.glob("handbook*") if folder.name != "handbook-3")


def test_a_new_job_is_named_by_its_folder_waits_and_is_dated_now():
    before = datetime.now(UTC)
    job = new_job(Path("build/handbook-2"), "handbook", "quick", None)
    assert (job.id, job.name, job.state, job.epochs) == ("handbook-2", "handbook", "queued", None)
    assert before <= job.created <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("state", "active"),
    [("queued", True), ("running", True), ("done", False), ("failed", False), ("cancelled", False)],
)
def test_only_what_waits_or_runs_is_active(state, active):
    assert new_job(Path("x"), "x", "quick", None).model_copy(update={"state": state}).active is active


@pytest.mark.parametrize(
    "fault", [{"name": "a\n"}, {"name": "A"}, {"epochs": 0}, {"epochs": 1001}, {"state": "lost"}, {"more": 1}]
)
def test_a_file_that_holds_something_else_is_no_job(fault):
    sound = {"id": "a", "name": "a", "recipe": "quick", "created": "2026-03-29T01:30:00Z", "epochs": 1000}
    assert Job.model_validate(sound).created == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    with pytest.raises(ValidationError):
        Job.model_validate(sound | fault)


def test_jobs_come_back_as_they_were_and_what_is_none_comes_as_its_path(tmp_path):
    jobs = [make_job(tmp_path, name) for name in ("b", "a", "a")]
    for name, text in (("damaged", "{"), ("moved", jobs[0].model_dump_json())):
        (tmp_path / name).mkdir()
        (tmp_path / name / JOB_FILE).write_text(text)
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    (tmp_path / "empty").mkdir()
    found = list(read_jobs(tmp_path))
    assert [row for row in found if isinstance(row, Job)] == [jobs[1], jobs[2], jobs[0]]
    odd = [row.parent.name for row in found if isinstance(row, Path)]
    assert odd == ["damaged", "linked", "moved"]


def test_a_link_to_a_jobs_folder_is_not_a_second_job_even_under_its_name(tmp_path):
    job = make_job(tmp_path / "elsewhere", "a")
    (tmp_path / "build").mkdir()
    (tmp_path / "build/a").symlink_to(tmp_path / "elsewhere/a")
    assert store.read_json(tmp_path / "build/a" / JOB_FILE)["id"] == job.id == "a"
    assert list(read_jobs(tmp_path / "build")) == [tmp_path / "build/a" / JOB_FILE]


def test_a_possible_request_passes_and_a_refusal_names_the_way_out():
    for epochs in (None, 1, 1000):
        check_request("my-handbook_2.0", "long", epochs, RECIPES)
    with pytest.raises(UsageError, match=r"no recipe 'slow': choose one of quick, long$"):
        check_request("a", "slow", None, RECIPES)
    with pytest.raises(UsageError, match=r"choose one of none$"):
        check_request("a", "quick", None, {})
    with pytest.raises(
        UsageError, match="'1001' epochs are not possible: give a whole number from 1 to 1000"
    ):
        check_request("a", "quick", 1001, RECIPES)


def test_a_refusal_repeats_no_more_than_the_beginning_of_what_was_asked():
    with pytest.raises(UsageError) as refused:
        check_request("x" * 5000, "quick", None, RECIPES)
    assert f"'{'x' * 80}'" in str(refused.value)
    assert "x" * 81 not in str(refused.value)
