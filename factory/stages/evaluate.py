"""Evaluate: ask every model the held-out questions and write what each got right and how they compare."""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from factory import hardware, store
from factory.backends.models import Answerer, ModelReference, base_of, open_model
from factory.errors import EvaluateError
from factory.progress import Progress
from factory.rows import Chunk, Question, read_rows, write_rows
from factory.scores import CALIBRATION, Method, Reply
from factory.tasks import questions as question_files
from factory.tasks.compare import comparisons
from factory.tasks.lm_eval import write_tasks
from factory.tasks.score import grade
from factory.tasks.tally import by_document, scores, thresholds

if TYPE_CHECKING:
    from factory.tasks.retrieval import Retriever

logger = logging.getLogger(__name__)
CODE_VERSION = 8
BATCH = 64
LM_EVAL = "lm_eval"


class EvaluateConfig(BaseModel):
    """What is asked.

    `questions` is a file of the user's own: `{"question", "answers"}` a line. It is left out when its questions
    name a `source` and none of these is a document of the corpus. `rag_questions` bounds how many are asked again
    with retrieved passages, which take longer to read, as many of each question set; `passages` is how many go into
    a prompt. `general_questions` of the 200 bundled ones are asked, too; `rag` switches the answers with retrieval, of
    base and adapter; an answer ends after `max_answer_tokens`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: Path | None = Field(default=None, exclude=True)
    general_questions: int = Field(default=200, ge=0, le=200)
    rag: bool = True
    rag_questions: int = Field(default=60, ge=1)
    passages: int = Field(default=1, ge=1, le=20)
    max_answer_tokens: int = Field(default=24, ge=4, le=1024)


@dataclass(frozen=True)
class Contestant:
    """A model to be asked, and how: the questions as they are, or made into prompts first."""

    reference: ModelReference
    method: Method
    questions: Sequence[Question]
    prompt: Callable[[str], str]


def evaluate(
    config: EvaluateConfig,
    *,
    dataset: Path,
    chunks: Path,
    adapter: Path,
    gguf: Path,
    base: Path,
    base_name: str,
    system: str,
    work: Path,
) -> dict[str, Any]:
    """Write scores, comparisons and documents as `.json` and `answers.jsonl`; replies from before a kill are kept.

    The questions stand in `lm_eval/` as well, as tasks of lm-evaluation-harness.
    `base` is the prepared base folder, `base_name` the name that its scores carry.

    Raises:
        EvaluateError: there is nothing to ask.
    """
    passages = list(read_rows(chunks / "chunks.jsonl", Chunk))
    asked, num_left_out = _gather(config, dataset, {chunk.document for chunk in passages})
    tuned = ModelReference("adapter", "adapter", adapter, base_name, base_folder=base)
    trained = [tuned]
    trained += [
        ModelReference("gguf", file.name, file)
        for file in sorted(gguf.glob("model-*.gguf"))
        if "F16" not in file.name
    ]
    also = [*asked, *read_rows(dataset / "calibration.jsonl", Question)]
    contestants = [Contestant(base_of(tuned), "closed_book", asked, str)]
    contestants += [Contestant(reference, "closed_book", also, str) for reference in trained]
    if config.rag:
        from factory.tasks.retrieval import Retriever

        found = Retriever(passages)
        contestants += [
            rag_contestant(config, found, asked, reference) for reference in (base_of(tuned), tuned)
        ]
    replies = [
        reply
        for contestant in contestants
        for reply in ask(contestant, config.max_answer_tokens, system, work)
    ]
    sure = thresholds(replies)
    replies = [reply for reply in replies if reply.question_set != CALIBRATION]
    write_rows(work / "answers.jsonl", replies)
    store.write_json(work / "scores.json", [score.model_dump() for score in scores(replies, sure)])
    store.write_json(work / "comparisons.json", [row.model_dump() for row in comparisons(replies)])
    store.write_json(work / "documents.json", [row.model_dump() for row in by_document(replies)])
    write_tasks(work / LM_EVAL, asked, config.max_answer_tokens)
    for part in work.glob("replies-*.jsonl"):
        part.unlink()
    counts = {"questions": len(asked), "models": len(contestants), "replies": len(replies)}
    return counts | ({"questions_left_out": num_left_out} if num_left_out else {})


def _gather(config: EvaluateConfig, dataset: Path, documents: Collection[str]) -> tuple[list[Question], int]:
    """Return what is asked, and how many of the user's questions are left out, being on other documents."""
    asked = list(read_rows(dataset / "test.jsonl", Question))
    own = question_files.read_user_questions(config.questions) if config.questions else []
    kept = _on_documents(own, documents)
    if len(kept) < len(own):
        logger.warning(
            "evaluate.questions is left out: none of its %d questions is on a document of this corpus",
            len(own),
        )
    asked += kept
    general = question_files.general_questions()
    count = min(config.general_questions, len(general))
    asked += [general[number * len(general) // count] for number in range(count)]
    if not asked:
        raise EvaluateError(
            "There is nothing to ask: name evaluate.questions, or raise curate.test_questions"
        )
    return asked, len(own) - len(kept)


def _on_documents(questions: Sequence[Question], documents: Collection[str]) -> list[Question]:
    """Return questions with their sources as the corpus names them; none when they only name other documents."""
    named = {question.source for question in questions if question.source}
    found = {source: [path for path in documents if f"/{path}".endswith(f"/{source}")] for source in named}
    if named and not any(found.values()):
        return []
    known = {source: paths[0] for source, paths in found.items() if len(paths) == 1}
    return [
        question.model_copy(update={"source": known.get(question.source or "", question.source)})
        for question in questions
    ]


def rag_contestant(
    config: EvaluateConfig, retriever: "Retriever", asked: Sequence[Question], reference: ModelReference
) -> Contestant:
    """Return a model with the passages that are found, asked as many questions of each set that has answers."""
    able = [question for question in asked if question.answers and question.question_set != "general"]
    return Contestant(
        reference,
        "rag",
        _share_out(able, config.rag_questions),
        lambda question: retriever.prompt(question, config.passages),
    )


def _share_out(questions: Sequence[Question], count: int) -> list[Question]:
    """Return up to `count` questions, evenly many of each set as far as it goes, spread over the set."""
    sets: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        sets[question.question_set].append(question)
    chosen: list[Question] = []
    for number, rows in enumerate(
        sorted(sets.values(), key=len)
    ):  # what a small set leaves goes to larger ones
        share = min(len(rows), (count - len(chosen)) // (len(sets) - number))
        chosen += [rows[i * len(rows) // share] for i in range(share)]
    return chosen


def ask(contestant: Contestant, max_tokens: int, system: str, work: Path | None) -> list[Reply]:
    """Return a model's scored replies; batches are kept in `work` as they come, if it is given."""
    reference = contestant.reference
    journal = work / f"replies-{contestant.method}-{reference.name}.jsonl" if work else None
    done = _read_journal(journal)
    missing = [question for question in contestant.questions if question.id not in done]
    if missing:
        with (
            Progress(f"ask {reference.name} ({contestant.method})") as bar,
            open_model(reference, system) as model,
        ):
            for start in range(0, len(missing), BATCH):
                batch = missing[start : start + BATCH]
                for reply in _ask_batch(model, contestant, batch, max_tokens):
                    done[reply.id] = reply
                if journal:
                    write_rows(journal, done.values())
                bar.update(len(done), len(contestant.questions))
        hardware.release_memory()
    return [done[question.id] for question in contestant.questions]


def _read_journal(journal: Path | None) -> dict[str, Reply]:
    return {reply.id: reply for reply in read_rows(journal, Reply)} if journal and journal.exists() else {}


def _ask_batch(
    model: Answerer, contestant: Contestant, batch: Sequence[Question], max_tokens: int
) -> Iterable[Reply]:
    replies = model.answer([contestant.prompt(question.question) for question in batch], max_tokens)
    for question, reply in zip(batch, replies, strict=True):
        yield Reply(
            id=question.id,
            question=question.question,
            answers=question.answers,
            reply=reply.text,
            sureness=reply.sureness,
            **vars(grade(reply.text, question.answers, question.question)),
            question_set=question.question_set,
            model=contestant.reference.name,
            kind=contestant.reference.kind,
            method=contestant.method,
            source=question.source,
        )
