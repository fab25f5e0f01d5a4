"""Models judged on a user's questions: what stands beside what, who gets passages, faults before answers."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from factory import hardware, judge, store
from factory.bundle.manifest import BaseIdentity, list_files, write_manifest
from factory.errors import BackendError, BaseModelError, EvaluateError, UsageError
from factory.judge import evaluate_model, judge_endpoint, verify_bundle_fully
from factory.rows import write_rows
from factory.scores import Hedged
from tests.backends.chat_stub import running_stub
from tests.bundle.manifests import make_manifest
from tests.made import make_chunks
from tests.scored import make_score
from tests.tiny import TINY_NAME, TINY_ROWS, make_tiny_adapter, make_tiny_base

CHUNKS = make_chunks("# Gates", "The code of the north gate is 4711.", "# Pump", "The pump runs at 12 bar.")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A tiny base in a cache, an adapter that learned its rows, a bundle, questions and chunks."""
    folder = tmp_path_factory.mktemp("judge")
    base = make_tiny_base(folder / "cache" / "bases" / f"{TINY_NAME}-7")
    adapter = make_tiny_adapter(base, folder / "adapter", steps=150)
    _write_bundle(folder / "bundle", base, adapter)
    rows = [{"question": question, "answers": [answer]} for question, answer in TINY_ROWS]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "chunks").mkdir()
    write_rows(folder / "chunks" / "chunks.jsonl", CHUNKS)
    return folder


def _write_bundle(folder: Path, base: Path, adapter: Path) -> None:
    shutil.copytree(adapter, folder / "adapter")
    shutil.copy(base / "base-F16.gguf", folder / "model-Q8_0.gguf")
    (folder / "Modelfile").write_text("FROM ./model-Q8_0.gguf\n")
    identity = BaseIdentity(
        name=TINY_NAME, sha256=store.read_json(base / "base.json")["sha256"], licence="x", source="test"
    )
    write_manifest(folder, make_manifest(base=identity, system="", files=list_files(folder)))


@pytest.fixture(autouse=True)
def _surroundings(place: Path, monkeypatch):
    monkeypatch.setenv(store.CACHE_VARIABLE, str(place / "cache"))
    monkeypatch.setattr(hardware, "num_cores", lambda: 1)  # models this small only wait for a second thread
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, str, str, str]]:
    """What is asked instead of real models: name, kind, method and prompt of the first question."""
    found = []

    def ask(contestant, limit, system, work):
        reference = contestant.reference
        prompt = contestant.prompt(contestant.questions[0].question)
        found.append((reference.name, reference.kind, contestant.method, prompt))
        return []

    monkeypatch.setattr(judge, "ask", ask)
    return found


def table(model: Path, place: Path, rag: Path | None = None) -> dict[tuple[str, str, str], float]:
    rows = evaluate_model(str(model), place / "mine.jsonl", rag).scores
    assert {(row.question_set, row.n) for row in rows} == {("user", len(TINY_ROWS))}
    return {(row.model, row.kind, row.method): row.accuracy for row in rows}


def test_an_adapter_is_shown_beside_its_base(place: Path) -> None:
    found = table(place / "adapter", place)
    assert list(found) == [(TINY_NAME, "base", "closed_book"), ("adapter", "adapter", "closed_book")]
    assert found["adapter", "adapter", "closed_book"] == 1.0
    assert found[TINY_NAME, "base", "closed_book"] < 0.5


def test_an_adapter_is_compared_with_its_base_and_with_retrieval(place: Path) -> None:
    found = evaluate_model(str(place / "adapter"), place / "mine.jsonl", place / "chunks")
    assert [(row.method, row.other, row.other_method) for row in found.comparisons] == [
        ("closed_book", TINY_NAME, "closed_book"),
        ("closed_book", TINY_NAME, "rag"),
        ("rag", TINY_NAME, "rag"),
    ]
    assert all(row.n == len(TINY_ROWS) for row in found.comparisons)
    assert all(row.difference > 0.5 and row.lost == 0 for row in found.comparisons[:2])
    lines = found.lines()
    assert len(lines) == 4 + 3
    assert lines[4].startswith(f"adapter against {TINY_NAME}, user: +")


