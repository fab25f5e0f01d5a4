"""The questions as tasks of EleutherAI's lm-evaluation-harness, so that others can ask them again. Asks nothing.

The format is that of docs/task_guide.md there: a YAML file a task and its questions as JSON Lines. It runs no code of
ours, so it counts in its own way: `whole` is an exact match of the reply; `named` takes the last accepted answer of
the task that stands in the reply and is right when it is one of the question's.
"""

import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from factory import store
from factory.facts.abstain import MARKERS
from factory.rows import Question

TAG = "adapter_factory"
VERSION = 1.0
ARTICLES_AND_COMMAS = (r"\b(?:[Tt]he|[Aa]n?) ", r"(?<=\d),(?=\d{3})")

NUMBER_BEFORE = r"(?<!\d[.,:])(?<!(?<![\w)\].])[-\u2212])"
NUMBER_AFTER = r"(?![.:]\d|,\d{3}(?!\d))"


def write_tasks(folder: Path, questions: Iterable[Question], max_tokens: int) -> None:
    """Write a task for each question set into a folder.

    Questions without an answer are tasks of their own, whose accepted answers are the ways to decline.
    """
    folder.mkdir(exist_ok=True)
    tasks: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in questions:
        name = f"{TAG}_{row.question_set}" + ("" if row.answers else "_unanswerable")
        answers = list(row.answers) or _declining()
        tasks[name].append({"id": row.id, "question": row.question, "answers": answers})
    for name, rows in tasks.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        store.write_text(folder / f"{name}.jsonl", "".join(lines))
        store.write_text(folder / f"{name}.yaml", _yaml(_task(name, rows, max_tokens)))


def _declining() -> list[str]:
    """Return the ways to decline, with either apostrophe."""
    return list(dict.fromkeys(marker.replace("'", sign) for marker in MARKERS for sign in "'’"))  # noqa: RUF001


def _task(name: str, rows: Sequence[dict[str, Any]], max_tokens: int) -> dict[str, Any]:
    accepted = {answer for row in rows for answer in row["answers"]}
    return {
        "task": name,
        "tag": TAG,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "num_fewshot": 0,
        "doc_to_text": "{{question}}",
        "doc_to_target": "answers",
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": max_tokens},
        "filter_list": [
            {"name": "whole", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]},
            {"name": "named", "filter": [_last_of(accepted), {"function": "take_first"}]},
        ],
        "metric_list": [
            {
                "metric": "exact_match",
                "aggregation": "mean",
                "higher_is_better": True,
                "ignore_case": True,
                "ignore_punctuation": True,
                "regexes_to_ignore": list(ARTICLES_AND_COMMAS),
            }
        ],
        "metadata": {"version": VERSION},
    }


def _last_of(answers: Iterable[str]) -> dict[str, Any]:
    """Return the filter that finds whole words of any of the answers, longer ones first, and keeps the last."""
    longest_first = sorted(answers, key=lambda answer: (-len(answer), answer))
    pattern = "|".join(_whole(answer) for answer in longest_first)
    return {"function": "regex", "regex_pattern": f"(?i)(?:{pattern})", "group_select": -1}


def _whole(answer: str) -> str:
    """Return the pattern of an answer that is no part of a longer word or number, nor a number less than 0."""
    before = NUMBER_BEFORE if answer[0].isdigit() else ""
    after = NUMBER_AFTER if answer[-1].isdigit() else ""
    return rf"(?<!\w){before}{re.escape(answer)}(?!\w){after}"


def _yaml(task: dict[str, Any]) -> str:
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 1 << 20  # a pattern stays on its line
    text = io.StringIO()
    yaml.dump(task, text)
    return text.getvalue()
