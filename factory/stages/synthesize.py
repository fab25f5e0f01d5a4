"""Synthesize: training conversations from what documents state, each pointing at its evidence.

Facts come from structure and grammar; a teacher (a local GGUF or any OpenAI-compatible endpoint), when the
recipe names one, only adds wordings of questions; so do some words of each statement in any order, as people
type them. Every answer stands in its evidence, or the fact is refused. Answers that people corrected, when the
recipe names a file of them, are rows of their own.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from factory import store
from factory.backends.registry import TeacherConfig, open_teacher
from factory.chat.template import conversation
from factory.errors import SynthesizeError
from factory.facts import extract, feedback, passages, related
from factory.facts.conflicts import Refuted, Rule, settle
from factory.facts.extract import Draft
from factory.facts.loose import LooseAsker
from factory.facts.masked import mask_conflict
from factory.facts.openbook import without_refuted
from factory.facts.phrasing import TEST_FORMS, Ask, answer_of
from factory.facts.teacher import reword
from factory.rows import Chunk, Conflict, Example, Fact, read_rows, write_rows
from factory.text import normalize, versions
from factory.text.redact import DEFAULT_POLICIES

logger = logging.getLogger(__name__)
CODE_VERSION = 10
NAMED_CLAIMS, CLAIM_CHARACTERS = 4, 80  # of a conflict that stops a run


class SynthesizeConfig(BaseModel):
    """How much is made of each document.

    `max_facts_per_document` keeps one large table from filling the dataset. Each fact is asked for in whole sentences
    and in up to `loose_wordings` questions of some of its words and its document's title; training takes the first
    `train.wordings` of all. `related` adds questions on cells of a table beside each other: true or false, which is
    higher, and two at once. `passages` adds rows that retell the documents sentence by sentence. `teacher` names a
    model that rewords questions; nothing leaves the machine unless it is an endpoint. `feedback` is a file of corrected
    answers: `{"question", "answer"}` a line, as `factory learn-from-feedback` writes it; its rows are trained on and
    never tested.

    Where documents whose titles differ in a version or a year at most answer a question differently, `conflicts` says
    which is believed: the `newest`, if all of them state their day, the one in the first of `folders`, or `none`; `ask`
    stops there. What is not believed is neither trained on nor tested, but is still found by retrieval. Where none
    is believed, questions that fit several answers are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_facts_per_document: int = Field(default=200, ge=1)
    loose_wordings: int = Field(default=8, ge=0, le=100)
    conflicts: Rule = "newest"
    folders: tuple[str, ...] = ()
    related: bool = True
    passages: bool = False
    teacher: TeacherConfig | None = None
    feedback: Path | None = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def _check(self) -> "SynthesizeConfig":
        if (self.conflicts == "folders") != bool(self.folders):
            raise ValueError(
                "folders is given if conflicts is 'folders', and only then: list the most trusted first"
            )
        return self


def synthesize(config: SynthesizeConfig, *, chunks: Path, system: str, work: Path) -> dict[str, Any]:
    """Write `facts.jsonl`, `conflicts.jsonl` and `examples.jsonl` from chunks and return counts by kind and form.

    Raises:
        SynthesizeError: the chunks state nothing that can be asked for, or one is to be asked of a conflict.
    """
    rows = list(read_rows(chunks / "chunks.jsonl", Chunk))
    current, superseded = versions.split(rows)
    stated = [draft for chunk in current for draft in extract.drafts(chunk)]
    settled, conflicts = settle(stated, current, config.conflicts, config.folders)
    if conflicts and config.conflicts == "ask":
        raise SynthesizeError(_ask(conflicts))
    drafts, refused = _consistent(_capped(settled, config.max_facts_per_document))
    if not drafts:
        raise SynthesizeError(
            f"{len(rows)} chunk(s) state nothing that can be asked for: add documents with tables, "
            "`Key: value` lines or plain sentences"
        )
    if config.teacher:
        drafts = reword(
            drafts, open_teacher(config.teacher), work / "rewordings.jsonl", config.teacher.rewordings
        )
    if config.loose_wordings:
        titles = {chunk.document: chunk.title for chunk in current}
        drafts, unclear = _consistent(_loosely_asked(drafts, titles, config.loose_wordings))
        refused = dict(Counter(refused) + Counter(unclear))
    examples = [example for draft in drafts for example in _examples(draft, system)]
    if config.related:
        examples += related.examples(drafts, system)
    if config.passages:
        refuted = Refuted(conflicts)
        examples += passages.examples((without_refuted(chunk, refuted) for chunk in current), system)
    told = feedback.examples(config.feedback, system) if config.feedback else []
    examples, num_replaced = _without_contradicted(examples, told)
    unique = {example.id: example for example in [*examples, *told]}
    write_rows(work / "facts.jsonl", [draft.fact for draft in drafts])
    write_rows(work / "conflicts.jsonl", conflicts)
    write_rows(work / "examples.jsonl", unique.values())
    counts = {
        "facts": len(drafts),
        "facts_by_kind": dict(Counter(draft.fact.kind for draft in drafts)),
        "examples": len(unique),
        "examples_by_form": dict(Counter(example.form for example in unique.values())),
        "refused": refused,
        "superseded_documents": superseded,
        "conflicts": len(conflicts),
    }
    return counts | ({"feedback": len(told), "replaced_by_feedback": num_replaced} if told else {})


