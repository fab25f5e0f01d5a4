"""The commands that look at one model: score it on a user's questions, or check a bundle from end to end."""

from pathlib import Path

from factory.backends.models import resolve
from factory.bundle.manifest import MANIFEST, read_manifest, verify_bundle
from factory.errors import UsageError
from factory.rows import Chunk, Question, read_rows
from factory.stages.evaluate import Contestant, EvaluateConfig, Score, ask, rag_contestant, scores
from factory.tasks.questions import general_questions, read_user_questions

ALL_QUESTIONS = 1_000_000
RECHECK_QUESTIONS = 12


def evaluate_model(model: str, questions: Path | None, rag: Path | None) -> list[Score]:
    """Return a model's scores on a question file, and with retrieval from a chunks folder if one is named.

    An adapter is shown beside its base. Without a file, the bundled general questions are asked.

    Raises:
        UsageError: the retrieval folder holds no chunks.
    """
    config = EvaluateConfig(rag_questions=ALL_QUESTIONS)
    reference = resolve(model)
    asked: list[Question] = read_user_questions(questions) if questions else general_questions()
    contestants = []
    if reference.kind == "adapter" and reference.base:
        contestants.append(Contestant(resolve(reference.base), "closed_book", asked, str))
    contestants.append(Contestant(reference, "closed_book", asked, str))
    if rag:
        base = reference.base or model
        contestants.append(rag_contestant(config, _chunks(rag), asked, base))
    limit, system = config.max_answer_tokens, reference.system
    replies = [reply for contestant in contestants for reply in ask(contestant, limit, system, None)]
    return scores(replies)


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
    return recheck(bundle, manifest.base.name, files, questions, manifest.system)
