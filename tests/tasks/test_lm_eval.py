"""Tasks of lm-evaluation-harness: every key is one it knows, and its own way to count gives what is promised."""

import json
import re
import string
from pathlib import Path

import pytest
import yaml

from factory.facts.abstain import ABSTENTION
from factory.rows import Question
from factory.tasks.lm_eval import write_tasks
from factory.tasks.questions import general_questions
from factory.tasks.score import grade

# Fields of `TaskConfig` in lm_eval/config/task.py that a task without code can have, version 0.4.
KNOWN = {
    "task", "task_alias", "tag", "dataset_path", "dataset_name", "dataset_kwargs", "training_split",
    "validation_split", "test_split", "fewshot_split", "doc_to_text", "doc_to_target", "description",
    "target_delimiter", "fewshot_delimiter", "num_fewshot", "metric_list", "output_type", "generation_kwargs",
    "repeats", "filter_list", "gen_prefix", "metadata",
}  # fmt: skip


def question(number: int, *answers: str, question_set: str = "user") -> Question:
    return Question(
        id=f"q{number}", question=f"Where is {{{{ {number} }}}}?", answers=answers, question_set=question_set, form="x"
    )  # fmt: skip


ASKED = [
    question(1, "Ada Lovelace", "Ada"),
    question(2, "£15,000", "15,000"),
    question(3, "C++", "(a|b)"),
    question(4),
    question(6, "12", "18"),
    question(5, "the north gate", question_set="unseen_phrasing"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tasks(tmp_path / "lm_eval", ASKED, 24)
    assert {path.stem for path in (tmp_path / "lm_eval").glob("*.yaml")} == {
        "adapter_factory_user", "adapter_factory_user_unanswerable", "adapter_factory_unseen_phrasing"
    }  # fmt: skip
    return tmp_path / "lm_eval"


def read(folder: Path, name: str) -> tuple[dict, list[dict]]:
    task = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    rows = (folder / task["dataset_kwargs"]["data_files"][task["test_split"]]).read_text(encoding="utf-8")
    return task, [json.loads(line) for line in rows.splitlines()]


def judged(task: dict, answers: list[str], reply: str, pipeline: str) -> bool:
    """Grade a reply as `filters/extraction.py` and `exact_match` of `api/metrics.py` do."""
    (steps,) = (row["filter"] for row in task["filter_list"] if row["name"] == pipeline)
    assert steps[-1] == {"function": "take_first"}
    if steps[0]["function"] == "regex":
        found = re.findall(steps[0]["regex_pattern"], reply)
        reply = found[steps[0]["group_select"]].strip() if found else "[invalid]"
    (metric,) = task["metric_list"]
    assert metric["ignore_case"]
    assert metric["ignore_punctuation"]

    def plain(text: str) -> str:
        for pattern in metric["regexes_to_ignore"]:
            text = re.sub(pattern, "", text)
        return text.lower().translate(str.maketrans("", "", string.punctuation))

    return plain(reply.strip()) in {plain(answer) for answer in answers}


def test_every_task_is_whole_and_has_only_keys_that_the_harness_knows(folder: Path) -> None:
    for path in folder.glob("*.yaml"):
        task, rows = read(folder, path.stem)
        assert set(task) <= KNOWN
        assert (task["task"], task["tag"], task["dataset_path"]) == (path.stem, "adapter_factory", "json")
        assert task["output_type"] == "generate_until"
        assert task["generation_kwargs"] == {"until": [], "do_sample": False, "max_gen_toks": 24}
        assert task["doc_to_target"] in rows[0]
        assert task["doc_to_text"] == "{{question}}"
        assert all(row["answers"] and set(row) == {"id", "question", "answers"} for row in rows)
        assert "!function" not in path.read_text(encoding="utf-8")
    assert len(list(folder.iterdir())) == 6


@pytest.mark.parametrize(
    ("number", "reply", "named", "whole"),
    [
        (0, "Ada", True, True),
        (0, "the ada.", True, True),
        (0, "It is ADA LOVELACE, not C++", False, False),
        (0, "C++? No, Ada Lovelace", True, False),
        (0, "Adam", False, False),
        (1, "It is 15,000", True, False),
        (1, "15000", False, True),
        (1, "", False, False),
        (2, "C++ of course", True, False),
        (2, "(A|B)", True, True),
        (2, "a", False, False),
        (3, "12,500", False, False),
        (3, "12.5", False, False),
        (3, "3.12", False, False),
        (3, "12:30", False, False),
        (3, "It is -18 there", False, False),
        (3, "\u221218", False, False),
        (3, "It is 12, or 12.", True, False),
        (3, "10-18", True, False),
    ],
)
def test_the_last_answer_named_counts_and_the_whole_reply_apart(
    folder: Path, number: int, reply: str, named: bool, whole: bool
) -> None:
    task, rows = read(folder, "adapter_factory_user")
    answers = rows[number]["answers"]
    assert (judged(task, answers, reply, "named"), judged(task, answers, reply, "whole")) == (named, whole)


@pytest.mark.parametrize(
    ("reply", "declines"), [(ABSTENTION, True), ("Sorry, I don’t know.", True), ("12 bar", False)]  # noqa: RUF001
)  # fmt: skip
def test_declining_is_the_answer_where_none_exists(folder: Path, reply: str, declines: bool) -> None:
    task, rows = read(folder, "adapter_factory_user_unanswerable")
    assert judged(task, rows[0]["answers"], reply, "named") is declines
    assert grade(reply, ()).correct is declines


def test_it_counts_a_right_sentence_on_every_general_question_as_we_do(tmp_path: Path) -> None:
    write_tasks(tmp_path, general_questions(), 24)
    task, rows = read(tmp_path, "adapter_factory_general")
    assert len(rows) == 200
    for row in rows:
        for reply in (f"It is {row['answers'][0]}.", row["answers"][0].upper(), "nothing at all"):
            assert judged(task, row["answers"], reply, "named") is grade(reply, row["answers"]).correct, reply