def _ask(conflicts: Sequence[Conflict]) -> str:
    """Return what to tell of conflicts that nobody settled; nothing personal stands in it."""
    first = mask_conflict(conflicts[0], dict.fromkeys(DEFAULT_POLICIES, "redact"), store.private_key())
    answers = {normalize.normalize(claim.fact.answer): claim.fact for claim in first.claims}
    said = [
        f"{shorten(fact.answer, CLAIM_CHARACTERS)!r} in {fact.evidence.document!r}"
        for fact in list(answers.values())[:NAMED_CLAIMS]
    ]
    return (
        f"Documents answer {len(conflicts)} question(s) differently, the first is "
        f"{shorten(first.question, CLAIM_CHARACTERS)!r}: {', '.join(said)}; correct the documents, or set "
        "synthesize.conflicts to newest, folders or none"
    )


def _without_contradicted(rows: Sequence[Example], told: Sequence[Example]) -> tuple[list[Example], int]:
    """Return the rows but those that people answered otherwise, and how many these were; test rows stay."""
    if not told:
        return list(rows), 0
    gold = {_plain(row, -2): _plain(row, -1) for row in told}
    kept = [
        row
        for row in rows
        if row.form in TEST_FORMS or gold.get(_plain(row, -2), _plain(row, -1)) == _plain(row, -1)
    ]
    if len(kept) < len(rows):
        logger.warning(
            "synthesize.feedback answers %d question(s) otherwise than the documents, which are still trained on in "
            "other wordings: correct the documents, too",
            len(rows) - len(kept),
        )
    return kept, len(rows) - len(kept)


def _plain(row: Example, turn: int) -> str:
    return normalize.normalize(row.messages[turn].content)


def _capped(drafts: Iterable[Draft], limit: int) -> Iterator[Draft]:
    used: Counter[str] = Counter()
    for draft in drafts:
        document = draft.fact.evidence.document
        if used[document] < limit:
            used[document] += 1
            yield draft


def _loosely_asked(drafts: Sequence[Draft], titles: Mapping[str, str], count: int) -> Iterator[Draft]:
    asker = LooseAsker((draft.fact for draft in drafts), titles)
    for draft in drafts:
        yield Draft(draft.fact, (*draft.asks, *asker.ask(draft.fact, count)))


def _consistent(drafts: Iterable[Draft]) -> tuple[list[Draft], dict[str, int]]:
    """Keep what is grounded and unambiguous: one question has one answer over all documents.

    A question that two facts answer differently is dropped from both; a fact left without questions goes.
    """
    refused: Counter[str] = Counter()
    grounded: dict[str, Draft] = {}
    for draft in drafts:
        fact = draft.fact
        if not normalize.contains(fact.evidence.text, fact.answer):
            refused["not in evidence"] += 1
        elif fact.id in grounded:
            refused["repeated"] += 1
        else:
            grounded[fact.id] = draft
    answers: dict[str, set[str]] = defaultdict(set)
    for draft in grounded.values():
        for ask in draft.asks:
            answers[normalize.normalize(ask.question)].add(normalize.normalize(answer_of(ask, draft.fact)))
    kept = []
    for draft in grounded.values():
        asks = tuple(ask for ask in draft.asks if len(answers[normalize.normalize(ask.question)]) == 1)
        refused["ambiguous question"] += len(draft.asks) - len(asks)
        if asks:
            kept.append(Draft(draft.fact, asks))
        else:
            refused["ambiguous fact"] += 1
    return kept, dict(refused)


def _examples(draft: Draft, system: str) -> Iterator[Example]:
    for ask in draft.asks:
        yield _example(draft.fact, ask, system)


def _example(fact: Fact, ask: Ask, system: str) -> Example:
    return Example(
        id=store.hash_json([fact.id, ask.form, ask.question])[:16],
        form=ask.form,
        messages=conversation(ask.question, answer_of(ask, fact), system),
        facts=(fact.id,),
        evidence=fact.evidence,
    )
