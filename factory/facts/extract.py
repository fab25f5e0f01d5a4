"""Facts from the structure of a document: tables, `key: value` lines, FAQ headings, sentences.

Each fact comes with the questions that ask for it. Knows elements and grammar; not prompts, splits or models.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from factory import store
from factory.facts import grammar, phrasing, spans
from factory.facts.lexis import PRONOUNS
from factory.facts.phrasing import Ask
from factory.rows import Chunk, Element, Evidence, Fact
from factory.text import normalize
from factory.text.segment import Piece, sentences

MAX_ANSWER_WORDS = 15
MAX_KEY_WORDS = 10
MAX_FAQ_WORDS = 60
MIN_SENTENCE_WORDS = 4
MAX_SENTENCE_WORDS = 45
MAX_SENTENCE_CHARACTERS = 600  # longer ones are no prose, and some patterns take quadratic time
MAX_ANSWERS_A_SENTENCE = 3
MAX_SUBJECT_WORDS = 4
# Which answers of a sentence are worth most, should it hold too many.
SURE_RANK = 1  # what ranks below is only asked for where a sentence holds nothing better
ANSWER_RANK = {
    "date": 0, "money": 0, "time": 0, "percent": 0, "quantity": 0,
    "code": 1, "name": 1, "place": 2, "number": 2, "phrase": 3,
}  # fmt: skip
EMPTY_ANSWERS = frozenset(
    ("", "-", "--", "n/a", "na", "none", "tbd", "y", "n", "yes", "no", "x", "here", "link", "see above")
)
# The line above a quoted mail, whole or broken in two.
QUOTED_MAIL = re.compile(
    r"[>\s]*(?:On\b.{0,200}\bwrote:?|On (?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d.{0,200}"
    r"|-+ ?Original Message ?-+)\s*",
    re.IGNORECASE | re.DOTALL,
)
FIELD = re.compile(r"^[ \t]*([A-Z][\w /&()'’.-]{1,50}?):\s+(\S.{0,120})$", re.MULTILINE)  # noqa: RUF001


@dataclass(frozen=True)
class Draft:
    """A fact and the questions that ask for it."""

    fact: Fact
    asks: tuple[Ask, ...]


def drafts(chunk: Chunk) -> Iterator[Draft]:
    """Yield what a chunk states, element by element, in order."""
    for draft in _stated(chunk):
        asks = tuple(ask for ask in draft.asks if not _gives_away(ask, draft.fact))
        if asks:
            yield Draft(draft.fact, asks)


def _stated(chunk: Chunk) -> Iterator[Draft]:
    for element in chunk.elements:
        if element.kind == "table" and element.cells:
            yield from _from_table(chunk, element)
        elif element.kind == "field":
            yield from _from_fields(chunk, element)
        elif element.kind in {"paragraph", "list_item"}:
            yield from _from_fields(chunk, element)
            yield from _from_sentences(chunk, element)
    yield from _from_faq(chunk)


def _gives_away(ask: Ask, fact: Fact) -> bool:
    """Tell whether a question holds its own answer, as a title or heading may."""
    return normalize.contains(ask.question, phrasing.answer_of(ask, fact))


def topic_of(chunk: Chunk, element: Element) -> str:
    """Return the innermost heading above an element, or the document's title."""
    return element.heading_path[-1] if element.heading_path else chunk.title


def _evidence(chunk: Chunk, element: Element, text: str, start: int) -> Evidence:
    return Evidence(
        document=chunk.document,
        start=start,
        end=start + len(text),
        text=text,
        page=element.page,
        sheet=element.sheet,
    )


def _fact(kind: str, subject: str, relation: str, answer: str, topic: str, evidence: Evidence) -> Fact:
    identity = [normalize.normalize(part) for part in (subject, relation, topic)]
    return Fact(
        id=store.hash_json([evidence.document, kind, *identity, normalize.normalize(answer)])[:16],
        kind=kind,
        subject=subject,
        relation=relation,
        answer=answer,
        answers=phrasing.spellings(answer),
        topic=topic,
        evidence=evidence,
    )


def usable(answer: str) -> bool:
    """Tell whether a text can be an answer: neither empty of meaning nor too long."""
    plain = answer.strip().lower()
    if plain in EMPTY_ANSWERS or len(plain.split()) > MAX_ANSWER_WORDS:
        return False
    return bool(normalize.normalize(answer)) and not re.search(r"https?://|\[[ x]\]|\{\{|<[a-z/]", plain)


def _from_table(chunk: Chunk, element: Element) -> Iterator[Draft]:
    cells = element.cells or ()
    header, *body = cells
    keys = [row[0] for row in body if row]
    if len(header) < 2 or not keys or len({normalize.normalize(key) for key in keys}) < 0.6 * len(keys):
        return
    lines = _row_lines(element, len(body))
    for row, line in zip(body, lines, strict=True):
        key = row[0].strip()
        if not re.search(r"[A-Za-z]", key) or len(key.split()) > MAX_KEY_WORDS or line is None:
            continue
        for name, value in zip(header[1:], row[1:], strict=False):
            if name.strip() and usable(value) and normalize.normalize(value) != normalize.normalize(key):
                topic = topic_of(chunk, element)
                evidence = _evidence(chunk, element, line.text, line.start)
                fact = _fact("table", key, name.strip(), value.strip(), topic, evidence)
                others = tuple(
                    other[0] for other in body if other and other != row and name and value in other
                )
                yield Draft(
                    fact,
                    phrasing.ask_cell(
                        fact, header[0].strip(), chunk.title, unique=not others and key in line.text
                    ),
                )