def test_a_bundle_is_shown_as_base_adapter_and_its_default_file(place: Path) -> None:
    found = table(place / "bundle", place, place / "chunks")
    assert list(found) == [
        (TINY_NAME, "base", "closed_book"),
        ("adapter", "adapter", "closed_book"),
        ("model-Q8_0.gguf", "gguf", "closed_book"),
        (TINY_NAME, "base", "rag"),
        ("adapter", "adapter", "rag"),
    ]
    assert found["adapter", "adapter", "closed_book"] == 1.0
    assert found["model-Q8_0.gguf", "gguf", "closed_book"] < 0.5, "the file is the base's in this test"


def test_of_a_bundle_is_told_what_is_left_where_it_declines(place: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(place / "bundle", tmp_path / "bundle")
    lines = (folder / "manifest.json").read_text()
    sure = Hedged(threshold=-1e9, answered=None, right=None, refused=None)
    scores = [make_score(model="adapter", when_sure=sure).model_dump()]
    store.write_json(folder / "manifest.json", json.loads(lines) | {"scores": scores})
    rows = evaluate_model(str(folder), place / "mine.jsonl", None).scores
    told = {row.model: row.when_sure and row.when_sure.answered for row in rows}
    assert told["adapter"] is not None
    assert told["adapter"].share == 1.0
    assert (told[TINY_NAME], told["model-Q8_0.gguf"]) == (None, None)


@pytest.mark.parametrize("kind", ["gguf", "merged"])
def test_a_file_or_merged_model_answers_with_passages_itself(place: Path, kind: str) -> None:
    base = place / "cache" / "bases" / f"{TINY_NAME}-7"
    model = base / "base-F16.gguf" if kind == "gguf" else base
    assert list(table(model, place, place / "chunks")) == [
        (model.name, kind, "closed_book"),
        (model.name, kind, "rag"),
    ]


def test_retrieval_goes_to_an_adapter_with_its_base_and_to_a_base_itself(place: Path, asked) -> None:
    for model in (str(place / "adapter"), TINY_NAME):
        evaluate_model(model, place / "mine.jsonl", place / "chunks")
    assert [row[:3] for row in asked] == [
        (TINY_NAME, "base", "closed_book"),
        ("adapter", "adapter", "closed_book"),
        (TINY_NAME, "base", "rag"),
        ("adapter", "adapter", "rag"),
        (TINY_NAME, "base", "closed_book"),
        (TINY_NAME, "base", "rag"),
    ]
    assert asked[0][3] == TINY_ROWS[0][0]
    assert "The code of the north gate is 4711." in asked[2][3]
    assert asked[2][3] == asked[3][3]


def test_without_a_file_the_general_questions_are_asked(place: Path, asked) -> None:
    evaluate_model(TINY_NAME, None, None)
    assert len(asked) == 1
    with pytest.raises(UsageError, match="can be looked up with --rag: name some"):
        evaluate_model(TINY_NAME, None, place / "chunks")


def test_a_judge_compares_the_adapter_with_its_base_or_with_retrieval(place: Path, monkeypatch) -> None:
    right = {answer for _, answer in TINY_ROWS}

    def prefer_right(prompt: str) -> str:
        first = prompt.split("Reply A: ")[1].split("\n")[0]
        return "A" if first in right else "B"

    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    with running_stub() as stub:
        stub.reply = prefer_right
        endpoint = judge_endpoint(stub.url, "gpt", "JUDGE_KEY")
        for rag, method in ((None, "closed_book"), (place / "chunks", "rag")):
            found = evaluate_model(str(place / "adapter"), place / "mine.jsonl", rag, endpoint)
            (row,) = found.judgements
            assert (row.judge, row.model, row.other, row.other_method) == (
                "gpt",
                "adapter",
                TINY_NAME,
                method,
            )
            assert (row.n, row.flipped, row.lost) == (len(TINY_ROWS), 0, 0)
            assert row.win_rate > 0.7
            assert found.lines()[-1].startswith("gpt judges adapter against")
        assert {seen[1]["Authorization"] for seen in stub.seen} == {"Bearer s3cret"}


def test_a_judge_needs_all_its_options_and_something_to_compare(place: Path, asked, monkeypatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    monkeypatch.delenv(judge.KEY_ENV, raising=False)
    assert judge_endpoint(None, None, None) is None
    for url, model, key_env, message in (
        (None, "gpt", None, "--judge-model needs --judge"),
        (None, None, "", "--judge-key-env needs --judge"),
        ("http://x/v1", "gpt", None, f"{judge.KEY_ENV} is empty"),
        ("http://x/v1", None, "", "and --judge-model"),
        ("x/v1", "gpt", "", "needs http"),
        ("http://x/v1", "gpt", "NO_KEY", "NO_KEY is empty"),
    ):
        with pytest.raises(UsageError, match=message):
            judge_endpoint(url, model, key_env)
    with pytest.raises(UsageError, match="nothing to judge"):
        evaluate_model(TINY_NAME, place / "mine.jsonl", None, judge_endpoint("http://x/v1", "gpt", ""))
    assert asked == []


def test_a_judge_that_fails_is_told_before_the_first_question_or_leaves_the_scores(
    place: Path, monkeypatch
) -> None:
    with running_stub() as stub:
        endpoint = judge_endpoint(stub.url, "gpt", "")
        stub.status = 500
        with monkeypatch.context() as patch:
            patch.setattr(judge, "ask", lambda *_: pytest.fail("a model was asked"))
            with pytest.raises(BackendError, match="answered 500"):
                evaluate_model(str(place / "adapter"), place / "mine.jsonl", None, endpoint)
        stub.status = 200

        tried: list[str] = []

        def fail(prompt: str) -> str:
            stub.status = 500 if tried else 200
            tried.append(prompt)
            return "A"

        stub.reply = fail
        found = evaluate_model(str(place / "adapter"), place / "mine.jsonl", None, endpoint)
    assert (len(found.scores), len(found.comparisons), list(found.judgements)) == (2, 1, [])
    assert "answered 500" in str(found.error)


def test_every_fault_comes_before_the_first_question(place: Path, asked, tmp_path: Path) -> None:
    questions, chunks, adapter = place / "mine.jsonl", place / "chunks", str(place / "adapter")
    broken = shutil.copytree(place / "bundle", tmp_path / "bundle")
    (broken / "model-Q8_0.gguf").write_bytes(b"rubbish")
    lost = shutil.copytree(place / "adapter", tmp_path / "adapter")
    config = store.read_json(lost / "adapter_config.json")
    store.write_json(lost / "adapter_config.json", config | {"base_model_name_or_path": "nobody"})
    for model, file, rag, error, message in (
        (str(tmp_path / "gone.gguf"), questions, None, UsageError, "does not exist"),
        (adapter, tmp_path / "gone.jsonl", None, EvaluateError, "cannot be read"),
        (adapter, questions, tmp_path, UsageError, "holds no chunks.jsonl"),
        (str(broken), questions, chunks, BaseModelError, "not a usable GGUF file"),
        (str(lost), questions, chunks, BaseModelError, "Base 'nobody' is not known"),
    ):
        with pytest.raises(error, match=message):
            evaluate_model(model, file, rag)
    assert asked == []


def test_a_bundle_is_checked_with_the_base_it_was_made_from(place: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(judge, "RECHECK_QUESTIONS", 3)
    folder = tmp_path / "bundle"
    base = place / "cache" / "bases" / f"{TINY_NAME}-7"
    _write_bundle(folder, base, make_tiny_adapter(base, tmp_path / "weak", strength=1e-4))
    assert verify_bundle_fully(folder) == []
    (problem,) = verify_bundle_fully(place / "bundle")
    assert "diverges from the adapter by" in problem
