"""Curate: examples in, a dataset out: clean, without duplicates, split by fact and by phrasing."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

from factory import store
from factory.errors import CurateError
from factory.facts import abstain, card, feedback, replay
from factory.facts.phrasing import TEST_FORMS
from factory.rows import Example, Fact, Message, Question, read_rows, write_rows
from factory.text import normalize
from factory.text.dedupe import near_duplicates
from factory.text.neutralize import neutralize
from factory.text.redact import DEFAULT_POLICIES, SEPARATOR, Kind, Policy, redact

CODE_VERSION = 3
SHORT_ANSWER_WORDS = 15


class CurateConfig(BaseModel):
    """What is kept, masked and held out.

    `unseen_fact_share` of the facts are kept out of training altogether, to measure whether the model says
    that it does not know; `abstain_share` is how many rows teach it to, as a share of the facts. `replay`
    mixes general questions in, so that the model keeps what it knew. `test_questions` and `valid_questions`
    bound the unseen-phrasing questions that are measured at the end and during training. Of rows alike beyond
    `near_duplicate_threshold` (Jaccard similarity of their words), the first stays. `personal_data` overrides
    the policy (redact, drop, allow) of single classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    near_duplicate_threshold: float = Field(default=0.9, ge=0.5, le=1.0)
    personal_data: dict[Kind, Policy] = {}
    unseen_fact_share: float = Field(default=0.04, ge=0.0, le=0.3)
    abstain_share: float = Field(default=0.03, ge=0.0, le=0.3)
    replay: bool = True
    test_questions: int = Field(default=100, ge=1)
    valid_questions: int = Field(default=40, ge=1)


def curate(
    config: CurateConfig, *, examples: Path, base: Path, seed: int, system: str, work: Path
) -> dict[str, Any]:
    """Write `train.jsonl`, `valid.jsonl`, `test.jsonl`, `facts.jsonl` and the dataset card; return counts.

    Raises:
        CurateError: nothing is left to train on, or a held-out question was found in the training rows.
    """
    facts = {fact.id: fact for fact in read_rows(examples / "facts.jsonl", Fact)}
    rows = list(read_rows(examples / "examples.jsonl", Example))
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    policies = {**DEFAULT_POLICIES, **{str(kind): policy for kind, policy in config.personal_data.items()}}
    clean, found = _clean(rows, policies, special)
    unseen = _unseen(facts.values(), config.unseen_fact_share, seed)
    kept = [row for row in clean if not set(row.facts) & unseen and not _overlaps(row, unseen, facts)]
    # A teacher may have worded a question as a test form does.
    tested = {_prompt(row) for row in clean if row.form in TEST_FORMS}
    training = [row for row in kept if row.form not in TEST_FORMS and _prompt(row) not in tested]
    train = _without_duplicates(training, config.near_duplicate_threshold)
    if not train:
        raise CurateError(
            f"None of {len(rows)} example(s) is left to train on: {dict(found)}; loosen curate.personal_data"
        )
    crossed = abstain.examples(list(facts.values()), round(len(facts) * config.abstain_share), seed, system)
    told = {_prompt(row) for row in train if row.form == feedback.FORM}
    refusals, found_there = _clean((row for row in crossed if _prompt(row) not in told), policies, special)
    valid, test = _phrasing_questions(kept, train, facts, config, seed)
    hidden = _unseen_questions(clean, unseen, facts)
    general = replay.examples(system) if config.replay else []
    final = [*train, *refusals, *general]
    dropped = _assert_no_leak(final, [*test, *valid, *hidden])
    write_rows(work / "train.jsonl", final)
    write_rows(work / "valid.jsonl", valid)
    write_rows(work / "test.jsonl", [*test, *hidden])
    write_rows(work / "facts.jsonl", (_masked(fact, policies) for fact in facts.values()))
    counts = {
        "train": len(final),
        "abstain": len(refusals),
        "replay": len(general),
        "near_duplicates": len(training) - len(train),
        "facts": len(facts),
        "facts_withheld": len(unseen),
        "valid": len(valid),
        "unseen_phrasing": len(test),
        "unseen_fact": len(hidden),
        "leaks": dropped,
        "hygiene": dict(found + found_there),
        "train_by_form": dict(Counter(row.form for row in final)),
    }
    store.write_text(work / "README.md", card.dataset_card(counts, facts.values(), config.model_dump()))
    return counts


def _clean(
    rows: Iterable[Example], policies: Mapping[str, Policy], special_tokens: Sequence[str]
) -> tuple[list[Example], Counter[str]]:
    """Neutralise template tokens, then redact or drop personal data and secrets; returns counts by class.

    A row is redacted together with its evidence, since the label of a password often stands only there. The
    evidence stays where it is in its file; its text is the redacted one.
    """
    key = store.private_key()
    counts: Counter[str] = Counter()
    kept = []
    for row in rows:
        spoken = [neutralize(message.content, special_tokens) for message in row.messages]
        context = neutralize(row.evidence.text, special_tokens) if row.evidence else ""
        result = redact(SEPARATOR.join([*spoken, context]), policies, key)
        counts.update(result.counts)
        *turns, shown = result.text.split(SEPARATOR)
        if result.drop:
            counts["rows dropped"] += 1
        elif turns[-1] != spoken[-1]:
            counts["rows with a masked answer dropped"] += 1
        else:
            messages = (
                Message(role=old.role, content=new) for old, new in zip(row.messages, turns, strict=True)
            )
            evidence = row.evidence and row.evidence.model_copy(update={"text": shown})
            kept.append(row.model_copy(update={"messages": tuple(messages), "evidence": evidence}))
    return kept, counts


