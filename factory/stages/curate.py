"""Curate: examples in, a dataset out: clean, without duplicates, split by fact and by phrasing."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

from factory import store
from factory.errors import CurateError
from factory.facts import abstain, card, feedback, held_out, openbook, practice, replay
from factory.facts.conflicts import Refuted
from factory.facts.held_out import prompt_of
from factory.facts.masked import mask_conflict, mask_fact
from factory.facts.phrasing import TEST_FORMS
from factory.rows import Chunk, Conflict, Example, Fact, Message, read_rows, write_rows
from factory.text import normalize, versions
from factory.text.dedupe import near_duplicates
from factory.text.neutralize import neutralize
from factory.text.redact import DEFAULT_POLICIES, SEPARATOR, Kind, Policy, redact

CODE_VERSION = 11
REPLAY_EPOCHS = 8  # in which no general question comes twice, as far as there are enough
NEAR = 4  # passages looked at for each that a prompt may hold: some are too long


class CurateConfig(BaseModel):
    """What is kept, masked and held out.

    `unseen_fact_share` of the facts are kept out of training altogether, to measure whether the model says
    that it does not know; `abstain_share` is how many rows teach it to, as a share of the facts. `replay` is how
    many general questions an epoch takes, as a share of the facts, answered as the base does, so that the model keeps
    what it knew. `test_questions` and `valid_questions`
    bound the unseen-phrasing questions that are measured at the end and during training, `calibration_questions` the
    loose wordings that are kept from training to tell how sure is sure enough, one of each of some trained facts, and
    as many of a third of the withheld ones, which are not tested. Of rows alike beyond
    `near_duplicate_threshold` (Jaccard similarity of their words), the first stays. `personal_data` overrides
    the policy (redact, drop, allow) of single classes.

    Questions are also asked with passages above them, up to `open_book_passages`, as retrieval puts them there; an
    epoch shows a share `open_book` of these contexts, with all that is asked about them. In a share
    `open_book_missing` of them the passage that answers is left out, and the answer is what the fact says or, with
    `open_book_abstain`, that the model does not know. The others come in turn as they stand and in `open_book_altered`
    versions, where other numbers and names stand in passage and answer. Passages are cut so that a row has at most
    `open_book_tokens`: no more than `train.max_tokens`, which leaves longer rows out. Beside them an epoch takes
    questions on bundled passages, in other words than these have: `open_book_practice` as a share of the facts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    near_duplicate_threshold: float = Field(default=0.9, ge=0.5, le=1.0)
    personal_data: dict[Kind, Policy] = {}
    unseen_fact_share: float = Field(default=0.04, ge=0.0, le=0.3)
    abstain_share: float = Field(default=0.03, ge=0.0, le=0.3)
    replay: float = Field(default=0.15, ge=0.0, le=1.0)
    test_questions: int = Field(default=100, ge=1)
    valid_questions: int = Field(default=40, ge=1)
    calibration_questions: int = Field(default=40, ge=0)
    open_book: float = Field(default=0.1, ge=0.0, le=1.0)
    open_book_passages: int = Field(default=3, ge=1, le=20)
    open_book_missing: float = Field(default=0.2, ge=0.0, le=1.0)
    open_book_abstain: bool = False
    open_book_altered: int = Field(default=2, ge=0, le=20)
    open_book_tokens: int = Field(default=320, ge=128)
    open_book_practice: float = Field(default=0.15, ge=0.0, le=1.0)


