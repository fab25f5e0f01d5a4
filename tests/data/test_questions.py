"""The questions about the committed company: complete, unique, each tied to a document and a line in it."""

import json
import re
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "data"
QUICKSTART = DATA / "quickstart"
PLAIN = {".md", ".txt", ".rst", ".py", ".csv", ".tsv", ".json", ".jsonl"}
SUPERSEDED = {"people/leave-policy-v4.txt", "it/passphrases-v1.txt", "travel/travel-policy-v2.html"}


FOLDERS = {"quickstart": QUICKSTART, "company": DATA}  # what a file's sources are relative to


def _read(name: str) -> list[dict]:
    lines = (DATA / "questions" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module", params=FOLDERS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def questions(name) -> list[dict]:
    return _read(name)


@pytest.fixture(scope="module")
def answerable(questions) -> list[dict]:
    return [question for question in questions if question["answers"]]


@pytest.mark.parametrize(("file", "can", "cannot"), [("quickstart", 100, 15), ("company", 112, 0)])
def test_so_many_questions_can_be_answered_and_so_many_cannot(file, can, cannot):
    found = [bool(question["answers"]) for question in _read(file)]
    assert (sum(found), len(found) - sum(found)) == (can, cannot)


def test_every_line_has_the_same_four_fields(questions):
    assert {tuple(question) for question in questions} == {("question", "answers", "source", "evidence")}


def test_no_question_is_asked_twice(questions):
    asked = [" ".join(re.findall(r"\w+", question["question"].lower())) for question in questions]
    assert len(set(asked)) == len(asked)


def test_sources_are_documents_of_the_company_that_are_in_force(name, answerable):
    sources = {question["source"] for question in answerable}
    assert [source for source in sorted(sources) if not (FOLDERS[name] / source).is_file()] == []
    assert not sources & SUPERSEDED
    assert not any(source.startswith("broken/") for source in sources)


def test_answerable_questions_have_evidence_and_distinct_short_answers(answerable):
    for question in answerable:
        assert question["evidence"].strip(), question
        assert all(answer.strip() for answer in question["answers"]), question
        assert len(set(question["answers"])) == len(question["answers"]), question
        assert len(question["answers"][0].split()) <= 6, question


def test_unanswerable_questions_name_no_source_and_no_evidence(questions):
    unanswerable = [question for question in questions if not question["answers"]]
    assert {(question["source"], question["evidence"]) for question in unanswerable} <= {("", "")}


def test_evidence_stands_word_for_word_in_the_plain_text_documents(name, answerable):
    def words(text: str) -> str:
        return " ".join(re.sub(r"[*`]", "", text).split())

    plain = [question for question in answerable if Path(question["source"]).suffix in PLAIN]
    assert plain
    for question in plain:
        document = (FOLDERS[name] / question["source"]).read_text(encoding="utf-8")
        assert words(question["evidence"]) in words(document), question