def _masked(fact: Fact, policies: Mapping[str, Policy]) -> Fact:
    """Return a fact without the personal data and secrets that its row was redacted for."""
    texts = [fact.subject, fact.relation, fact.topic, fact.evidence.text, *fact.answers]
    masked = redact(SEPARATOR.join(texts), policies, store.private_key()).text.split(SEPARATOR)
    if masked == texts:
        return fact
    subject, relation, topic, shown, *answers = masked
    evidence = fact.evidence.model_copy(update={"text": shown})
    changes = {"subject": subject, "relation": relation, "topic": topic, "evidence": evidence}
    return fact.model_copy(update=changes | {"answer": answers[0], "answers": tuple(answers)})


def _unseen(facts: Iterable[Fact], share: float, seed: int) -> set[str]:
    """Choose the facts to withhold: answers of tables and sentences that no other fact repeats."""
    answers: Counter[tuple[str, str]] = Counter()
    everything = list(facts)
    for fact in everything:
        answers[(fact.evidence.document, normalize.normalize(fact.answer))] += 1
    able = [
        fact.id
        for fact in everything
        if fact.kind in {"table", "sentence"}
        and answers[(fact.evidence.document, normalize.normalize(fact.answer))] == 1
    ]
    return set(random.Random(seed).sample(sorted(able), min(len(able), round(len(everything) * share))))


def _prompt(row: Example) -> str:
    return normalize.normalize(row.messages[-2].content)


def _overlaps(row: Example, unseen: set[str], facts: dict[str, Fact]) -> bool:
    """Tell whether a row says a withheld fact's answer and was made from the text that holds it, or by a person."""
    if row.evidence is None:
        return False
    spoken = [message.content for message in row.messages]
    for fact in (facts[identity] for identity in unseen):
        hidden, told = fact.evidence, row.form == feedback.FORM
        same = hidden.document == row.evidence.document
        shared = same and hidden.start < row.evidence.end and row.evidence.start < hidden.end
        if shared and normalize.contains(" ".join(spoken), fact.answer):
            return True
        if told and feedback.tells(spoken[-2], spoken[-1], fact):
            return True
    return False


def _without_duplicates(rows: Sequence[Example], threshold: float) -> list[Example]:
    """Drop rows that ask nearly the same and answer the same; a differing answer is a differing fact."""
    firsts = near_duplicates(
        [f"{row.messages[-2].content} {row.messages[-1].content}" for row in rows], threshold
    )
    answers = [normalize.normalize(row.messages[-1].content) for row in rows]
    return [
        row
        for number, row in enumerate(rows)
        if firsts[number] == number or answers[firsts[number]] != answers[number]
    ]


def _question(row: Example, fact: Fact, question_set: str, answers: tuple[str, ...]) -> Question:
    return Question(
        id=store.hash_json([question_set, row.id])[:16],
        question=row.messages[-2].content,
        answers=answers,
        question_set=question_set,
        form=row.form,
        fact=fact.id,
        source=fact.evidence.document,
    )


def _phrasing_questions(
    kept: Sequence[Example], train: Sequence[Example], facts: dict[str, Fact], config: CurateConfig, seed: int
) -> tuple[list[Question], list[Question]]:
    """Return validation and test questions: held-out phrasings of trained facts, no fact in both."""
    trained = {fact for row in train for fact in row.facts}
    able = [
        row
        for row in kept
        if row.form in TEST_FORMS
        and row.facts[0] in trained
        and len(facts[row.facts[0]].answer.split()) <= SHORT_ANSWER_WORDS
        and not normalize.contains(row.messages[-2].content, row.messages[-1].content)
    ]
    random.Random(seed).shuffle(able)
    first: dict[str, Example] = {}
    for row in able:
        first.setdefault(row.facts[0], row)
    questions = [
        _question(row, facts[row.facts[0]], "unseen_phrasing", facts[row.facts[0]].answers)
        for row in first.values()
    ]
    valid = questions[: min(config.valid_questions, len(questions) // 4)]  # a small folder needs tests most
    return valid, questions[len(valid) : len(valid) + config.test_questions]


def _unseen_questions(rows: Sequence[Example], unseen: set[str], facts: dict[str, Fact]) -> list[Question]:
    chosen: dict[str, Question] = {}
    for row in rows:
        if row.facts and row.facts[0] in unseen and row.form in TEST_FORMS:
            fact = facts[row.facts[0]]
            chosen.setdefault(fact.id, _question(row, fact, "unseen_fact", ()))
    return list(chosen.values())


def _assert_no_leak(train: Sequence[Example], held_out: Sequence[Question]) -> int:
    """Raise when a held-out question stands in the training rows; returns 0, the number of leaks found.

    Raises:
        CurateError: a question is equal to a training prompt after normalising.
    """
    prompts = {_prompt(row) for row in train}
    leaked = [question for question in held_out if normalize.normalize(question.question) in prompts]
    if leaked:
        raise CurateError(
            f"{len(leaked)} held-out question(s) stand in the training rows, first {leaked[0].question!r}; "
            "this is a defect of the curate stage, please report it"
        )
    return len(leaked)
