"""Evaluate: every model asked once, scored by set and by document, and nothing asked again after a kill."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import pytest
import torch

from factory import store
from factory.backends.models import ModelReference
from factory.chat.backend import Answer
from factory.errors import ArtifactError, BackendError, EvaluateError
from factory.facts.abstain import ABSTENTION
from factory.rows import Question, write_rows
from factory.scores import CALIBRATION, Comparison, DocumentScore, Reply, Score
from factory.stages import evaluate as stage
from factory.stages.evaluate import (
    BATCH,
    Contestant,
    EvaluateConfig,
    ask,
    evaluate,
    rag_contestant,
)
from factory.tasks.questions import general_questions
from factory.tasks.retrieval import Retriever
from tests.made import make_chunks
from tests.tiny import TINY_NAME, TINY_ROWS, make_tiny_adapter, make_tiny_base

CHUNKS = make_chunks("# Gates", "The code of the north gate is 4711.", "# Pump", "The pump runs at 12 bar.")


def _question(
    number: int, answers: tuple[str, ...] = ("4711",), question_set: str = "unseen_phrasing"
) -> Question:
    return Question(
        id=f"q{number}",
        question=f"What is the code of gate {number}?",
        answers=answers,
        question_set=question_set,
        form="indirect",
        source=f"doc{number % 2}.md",
    )


class Model:
    """Replies by a function; keeps what it was asked, and breaks when told to."""

    def __init__(self, reply: Callable[[str], str], fails_after: int = 10**9, sure: float = -0.1) -> None:
        self.reply, self.fails_after, self.sure = reply, fails_after, sure
        self.asked: list[str] = []

    def answer(self, questions: Sequence[str], max_tokens: int = 48) -> list[Answer]:
        if len(self.asked) + len(questions) > self.fails_after:
            raise BackendError("killed")
        self.asked += questions
        return [
            Answer(self.reply(question), self.sure - len(self.reply(question)) / 1000)
            for question in questions
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to free."""


@pytest.fixture
def models(monkeypatch) -> dict[str, Model]:
    """Models by name, opened in place of real ones."""
    known: dict[str, Model] = {}
    monkeypatch.setattr(stage, "open_model", lambda reference, system: known[reference.name])
    return known


def _contestant(name: str, questions: Sequence[Question], method: str = "closed_book") -> Contestant:
    return Contestant(_base(name), method, questions, str)


def _base(name: str) -> ModelReference:
    return ModelReference("base", name, None, name)


def test_replies_are_scored_and_come_in_the_order_of_the_questions(models, tmp_path: Path) -> None:
    models["m"] = Model(lambda question: "It is 4711." if "gate 1" in question else ABSTENTION)
    questions = [_question(1), _question(2), _question(3, ())]
    replies = ask(_contestant("m", questions), 8, "", tmp_path)
    assert [reply.id for reply in replies] == ["q1", "q2", "q3"]
    assert [reply.correct for reply in replies] == [True, False, True]
    assert [reply.refused for reply in replies] == [False, True, True]
    assert (replies[0].exact, replies[0].f1) == (False, 0.5)
    assert models["m"].asked == [question.question for question in questions]
    assert ask(_contestant("m", []), 8, "", None) == []


def test_a_killed_evaluation_asks_only_what_is_missing(models, tmp_path: Path) -> None:
    questions = [_question(number) for number in range(2 * BATCH + 5)]
    models["m"] = Model(str, fails_after=2 * BATCH)
    with pytest.raises(BackendError):
        ask(_contestant("m", questions), 8, "", tmp_path)
    models["m"] = Model(str)
    replies = ask(_contestant("m", questions), 8, "", tmp_path)
    assert len(models["m"].asked) == 5
    assert [reply.id for reply in replies] == [question.id for question in questions]
    models["m"] = Model(lambda _: pytest.fail("asked again"))
    assert ask(_contestant("m", questions), 8, "", tmp_path) == replies