def curate(
    config: CurateConfig,
    *,
    examples: Path,
    chunks: Path,
    base: Path,
    seed: int,
    system: str,
    work: Path,
) -> dict[str, Any]:
    """Write the splits, `facts.jsonl`, `conflicts.jsonl` and the dataset card; return counts.

    Raises:
        CurateError: nothing is left to train on, a held-out question was found in the training rows, or rows have no
            room for passages.
    """
    facts = {fact.id: fact for fact in read_rows(examples / "facts.jsonl", Fact)}
    rows = list(read_rows(examples / "examples.jsonl", Example))
    conflicts = list(read_rows(examples / "conflicts.jsonl", Conflict))
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    policies = {**DEFAULT_POLICIES, **{str(kind): policy for kind, policy in config.personal_data.items()}}
    key = store.private_key()
    clean, found = _clean(rows, policies, special)

    def cleaner(text: str) -> str | None:
        result = redact(neutralize(text, special), policies, key)
        return None if result.drop else result.text

    unseen = _unseen(facts.values(), config.unseen_fact_share, seed)
    kept = [row for row in clean if not set(row.facts) & unseen and not _overlaps(row, unseen, facts)]
    # A teacher may have worded a question as a test form does.
    tested = {prompt_of(row) for row in clean if row.form in TEST_FORMS}
    training = [row for row in kept if row.form not in TEST_FORMS and prompt_of(row) not in tested]
    train = _without_duplicates(training, config.near_duplicate_threshold)
    if not train:
        raise CurateError(
            f"None of {len(rows)} example(s) is left to train on: {dict(found)}; loosen curate.personal_data"
        )
    apart = set(sorted(unseen)[1::3])  # of the withheld facts: the others measure how often it declines
    calibration = held_out.calibration_questions(
        clean, train, apart, facts, config.calibration_questions, seed
    )
    kept_back = {normalize.normalize(question.question) for question in calibration}
    train = [row for row in train if prompt_of(row) not in kept_back]
    crossed = abstain.examples(list(facts.values()), round(len(facts) * config.abstain_share), seed, system)
    told = {prompt_of(row) for row in train if row.form == feedback.FORM}
    asked = told | kept_back
    refusals, found_there = _clean((row for row in crossed if prompt_of(row) not in asked), policies, special)
    questions = held_out.phrasing_questions(kept, train, facts, seed)
    valid = questions[: min(config.valid_questions, len(questions) // 4)]  # a small folder needs tests most
    test = questions[len(valid) : len(valid) + config.test_questions]
    hidden = held_out.unseen_questions(clean, unseen - apart, facts)
    general = _replayed(base, round(config.replay * len(facts)), system)
    hidden_facts = [facts[identity] for identity in unseen]
    below = _open_book(
        config, chunks, train, hidden_facts, Refuted(conflicts), cleaner, tokenizer, seed, system
    )
    practised = _practice(config, len(facts), tokenizer, system)
    final = [*train, *refusals, *general, *below, *practised]
    dropped = held_out.assert_no_leak(final, [*test, *valid, *hidden])
    held_out.assert_no_leak([*train, *refusals], calibration)  # an altered row may happen to ask the same
    write_rows(work / "train.jsonl", final)
    write_rows(work / "valid.jsonl", valid)
    write_rows(work / "test.jsonl", [*test, *hidden])
    write_rows(work / "calibration.jsonl", calibration)
    write_rows(work / "facts.jsonl", (mask_fact(fact, policies, key) for fact in facts.values()))
    write_rows(work / "conflicts.jsonl", (mask_conflict(conflict, policies, key) for conflict in conflicts))
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
        "calibration": len(calibration),
        "leaks": dropped,
        "hygiene": dict(found + found_there),
        "train_by_form": dict(Counter(row.form for row in final)),
    } | (
        {
            "open_book": len(below),
            "altered": sum(row.version > 0 for row in below),
            "practice": len(practised),
        }
        if config.open_book
        else {}
    )
    store.write_text(work / "README.md", card.dataset_card(counts, facts.values(), config.model_dump()))
    return counts


def _clean(
    rows: Iterable[Example], policies: Mapping[str, Policy], special_tokens: Sequence[str]
) -> tuple[list[Example], Counter[str]]:
    """Neutralise template tokens, then redact or drop personal data and secrets; returns counts by class.

    A row is redacted together with all that it is made of, since the label of a password often stands only there. The
    evidence stays where it is in its file; its text is the redacted one.
    """
    key = store.private_key()
    counts: Counter[str] = Counter()
    kept = []
    for row in rows:
        spoken = [neutralize(message.content, special_tokens) for message in row.messages]
        evidence = [row.evidence, *row.beside] if row.evidence else []
        context = [neutralize(found.text, special_tokens) for found in evidence]
        result = redact(SEPARATOR.join([*spoken, *context]), policies, key)
        counts.update(result.counts)
        parts = result.text.split(SEPARATOR)
        turns, shown = parts[: len(spoken)], parts[len(spoken) :]
        if result.drop:
            counts["rows dropped"] += 1
        elif turns[-1] != spoken[-1]:
            counts["rows with a masked answer dropped"] += 1
        else:
            messages = (
                Message(role=old.role, content=new) for old, new in zip(row.messages, turns, strict=True)
            )
            masked = [
                found.model_copy(update={"text": text}) for found, text in zip(evidence, shown, strict=True)
            ]
            told = {"evidence": masked[0], "beside": tuple(masked[1:])} if masked else {}
            kept.append(row.model_copy(update={"messages": tuple(messages), **told}))
    return kept, counts


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


def _overlaps(row: Example, unseen: set[str], facts: dict[str, Fact]) -> bool:
    """Tell whether a row says a withheld fact's answer and was made from the text that holds it, or by a person."""
    if row.evidence is None:
        return False
    spoken = [message.content for message in row.messages]
    for fact in (facts[identity] for identity in unseen):
        hidden, told = fact.evidence, row.form == feedback.FORM
        shared = any(
            hidden.document == found.document and hidden.start < found.end and found.start < hidden.end
            for found in (row.evidence, *row.beside)
        )
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


def _replayed(base: Path, an_epoch: int, system: str) -> list[Example]:
    """Return rows with general questions and the base's own answers, of which an epoch takes about so many."""
    if not an_epoch:
        return []
    from factory.lora.rehearsal import rehearse

    questions = replay.questions()[: REPLAY_EPOCHS * an_epoch]
    return replay.examples(rehearse(base, questions, system), an_epoch, system)


def _open_book(
    config: CurateConfig,
    chunks: Path,
    train: Sequence[Example],
    withheld: Sequence[Fact],
    refuted: Refuted,
    clean: Callable[[str], str | None],
    tokenizer: Tokenizer,
    seed: int,
    system: str,
) -> list[Example]:
    """Return rows with passages above their questions, made of rows to train on.

    They are made here and not with the others, because only here it is known what is trained on, what is withheld and
    must stand in no passage, and what must be masked in one. What is not believed stands in none either.
    """
    if not config.open_book:
        return []
    from factory.tasks.retrieval import Index

    count = _counter(tokenizer)
    settings = openbook.OpenBook(
        every=round(1 / config.open_book),
        passages=config.open_book_passages,
        missing=config.open_book_missing,
        altered=config.open_book_altered,
        abstain=config.open_book_abstain,
        max_tokens=config.open_book_tokens,
    )
    room = openbook.room_for_passages(config.open_book_tokens, count(system))
    if room < openbook.MIN_PASSAGE_TOKENS:
        raise CurateError(
            f"A row with passages would have room for {room} tokens of them, and takes {openbook.MIN_PASSAGE_TOKENS}: "
            f"the system text has {count(system)}; raise curate.open_book_tokens (now {config.open_book_tokens}), or "
            "shorten the system text"
        )
    current, _ = versions.split(list(read_rows(chunks / "chunks.jsonl", Chunk)))
    believed = [openbook.without_refuted(chunk, refuted) for chunk in current]
    passages = openbook.cut_passages(believed, withheld, clean, room, count)
    if not passages:
        return []
    index = Index([passage.text for passage in passages])

    def near(text: str) -> list[int]:
        return [number for number, _ in index.find(text, NEAR * config.open_book_passages)]

    return openbook.examples(train, passages, settings, near, count, seed, system)


def _practice(config: CurateConfig, num_facts: int, tokenizer: Tokenizer, system: str) -> list[Example]:
    """Return the rows with bundled passages, where there are open-book rows."""
    an_epoch = round(config.open_book_practice * num_facts)
    if not config.open_book or not an_epoch:
        return []
    count = _counter(tokenizer)
    room = openbook.room_for_passages(config.open_book_tokens, count(system))
    return list(practice.examples(practice.passages(), an_epoch, room, count, system))


def _counter(tokenizer: Tokenizer) -> Callable[[str], int]:
    """Return what counts the tokens of a text."""
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
