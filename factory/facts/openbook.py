"""Training rows whose question stands below passages, as retrieval puts it: the right one among near ones, or missing.

Some say other things than the documents do, so that reading is learned and not only remembering.

All rows on a passage have the same passages above them in the same order, so that training computes these once.
Knows passages, facts and rows; what is near is told by its caller.
"""

import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from factory import store
from factory.chat.context import chunk_text, split_turn, with_context
from factory.chat.template import conversation
from factory.facts.abstain import ABSTENTION
from factory.facts.altered import Alternatives, replacer
from factory.facts.conflicts import Refuted
from factory.facts.related import FORMS as RELATED
from factory.rows import OPEN_BOOK, Chunk, Evidence, Example, Fact, Message
from factory.text import normalize
from factory.text.chunking import cut_smaller, leave_out, smallest_pieces

logger = logging.getLogger(__name__)
# Of a row's tokens, for what a chat template puts around its turns, and for question and answer, which take no more in
# 95 % of the sample company's rows.
TEMPLATE_TOKENS, QUESTION_TOKENS = 24, 48
MIN_PASSAGE_TOKENS = 16  # where title and headings leave less, nothing of a chunk is shown
Count = Callable[[str], int]
Near = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Passage:
    """Stretches of a document as a prompt shows them: `text` is cleaned, under its title and headings."""

    document: str
    stretches: tuple[tuple[int, int], ...]
    text: str
    num_tokens: int

    def covers(self, evidence: Evidence) -> bool:
        """Tell whether all of some evidence stands in one of the stretches."""
        return self.document == evidence.document and any(
            start <= evidence.start and evidence.end <= end for start, end in self.stretches
        )


@dataclass(frozen=True)
class OpenBook:
    """What is made: rows of at most `max_tokens` with 1 to `passages` passages each, for one of `every` epochs.

    On a share `missing` of the passages the right one is left out; the answer stays what the fact says, or is to
    abstain. The others are also shown in so many `altered` versions.
    """

    every: int
    passages: int
    missing: float
    altered: int
    abstain: bool
    max_tokens: int


def room_for_passages(max_tokens: int, system_tokens: int) -> int:
    """Return how many tokens of a row of at most `max_tokens` passages may take."""
    return max_tokens - system_tokens - TEMPLATE_TOKENS - QUESTION_TOKENS


def cut_passages(
    chunks: Sequence[Chunk],
    withheld: Sequence[Fact],
    clean: Callable[[str], str | None],
    room: int,
    count: Count,
) -> list[Passage]:
    """Return the passages that prompts may show.

    Args:
        chunks: where they come from; what is too long is cut.
        withheld: facts of which neither the evidence nor another sentence or line of the same document that names
            subject and answer may stand in a passage.
        clean: returns a text without what must not be trained on, or None if it must not be shown at all.
        room: the tokens that one may take.
        count: returns the tokens of a text.
    """
    hidden: dict[str, list[Fact]] = defaultdict(list)
    for fact in withheld:
        hidden[fact.evidence.document].append(fact)
    found = []
    for chunk in chunks:
        left = room - count(chunk_text(chunk.model_copy(update={"text": ""})))
        shown = leave_out(chunk, list(_telling(chunk, hidden[chunk.document])))
        for piece in cut_smaller(shown, left, count) if left >= MIN_PASSAGE_TOKENS else ():
            if text := clean(chunk_text(piece)):
                stretches = tuple((element.start, element.end) for element in piece.elements)
                found.append(Passage(piece.document, stretches, text, count(text)))
    return found


def without_refuted(chunk: Chunk, refuted: Refuted) -> Chunk:
    """Return a chunk without the sentences and rows in which its document is not believed."""
    if chunk.document not in refuted.documents:
        return chunk
    told = (
        Evidence(
            document=chunk.document,
            start=element.start + piece.start,
            end=element.start + piece.end,
            text=piece.text,
        )
        for element in chunk.elements
        for piece in smallest_pieces(element)
    )
    return leave_out(chunk, [(piece.start, piece.end) for piece in told if refuted.tells(piece)])


def _telling(chunk: Chunk, facts: Sequence[Fact]) -> Iterator[tuple[int, int]]:
    """Yield the stretches of a chunk's document that tell one of its facts."""
    for fact in facts:
        yield fact.evidence.start, fact.evidence.end
    for element in chunk.elements if facts else ():
        for piece in smallest_pieces(element):
            if any(_tells(piece.text, fact) for fact in facts):
                yield element.start + piece.start, element.start + piece.end


def _tells(text: str, fact: Fact) -> bool:
    """Tell whether a text repeats a fact's evidence, or names its subject and its answer, where these are two."""
    named = fact.subject != fact.answer and normalize.contains(text, fact.subject)
    return normalize.contains(text, fact.evidence.text) or (named and normalize.contains(text, fact.answer))