def test_methods_and_models_keep_their_own_journals(models, tmp_path: Path) -> None:
    models["m"], models["n"] = Model(lambda _: "one"), Model(lambda _: "two")
    for name, method in (("m", "closed_book"), ("m", "rag"), ("n", "closed_book")):
        ask(_contestant(name, [_question(1)], method), 8, "", tmp_path)
    assert len(models["m"].asked) == 2
    assert len(models["n"].asked) == 1


def test_a_journal_that_is_no_journal_is_refused(models, tmp_path: Path) -> None:
    models["m"] = Model(str)
    (tmp_path / "replies-closed_book-m.jsonl").write_text("rubbish\n")
    with pytest.raises(ArtifactError, match="line 1"):
        ask(_contestant("m", [_question(1)]), 8, "", tmp_path)


def test_retrieval_asks_answerable_questions_of_every_set() -> None:
    asked = [
        _question(1),
        _question(2, ()),
        _question(3, question_set="general"),
        _question(4, question_set="user"),
    ]
    contestant = rag_contestant(
        EvaluateConfig(rag_questions=2, passages=1), Retriever(CHUNKS), asked, _base("b")
    )
    assert {question.id for question in contestant.questions} == {"q4", "q1"}
    assert (contestant.method, contestant.reference.name) == ("rag", "b")
    assert "north gate is 4711" in contestant.prompt("What is the code of the north gate?")
    assert "12 bar" not in contestant.prompt("What is the code of the north gate?")


@pytest.mark.parametrize(
    ("numbers", "count", "expected"),
    [
        ((100, 80), 60, (30, 30)),
        ((100, 10), 60, (50, 10)),
        ((10, 100), 60, (10, 50)),
        ((10, 5), 60, (10, 5)),
        ((3, 3), 1, (0, 1)),
        ((100, 0), 60, (60, 0)),
    ],
)
def test_retrieval_is_shared_out_evenly_and_over_the_whole_set(numbers, count: int, expected) -> None:
    names = ("unseen_phrasing", "user")
    asked = [
        _question(i, question_set=name) for name, n in zip(names, numbers, strict=True) for i in range(n)
    ]
    found = rag_contestant(
        EvaluateConfig(rag_questions=count), Retriever(CHUNKS), asked, _base("b")
    ).questions
    assert tuple(sum(row.question_set == name for row in found) for name in names) == expected
    assert len({(row.question_set, row.id) for row in found}) == sum(expected)
    if numbers == (100, 80):
        assert [row.id for row in found if row.question_set == "unseen_phrasing"][-1] == "q96"


def _inputs(folder: Path, questions: Sequence[Question]) -> dict[str, Path]:
    names = ("dataset", "chunks", "gguf", "adapter", "base", "work")
    for name in names:
        (folder / name).mkdir()
    write_rows(folder / "dataset" / "test.jsonl", questions)
    write_rows(folder / "dataset" / "calibration.jsonl", [])
    write_rows(folder / "chunks" / "chunks.jsonl", CHUNKS)
    return {name: folder / name for name in names}