def _row_lines(element: Element, num_rows: int) -> list[Piece | None]:
    """Return the text line of each body row; a table's text is one line a row, header and rule first."""
    lines: list[Piece | None] = []
    place = element.start
    for line in element.text.split("\n"):
        lines.append(Piece(line, place, place + len(line)))
        place += len(line) + 1
    return [*lines[-num_rows:]] if len(lines) >= num_rows else [None] * num_rows


def _from_fields(chunk: Chunk, element: Element) -> Iterator[Draft]:
    for match in FIELD.finditer(element.text):
        key, value = match.group(1).strip(), match.group(2).strip().rstrip(".")
        if len(key.split()) > 5 or not usable(value):
            continue
        subject = topic_of(chunk, element)
        evidence = _evidence(chunk, element, match.group().strip(), element.start + _lead(match))
        fact = _fact("field", subject, key, value, chunk.title, evidence)
        yield Draft(fact, phrasing.ask_cell(fact, "", chunk.title, unique=False))


def _lead(match: re.Match[str]) -> int:
    return match.start() + len(match.group()) - len(match.group().lstrip())


def _from_faq(chunk: Chunk) -> Iterator[Draft]:
    heading = chunk.heading_path[-1] if chunk.heading_path else ""
    if not heading.endswith("?"):
        return
    for element in chunk.elements:
        if element.kind not in {"paragraph", "list_item"}:
            continue
        words = 0
        taken: list[Piece] = []
        for piece in sentences(element.text):
            words += len(piece.text.split())
            if words > MAX_FAQ_WORDS:
                break
            taken.append(piece)
        if taken:
            text = element.text[taken[0].start : taken[-1].end]
            evidence = _evidence(chunk, element, text, element.start + taken[0].start)
            fact = _fact("faq", heading, "answer", text, chunk.title, evidence)
            yield Draft(fact, phrasing.ask_heading(heading, chunk.title))
        return


def _from_sentences(chunk: Chunk, element: Element) -> Iterator[Draft]:
    for piece in sentences(element.text):
        if _is_statement(piece.text):
            evidence = _evidence(chunk, element, piece.text, element.start + piece.start)
            yield from sentence_drafts(piece.text, topic_of(chunk, element), chunk.title, evidence)


def _is_statement(text: str) -> bool:
    if len(text) > MAX_SENTENCE_CHARACTERS or text.endswith("?") or QUOTED_MAIL.fullmatch(text):
        return False
    return MIN_SENTENCE_WORDS <= len(text.split()) <= MAX_SENTENCE_WORDS


def sentence_drafts(sentence: str, topic: str, title: str, evidence: Evidence) -> Iterator[Draft]:
    """Yield what one sentence states: numbers, dates, names and codes in it, its last phrase, its subject."""
    clause = grammar.parse(sentence)
    found = [answer for answer in spans.answers(sentence) if _says_something(answer.text)]
    found = sorted(found, key=lambda answer: ANSWER_RANK[answer.kind])
    sure = [answer for answer in found if ANSWER_RANK[answer.kind] <= SURE_RANK]
    found = sure[:MAX_ANSWERS_A_SENTENCE] or found[:1]
    if clause and not found:
        tail = grammar.tail_phrase(clause)
        found = [tail] if tail and _says_something(tail.text) else []
    for answer in found:
        gap = grammar.with_gap(sentence, answer)
        subject = clause.subject if clause else topic
        fact = _fact("sentence", subject, gap, answer.text, topic, evidence)
        yield Draft(fact, phrasing.ask_sentence(sentence, answer, topic, title))
    if clause and _can_be_asked(clause):
        gap = sentence.replace(clause.subject, "___", 1)
        fact = _fact("sentence", clause.subject, gap, clause.subject, topic, evidence)
        yield Draft(fact, phrasing.ask_reverse(clause, topic, title))


def _says_something(words: str) -> bool:
    """Tell whether words of a sentence can be an answer; `us` cannot, the US can."""
    return usable(words) and (words.isupper() or words.lower() not in PRONOUNS)


def _can_be_asked(clause: grammar.Clause) -> bool:
    """Tell whether a clause's subject is short and names something, and enough is left to know it by.

    A subject such as `the controller` is the answer to hundreds of questions: taught as one, it is said to all of them.
    """
    parts = clause.subject.split()
    names = any(part[0].isupper() or part[0].isdigit() for part in parts[1:])
    return (
        names and len(parts) <= MAX_SUBJECT_WORDS and usable(clause.subject) and len(clause.rest.split()) >= 3
    )
