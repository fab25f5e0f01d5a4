"""The commands that look at one model: score it on a user's questions, or check a bundle from end to end."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.backends.models import ModelReference, base_of, prepare, resolve
from factory.bundle.manifest import MANIFEST, read_manifest, verify_bundle
from factory.errors import UsageError
from factory.rows import Chunk, Question, read_rows
from factory.scores import Comparison, Score
from factory.stages.evaluate import Contestant, EvaluateConfig, ask, rag_contestant
from factory.tasks.compare import comparisons, describe
from factory.tasks.questions import general_questions, read_user_questions
from factory.tasks.tally import scores

ADAPTER_FOLDER = "adapter"  # the PEFT adapter in a bundle
ALL_QUESTIONS = 1_000_000
RECHECK_QUESTIONS = 60


@dataclass(frozen=True)
class Evaluation:
    """What was found out about a model beside those it is compared with."""

    scores: Sequence[Score]
    comparisons: Sequence[Comparison]

    def as_json(self) -> dict[str, Any]:
        """Return it as values of JSON, the rows as in a run's report."""
        return {
            "scores": [row.model_dump() for row in self.scores],
            "comparisons": [row.model_dump() for row in self.comparisons],
        }

    def lines(self) -> list[str]:
        """Return it as lines of text: a score each, then a comparison each."""
        return [_score_line(row) for row in self.scores] + [describe(row) for row in self.comparisons]


def _score_line(row: Score) -> str:
    return (
        f"{row.model:<28} {row.method:<12} {row.question_set:<18} "
        f"{row.accuracy:6.1%}  [{row.low:.1%}, {row.high:.1%}]  n={row.n}"
    )


def evaluate_model(model: str, questions: Path | None, rag: Path | None) -> Evaluation:
    """Return a model's scores on a question file, and with retrieval from a chunks folder if one is named.

    An adapter is shown beside its base, a bundle's file beside base and adapter. Retrieval is the base's where
    there is one to compare with, else the model's own. Without a file, the bundled general questions are asked.
    Everything is found and checked before the first question.

    Raises:
        UsageError: there is no such model, the retrieval folder holds no chunks, or no question can be asked with it.
        BaseModelError: a base cannot be found, or a file is damaged.
    """
    config = EvaluateConfig(rag_questions=ALL_QUESTIONS)
    references = _compared(model)
    asked: list[Question] = read_user_questions(questions) if questions else general_questions()
    chunks = _chunks(rag) if rag else []
    references = [prepare(reference) for reference in references]
    contestants = [Contestant(reference, "closed_book", asked, str) for reference in references]
    if rag:
        contestants.append(_with_retrieval(config, chunks, asked, references[0]))
    limit, system = config.max_answer_tokens, references[-1].system
    replies = [reply for contestant in contestants for reply in ask(contestant, limit, system, None)]
    return Evaluation(scores(replies), comparisons(replies))


def _compared(model: str) -> list[ModelReference]:
    """Return what a model is shown beside, the model itself last."""
    reference = resolve(model)
    if (Path(model) / MANIFEST).is_file():
        adapter = resolve(str(Path(model) / ADAPTER_FOLDER))
        return [base_of(adapter), adapter, reference]
    return [base_of(reference), reference] if reference.kind == "adapter" else [reference]


def _with_retrieval(
    config: EvaluateConfig, chunks: list[Chunk], asked: list[Question], reference: ModelReference
) -> Contestant:
    contestant = rag_contestant(config, chunks, asked, reference)
    if not contestant.questions:
        raise UsageError(
            f"None of {len(asked)} question(s) can be looked up with --rag: name some that have answers "
            "with --questions"
        )
    return contestant


def _chunks(folder: Path) -> list[Chunk]:
    for place in (folder, folder.parent / "chunks", folder / "chunks"):
        if (place / "chunks.jsonl").is_file():
            return list(read_rows(place / "chunks.jsonl", Chunk))
    raise UsageError(
        f"{str(folder)!r} holds no chunks.jsonl: name a run's chunks folder, like build/quickstart/chunks"
    )


def verify_bundle_fully(bundle: Path) -> list[str]:
    """Return what is wrong with a bundle's files, manifest and checksums, a line each.

    Raises:
        UsageError: the folder is not a bundle.
    """
    if not (bundle / MANIFEST).is_file():
        raise UsageError(f"{str(bundle)!r} is not a bundle: it holds no {MANIFEST}")
    problems = verify_bundle(bundle)
    if problems:
        return problems
    from factory.weights.recheck import recheck

    manifest = read_manifest(bundle)
    files = [
        file.path for file in manifest.files if file.path.startswith("model-") and file.path.endswith(".gguf")
    ]
    questions = [question.question for question in general_questions()[:RECHECK_QUESTIONS]]
    base = manifest.base
    return recheck(bundle, base.name, base.sha256, files, questions, manifest.system)