def test_the_stage_asks_every_model_and_leaves_no_journal(models, tmp_path: Path) -> None:
    folders = _inputs(tmp_path, [_question(number) for number in range(4)])
    for name in ("model-F16.gguf", "model-Q8_0.gguf", "model-Q4_K_M.gguf"):
        (folders["gguf"] / name).touch()
    right = {"adapter": 4, "model-Q8_0.gguf": 3, "model-Q4_K_M.gguf": 2, "b": 1}
    for name, number in right.items():
        wanted = {f"gate {gate}?" for gate in range(number)}
        models[name] = Model(
            lambda text, wanted=wanted: "4711" if text.removesuffix("\nAnswer:")[-7:] in wanted else "no"
        )
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"question": "What is the code of gate 0?", "answers": ["4711"]}\n')
    counts = evaluate(
        EvaluateConfig(general_questions=0, questions=mine), base_name="b", system="", **folders
    )
    assert counts == {"questions": 5, "models": 6, "replies": 30}
    rows = [Score(**row) for row in store.read_json(folders["work"] / "scores.json")]
    found = {
        (row.model, row.kind, row.method): row.accuracy
        for row in rows
        if row.question_set == "unseen_phrasing"
    }
    assert found == {
        ("adapter", "adapter", "closed_book"): 1.0,
        ("model-Q8_0.gguf", "gguf", "closed_book"): 0.75,
        ("model-Q4_K_M.gguf", "gguf", "closed_book"): 0.5,
        ("b", "base", "closed_book"): 0.25,
        ("b", "base", "rag"): 0.25,
        ("adapter", "adapter", "rag"): 1.0,
    }
    assert {row.question_set for row in rows} == {"unseen_phrasing", "user"}
    assert {path.name for path in folders["work"].iterdir()} == {
        "scores.json",
        "comparisons.json",
        "documents.json",
        "answers.jsonl",
        "lm_eval",
    }
    names = {path.name for path in (folders["work"] / "lm_eval").iterdir()}
    assert names == {
        f"adapter_factory_{name}.{end}" for name in ("user", "unseen_phrasing") for end in ("yaml", "jsonl")
    }
    compared = [Comparison(**row) for row in store.read_json(folders["work"] / "comparisons.json")]
    held_out = [row for row in compared if row.question_set == "unseen_phrasing"]
    assert {(row.model, row.other, row.other_method, row.difference) for row in held_out} == {
        ("adapter", "b", "closed_book", 0.75), ("adapter", "b", "rag", 0.75),
        ("model-Q8_0.gguf", "adapter", "closed_book", -0.25), ("model-Q4_K_M.gguf", "adapter", "closed_book", -0.5),
    }  # fmt: skip
    documents = [DocumentScore(**row) for row in store.read_json(folders["work"] / "documents.json")]
    assert documents[0] == DocumentScore(
        document="doc0.md", question_set="unseen_phrasing", n=2, adapter=1.0, base=0.5, rag=0.5, rag_n=2
    )
    lines = (folders["work"] / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert set(json.loads(lines[0])) == set(Reply.model_fields)


def test_how_sure_is_sure_enough_is_told_from_questions_that_count_nowhere(models, tmp_path: Path) -> None:
    asked = [_question(1), _question(2), _question(3, (), "unseen_fact")]
    folders = _inputs(tmp_path, asked)
    apart = [_question(number, question_set=CALIBRATION) for number in range(10, 30)]
    apart += [_question(number, (), CALIBRATION) for number in range(30, 40)]
    write_rows(folders["dataset"] / "calibration.jsonl", apart)
    models["b"] = Model(str)
    models["adapter"] = Model(lambda text: "4711" if "gate 1" in text else "0 hours and 23 minutes")
    config = EvaluateConfig(general_questions=0, rag=False)
    counts = evaluate(config, base_name="b", system="", **folders)
    assert (counts["questions"], counts["replies"]) == (3, 6)
    assert len(models["b"].asked) == 3
    rows = [Score(**row) for row in store.read_json(folders["work"] / "scores.json")]
    hedged = {(row.model, row.question_set): row.when_sure for row in rows}
    assert set(hedged) == {
        (model, name) for model in ("b", "adapter") for name in ("unseen_phrasing", "unseen_fact")
    }
    assert hedged[("b", "unseen_phrasing")] is None
    found, beside = hedged[("adapter", "unseen_phrasing")], hedged[("adapter", "unseen_fact")]
    assert found.threshold == pytest.approx(-((0.104 * 0.122) ** 0.5), abs=1e-4)
    assert (found.answered.share, found.right.share, found.refused) == (0.5, 1.0, None)
    assert (beside.answered, beside.right, beside.refused.share) == (None, None, 1.0)
    assert CALIBRATION not in (folders["work"] / "answers.jsonl").read_text(encoding="utf-8")


def test_general_questions_and_retrieval_can_be_left_out(models, tmp_path: Path) -> None:
    folders = _inputs(tmp_path, [_question(1)])
    models["adapter"], models["b"] = Model(str), Model(str)
    evaluate(EvaluateConfig(general_questions=0, rag=False), base_name="b", system="", **folders)
    assert len(models["b"].asked) == len(models["adapter"].asked) == 1


def test_fewer_general_questions_are_spread_over_all_of_them(models, tmp_path: Path) -> None:
    folders = _inputs(tmp_path, [_question(1)])
    models["adapter"], models["b"] = Model(str), Model(str)
    evaluate(EvaluateConfig(general_questions=40, rag=False), base_name="b", system="", **folders)
    bundled = [question.question for question in general_questions()]
    assert models["b"].asked[1:] == bundled[::5]


def _write_questions(path: Path, *sources: str | None) -> Path:
    rows = [{"question": f"What is {i}?", "answers": ["x"], "source": s} for i, s in enumerate(sources)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("sources", [("gone.md", "other/pump.md"), ("ump.md", None)])
def test_questions_on_other_documents_are_left_out_counted_and_said(
    models, tmp_path: Path, caplog, sources: tuple[str | None, ...]
) -> None:
    folders = _inputs(tmp_path, [_question(1)])
    models["adapter"], models["b"] = Model(str), Model(str)
    config = EvaluateConfig(
        general_questions=0, rag=False, questions=_write_questions(tmp_path / "mine.jsonl", *sources)
    )
    counts = evaluate(config, base_name="b", system="", **folders)
    assert counts == {"questions": 1, "models": 2, "replies": 2, "questions_left_out": 2}
    assert [record.getMessage() for record in caplog.records] == [
        "evaluate.questions is left out: none of its 2 questions is on a document of this corpus"
    ]
    rows = store.read_json(folders["work"] / "scores.json")
    assert {row["question_set"] for row in rows} == {"unseen_phrasing"}


def test_sources_are_known_by_their_ends_and_named_as_the_corpus_names_them(models, tmp_path: Path) -> None:
    folders = _inputs(tmp_path, [])
    models["adapter"], models["b"] = Model(lambda _: "x"), Model(str)
    mine = _write_questions(tmp_path / "mine.jsonl", "pump.md", "manuals/pump.md", "gone.md", None)
    counts = evaluate(
        EvaluateConfig(general_questions=0, rag=False, questions=mine), base_name="b", system="", **folders
    )
    assert counts == {"questions": 4, "models": 2, "replies": 8}
    documents = store.read_json(folders["work"] / "documents.json")
    assert [(row["document"], row["n"]) for row in documents] == [("gone.md", 1), ("manuals/pump.md", 2)]


def test_a_source_that_fits_two_documents_keeps_its_name(models, tmp_path: Path) -> None:
    folders = _inputs(tmp_path, [])
    both = [*CHUNKS, *make_chunks("The pump is red.", path="old/pump.md")]
    write_rows(folders["chunks"] / "chunks.jsonl", both)
    models["adapter"], models["b"] = Model(str), Model(str)
    mine = _write_questions(tmp_path / "mine.jsonl", "pump.md", "old/pump.md")
    evaluate(
        EvaluateConfig(general_questions=0, rag=False, questions=mine), base_name="b", system="", **folders
    )
    documents = store.read_json(folders["work"] / "documents.json")
    assert [row["document"] for row in documents] == ["old/pump.md", "pump.md"]


def test_nothing_to_ask_is_an_error(tmp_path: Path) -> None:
    folders = _inputs(tmp_path, [])
    with pytest.raises(EvaluateError, match="nothing to ask"):
        evaluate(EvaluateConfig(general_questions=0), base_name="b", system="", **folders)


def test_a_real_base_and_adapter_are_told_apart_and_the_prepared_folder_is_used(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    base = make_tiny_base(tmp_path / "prepared")
    questions = [
        Question(
            id=str(number), question=question, answers=(answer,), question_set="unseen_phrasing", form="x"
        )
        for number, (question, answer) in enumerate(TINY_ROWS)
    ]
    folders = _inputs(tmp_path, questions)
    folders["base"] = base
    folders["adapter"] = make_tiny_adapter(base, tmp_path / "trained", steps=150)
    evaluate(EvaluateConfig(general_questions=0), base_name=TINY_NAME, system="", **folders)
    torch.set_num_threads(threads)
    found = {
        (row["model"], row["method"]): row["accuracy"]
        for row in store.read_json(folders["work"] / "scores.json")
    }
    assert found[("adapter", "closed_book")] == 1.0
    assert found[(TINY_NAME, "closed_book")] < 0.5