def examples(
    rows: Sequence[Example],
    passages: Sequence[Passage],
    settings: OpenBook,
    near: Near,
    count: Count,
    seed: int,
    system: str,
) -> list[Example]:
    """Return open-book rows made of closed-book ones that ask for single facts; these stay as they are.

    A passage is shown with the ones nearest to all that is asked about it.

    Args:
        rows: rows to train on; none of a form that is tested.
        passages: what may be shown.
        settings: what is made.
        near: returns the numbers of passages near to a text, the nearest first.
        count: returns the tokens of a text.
        seed: decides how many passages, their order, and where the right one is missing.
        system: the system text.
    """
    asked = _by_passage([row for row in rows if len(row.facts) == 1 and row.form not in RELATED], passages)
    alternatives = Alternatives(_answer(row) for same in asked.values() for row in same)
    room = room_for_passages(settings.max_tokens, count(system))
    made: list[Example] = []
    for number in sorted(asked):
        questions = " ".join(row.messages[-2].content for row in asked[number])
        chosen = _choose(number, passages, near(questions), settings, room, seed)
        shown = [passages[place].text for place in chosen]
        if not shown:
            continue
        abstain = settings.abstain and number not in chosen
        said = [_answer(row) for row in asked[number] if number in chosen]
        versions = _versions(alternatives, said, "\n".join(shown), settings.altered, seed)
        every = settings.every * (1 + len(versions))
        below = (_below(shown, row, abstain, system, every) for row in asked[number])
        stated = [row for row in below if row]
        altered = [_alter(row, put, place) for place, put in enumerate(versions, 1) for row in stated]
        made += [
            row
            for row in (*stated, *altered)
            if row and _num_tokens(row, count) + TEMPLATE_TOKENS <= settings.max_tokens
        ]
    true = sum(not row.version for row in made)
    logger.info(
        "%d of %d rows also stand below passages, %d below altered ones",
        true,
        sum(map(len, asked.values())),
        len(made) - true,
    )
    return made


def _by_passage(rows: Sequence[Example], passages: Sequence[Passage]) -> Mapping[int, list[Example]]:
    """Return rows by the number of the passage that holds their evidence and their answer."""
    by_document: dict[str, list[int]] = defaultdict(list)
    for number, passage in enumerate(passages):
        by_document[passage.document].append(number)
    asked: dict[int, list[Example]] = defaultdict(list)
    for row in rows:
        for number in by_document[row.evidence.document] if row.evidence else ():
            passage, answer = passages[number], row.messages[-1].content
            if row.evidence and passage.covers(row.evidence) and normalize.contains(passage.text, answer):
                asked[number].append(row)
                break
    return asked


def _choose(
    gold: int, passages: Sequence[Passage], near: Sequence[int], settings: OpenBook, room: int, seed: int
) -> list[int]:
    """Return the numbers of the passages to show, in order: near ones and, unless it is missing, the right one."""
    source = random.Random(f"{seed}/{passages[gold].document}/{passages[gold].stretches[0]}")
    missing = source.random() < settings.missing
    size = source.randint(1, settings.passages)
    chosen = [] if missing else [gold]
    room -= sum(passages[number].num_tokens for number in chosen)
    for number in near:
        if number != gold and len(chosen) < size and passages[number].num_tokens <= room:
            chosen.append(number)
            room -= passages[number].num_tokens
    source.shuffle(chosen)
    return chosen


def _below(shown: Sequence[str], row: Example, abstain: bool, system: str, every: int) -> Example | None:
    """Return a row with passages above its question; None where it would abstain although they answer."""
    question, answer = (message.content for message in row.messages[-2:])
    if abstain and any(normalize.contains(text, answer) for text in shown):
        return None
    messages = conversation(with_context(shown, question), ABSTENTION if abstain else answer, system)
    identity = store.hash_json([OPEN_BOOK, row.id, messages[-2].content])[:16]
    return row.model_copy(update={"id": identity, "form": OPEN_BOOK, "messages": messages, "every": every})


def _versions(
    alternatives: Alternatives, answers: Sequence[str], text: str, count: int, seed: int
) -> list[Callable[[str], str]]:
    """Return what makes each altered version of a text, up to `count`: none where no answer has an alternative."""
    others = (alternatives.choose(answers, text, random.Random(f"{seed}/{n}/{text}")) for n in range(count))
    return [replacer(chosen) for chosen in others if chosen]


def _alter(row: Example, replace: Callable[[str], str], version: int) -> Example | None:
    """Return an open-book row on what the documents do not say; None where its answer stays, or is not to be read."""
    turn, answer = (replace(message.content) for message in row.messages[-2:])
    above, question = split_turn(turn)
    stands_above = normalize.contains(above, answer) and not normalize.contains(question, answer)
    if answer == _answer(row) or not stands_above:
        return None
    messages = (
        *row.messages[:-2],
        Message(role="user", content=turn),
        Message(role="assistant", content=answer),
    )
    identity = store.hash_json([row.id, version])[:16]
    return row.model_copy(update={"id": identity, "messages": messages, "version": version, "evidence": None})


def _answer(row: Example) -> str:
    return row.messages[-1].content


def _num_tokens(row: Example, count: Count) -> int:
    return sum(count(message.content) for message in row.messages)
