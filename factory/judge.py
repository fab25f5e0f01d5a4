"""The commands that look at one model: score it on a user's questions, or check a bundle from end to end."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from factory.backends.endpoint import open_endpoint
from factory.backends.models import ModelReference, base_of, prepare, resolve
from factory.bundle.manifest import MANIFEST, read_manifest, verify_bundle
from factory.chat.backend import ChatBackend
from factory.errors import BackendError, UsageError
from factory.progress import Progress
from factory.rows import Question
from factory.scores import Comparison, Judgement, Reply, Score
from factory.stages.evaluate import Contestant, EvaluateConfig, ask, rag_contestant
from factory.tasks import compare, judging, tally
from factory.tasks.questions import general_questions, read_user_questions
from factory.tasks.retrieval import Retriever, read_chunks

ADAPTER_FOLDER = "adapter"  # the PEFT adapter in a bundle
ALL_QUESTIONS = 1_000_000
RECHECK_QUESTIONS = 60
KEY_ENV = "OPENAI_API_KEY"


@dataclass(frozen=True)
class JudgeEndpoint:
    """An OpenAI-compatible endpoint that judges replies; `key_env` names the variable with its key, '' for none."""

    url: str
    model: str
    key_env: str


def judge_endpoint(url: str | None, model: str | None, key_env: str | None) -> JudgeEndpoint | None:
    """Return the judge that some options name, if they name one; its key is in `KEY_ENV` unless they say where.

    Raises:
        UsageError: one option is missing, or the key is not there.
    """
    if url is None:
        if model or key_env is not None:
            option = "--judge-model" if model else "--judge-key-env"
            raise UsageError(f"{option} needs --judge, the URL where the judge is")
        return None
    key_env = KEY_ENV if key_env is None else key_env
    if not url.startswith(("http://", "https://")) or not model:
        raise UsageError(f"--judge {url!r} needs http:// or https:// in front, and --judge-model")
    if key_env and not os.environ.get(key_env):
        raise UsageError(
            f"The environment variable {key_env} is empty: set it to the judge's key, or add --judge-key-env ''"
        )
    return JudgeEndpoint(url, model, key_env)


@dataclass(frozen=True)
class Evaluation:
    """What was found out about a model beside those it is compared with, and what ended the judge's work early."""

    scores: Sequence[Score]
    comparisons: Sequence[Comparison]
    judgements: Sequence[Judgement] = ()
    error: BackendError | None = None

    def lines(self) -> list[str]:
        """Return it as lines of text: a score each, then a comparison each, then what the judge said."""
        return [
            *map(tally.describe, self.scores),
            *map(compare.describe, self.comparisons),
            *map(judging.describe, self.judgements),
        ]


def evaluate_model(
    model: str, questions: Path | None, rag: Path | None, judge: JudgeEndpoint | None = None
) -> Evaluation:
    """Return a model's scores on a question file, and with retrieval from a chunks folder if one is named.

    An adapter is shown beside its base, a bundle's file beside base and adapter, those of a bundle with what is left
    where they decline. With retrieval answer base and adapter where there are these, else the model itself. Without a
    file, the bundled general questions are asked. A judge compares the adapter's replies, else the model's, with those
    of the base with retrieval if there are any, else the base's.
    Everything is found and checked before the first question; a judge that fails later leaves the scores as they are.

    Raises:
        UsageError: there is no such model, the retrieval folder holds no chunks, no question can be asked with it, or
            there is nothing for the judge to compare.
        BaseModelError: a base cannot be found, or a file is damaged.
        BackendError: the judge does not answer its trial question.
    """
    config = EvaluateConfig(rag_questions=ALL_QUESTIONS)
    references = _compared(model)
    asked: list[Question] = read_user_questions(questions) if questions else general_questions()
    retriever = Retriever(read_chunks(rag)) if rag else None
    references = [prepare(reference) for reference in references]
    contestants = [Contestant(reference, "closed_book", asked, str) for reference in references]
    if retriever:
        contestants += [
            _with_retrieval(config, retriever, asked, reference)
            for reference in references
            if reference.kind in {"base", "adapter"} or len(references) == 1
        ]
    if judge and len(contestants) < 2:
        raise UsageError(
            f"There is nothing to judge {model!r} against: name passages with --rag, or an adapter"
        )
    backend = open_endpoint(judge) if judge else None
    if backend:
        judging.try_out(backend)
    limit, system = config.max_answer_tokens, references[-1].system
    found = [ask(contestant, limit, system, None) for contestant in contestants]
    replies = [reply for rows in found for reply in rows]
    sure = {one.name: one.sure_from for one in references if one.sure_from is not None}
    evaluation = Evaluation(tally.scores(replies, sure), compare.comparisons(replies))
    if not (judge and backend):
        return evaluation
    try:
        return replace(evaluation, judgements=[_judge(contestants, found, backend, judge.model)])
    except BackendError as error:
        return replace(evaluation, error=error)


def _judge(
    contestants: Sequence[Contestant], found: Sequence[Sequence[Reply]], backend: ChatBackend, name: str
) -> Judgement:
    """Return how the replies of adapter or model do against those of base or model with retrieval, else of the base."""
    by_role = {(one.reference.kind, one.method): rows for one, rows in zip(contestants, found, strict=True)}
    mine = by_role.get(("adapter", "closed_book"), found[0])
    theirs = by_role.get(("base", "rag")) or by_role.get(("base", "closed_book")) or found[-1]
    others = {reply.id: reply for reply in theirs}
    pairs = [(reply, others[reply.id]) for reply in mine if reply.id in others]
    with Progress(f"judge by {name}") as bar:
        return judging.judge(pairs, backend, name, lambda done: bar.update(done, len(pairs)))


def _compared(model: str) -> list[ModelReference]:
    """Return what a model is shown beside, the model itself last."""
    reference = resolve(model)
    if (Path(model) / MANIFEST).is_file():
        adapter = resolve(str(Path(model) / ADAPTER_FOLDER))
        return [base_of(adapter), adapter, reference]
    return [base_of(reference), reference] if reference.kind == "adapter" else [reference]


def _with_retrieval(
    config: EvaluateConfig, retriever: Retriever, asked: list[Question], reference: ModelReference
) -> Contestant:
    contestant = rag_contestant(config, retriever, asked, reference)
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
