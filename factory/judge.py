"""The commands that look at one model: score it on a user's questions, or check a bundle from end to end."""

from pathlib import Path

from factory.backends.models import ModelReference, base_of, prepare, resolve
from factory.bundle.manifest import MANIFEST, read_manifest, verify_bundle
from factory.errors import UsageError
from factory.rows import Chunk, Question
from factory.stages.evaluate import Contestant, EvaluateConfig, Score, ask, rag_contestant, scores
from factory.tasks.questions import general_questions, read_user_questions
from factory.tasks.retrieval import read_chunks

ADAPTER_FOLDER = "adapter"  # the PEFT adapter in a bundle
ALL_QUESTIONS = 1_000_000
RECHECK_QUESTIONS = 60


def evaluate_model(model: str, questions: Path | None, rag: Path | None) -> list[Score]:
    """Return a model's scores on a question file, and with retrieval from a chunks folder if one is named.

    An adapter is shown beside its base, a bundle's file beside base and adapter. With retrieval answer base and
    adapter where there are these, else the model itself. Without a file, the bundled general questions are asked.
    Everything is found and checked before the first question.

    Raises:
        UsageError: there is no such model, the retrieval folder holds no chunks, or no question can be asked with it.
        BaseModelError: a base cannot be found, or a file is damaged.
    """
    config = EvaluateConfig(rag_questions=ALL_QUESTIONS)
    references = _compared(model)
    asked: list[Question] = read_user_questions(questions) if questions else general_questions()
    chunks = read_chunks(rag) if rag else []
    references = [prepare(reference) for reference in references]
    contestants = [Contestant(reference, "closed_book", asked, str) for reference in references]
    if rag:
        contestants += [
            _with_retrieval(config, chunks, asked, reference)
            for reference in references
            if reference.kind in {"base", "adapter"} or len(references) == 1
        ]
    limit, system = config.max_answer_tokens, references[-1].system
    replies = [reply for contestant in contestants for reply in ask(contestant, limit, system, None)]
    return scores(replies)


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
