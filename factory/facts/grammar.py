"""The little English grammar that turns a sentence and one answer in it into questions.

Finds subject, verb and rest of a main clause from part-of-speech tags, and puts questions together from them.
Knows clauses; not documents, facts or how many questions are wanted.
"""

import re
from dataclasses import dataclass

from factory.facts.lexis import (
    ARTICLES,
    BE,
    DEICTIC,
    DURATIONS,
    HAVE_DO,
    IRREGULAR,
    MODALS,
    OPENERS,
    PARTICLES,
    PREPOSITIONS,
    SUBORDINATORS,
    VERBS,
    is_known,
    lemma,
    lower_first,
    tags,
)
from factory.facts.spans import Answer
from factory.text.segment import Piece

CURRENCY_SIGNS = "$€£"
TRAILING = re.compile(
    r",? (?:because|although|so that|which|whereas)\b|, (?:and|but|so|as|or|who|mostly|while)\b"
)
MIN_CLIPPED_WORDS = 5
# What an answer must not have between the verb and itself: it would belong to another clause.
ELSEWHERE = re.compile(
    r"[;:()\"“”]|,\s"
    r"|\b(?:and|but|because|which|who|whose|when|while|whereas|although|if|so|that|than|or|not)\b",
    re.IGNORECASE,
)
BOUNDS = re.compile(
    r"\b(?:up to|at least|at most|no more than|more than|less than|about|around|nearly|almost|exactly|only)$"
)


@dataclass(frozen=True)
class Clause:
    """A main clause: `opener, subject verb rest`; places are character offsets in the sentence."""

    sentence: str
    opener: str
    subject: str
    verb: str
    verb_start: int
    verb_end: int
    rest: str


def parse(sentence: str) -> Clause | None:
    """Return the main clause of a plain statement, or None when it is not one that can be turned around."""
    text = sentence.rstrip(" .!:;")
    if not text or sentence.rstrip().endswith(("?", ":")):
        return None
    opener, offset = _split_opener(text)
    tagged = [(piece, label) for piece, label in tags(text) if piece.start >= offset]
    if len(tagged) < 3:
        return None
    place = _find_verb(tagged)
    if place is None:
        return None
    verb = tagged[place][0]
    subject = text[offset : verb.start].strip(" ,")
    rest = text[verb.end :].strip()
    led = re.fullmatch(r"([A-Z]\w*(?: \w+){0,2}) (we|you)", subject)
    if led and not opener and subject.split()[0].lower() not in SUBORDINATORS:
        opener, subject = led.groups()
    if not rest or not _is_subject(subject):
        return None
    return Clause(text, opener, subject, verb.text, verb.start, verb.end, rest)


def _is_subject(text: str) -> bool:
    parts = text.lower().split()
    if not parts or len(parts) > 12 or parts[0] in DEICTIC or re.search(r"[:;()\"“”]", text):
        return False
    ends_well = len(parts) == 1 or parts[-1] not in {"we", "you", "they", "it"}
    return ends_well and parts[0] not in SUBORDINATORS | PREPOSITIONS


def _split_opener(text: str) -> tuple[str, int]:
    first = text.split(" ", 1)[0].lower()
    comma = text.find(", ")
    if first in OPENERS and 0 < comma < 0.7 * len(text):
        return text[:comma], comma + 2
    pronouns = list(re.finditer(r" (?=(?:you|we|they) )", text))
    if first in SUBORDINATORS and pronouns and pronouns[0].start() == len(first):
        pronouns = pronouns[1:]  # the subject of `when you …` is not that of the clause
    if first in OPENERS and pronouns:
        return text[: pronouns[0].start()], pronouns[0].end()
    return "", 0


def _find_verb(tagged: list[tuple[Piece, str]]) -> int | None:
    depth = relatives = 0
    for place, (piece, _) in enumerate(tagged):
        word = piece.text.lower()
        depth += (piece.text == "(") - (piece.text == ")")
        if place == 0 or depth:
            continue
        if word in {"who", "which", "that", "whose", "where"}:
            relatives += 1
        elif _is_verb(tagged, place):
            if not relatives:
                return place
            relatives -= 1  # the verb of "everyone who works" is not the verb of the clause
    return None


def _is_verb(tagged: list[tuple[Piece, str]], place: int) -> bool:
    word, label = tagged[place][0].text, tagged[place][1]
    before = tagged[place - 1][1]
    follows = tagged[place + 1] if place + 1 < len(tagged) else None
    if word.lower() in BE | MODALS | HAVE_DO:
        return True
    if label in {"VBZ", "VBD", "VBP"}:
        return before not in {"TO", "DT", "PRP$", "JJ", "MD"}
    if label not in {"NN", "NNS", "JJ", "VB", "IN"} or lemma(word) not in VERBS or not word.islower():
        return False
    opens = follows is not None and (
        follows[1] in {"DT", "CD", "PRP$", "PRP", "IN", "TO"} or follows[0].text[0] in CURRENCY_SIGNS
    )
    return opens and before in {"NN", "NNS", "NNP", "NNPS", "PRP", "CD", "WP"}


def tail_phrase(clause: Clause) -> Answer | None:
    """Return what follows the clause's last preposition or its verb, when short enough to be asked for."""
    tagged = [(piece, label) for piece, label in tags(clause.sentence) if piece.start >= clause.verb_end]
    start = None
    for piece, label in tagged:
        if piece.text.lower() in PREPOSITIONS and label in {"IN", "TO", "RP"}:
            start = piece.end
    for begin in (start, clause.verb_end):
        if begin is None or (begin == clause.verb_end and clause.verb.lower() in MODALS | HAVE_DO):
            continue
        text = clause.sentence[begin:].strip()
        if (
            1 <= len(text.split()) <= 6
            and not re.search(r"[,;()]|\b(?:and|or|but|as|so)\b", text)
            and text.lower() not in DEICTIC
        ):
            return Answer(text, len(clause.sentence) - len(text), len(clause.sentence), "phrase", "what")
    return None


def in_place(clause_sentence: str, answer: Answer) -> str:
    """Return the statement with the question words where the answer stood, as in `It weighs how many kg?`."""
    before, after = clause_sentence[: answer.start], clause_sentence[answer.end :].rstrip(" .!;:")
    if before.endswith(('"', "“")) and after.startswith(('"', "”")):
        before, after = before[:-1], after[1:]
    asks = answer.asks
    if answer.kind == "place":
        before = re.sub(r"\b(?:in|at|near) $", "", before)
    elif answer.kind == "code":
        before = re.sub(r"\b(?:a|an|the) $", "", before, flags=re.IGNORECASE)
    elif asks == "who" and before.split()[-1:] and before.split()[-1] in PREPOSITIONS:
        asks = "whom"
    return tidy(f"{before}{asks}{after}?")


def clip(sentence: str, answer: Answer) -> str:
    """Return the sentence without a trailing clause that has nothing to do with the answer."""
    for match in TRAILING.finditer(sentence, answer.end):
        if len(sentence[: match.start()].split()) >= MIN_CLIPPED_WORDS:
            return sentence[: match.start()]
    return sentence


def starts_unclear(sentence: str) -> bool:
    """Tell whether a sentence needs the one before it to be understood."""
    first = re.match(r"\W*(\w+)", sentence)
    return first is not None and first.group(1).lower() in DEICTIC | {
        "his",
        "her",
        "its",
        "their",
        "then",
        "otherwise",
        "also",
    }


def with_gap(sentence: str, answer: Answer) -> str:
    """Return the statement with a gap where the answer stood."""
    return f"{sentence[: answer.start]}___{sentence[answer.end :]}".strip()


def ask_subject(clause: Clause) -> str:
    """Return the question for a clause's subject, as in `Who approves purchases?`."""
    tail = f", {lower_first(clause.opener)}" if clause.opener else ""
    return tidy(f"{_who(clause.subject)} {clause.verb} {_first_part(clause.rest)}{tail}?")


def _first_part(rest: str) -> str:
    """Return what follows a verb up to the next clause, if that leaves enough to ask about."""
    for match in re.finditer(rf"[;(]|:\s|{TRAILING.pattern}", rest):
        if len(rest[: match.start()].split()) >= 3:
            return rest[: match.start()].rstrip(" ,")
    return rest


def _who(subject: str) -> str:
    parts = subject.split()
    named = 1 < len(parts) <= 4 and all(part[:1].isupper() for part in parts)
    if subject.lower() in {"you", "we", "they"} or (named and parts[0].lower() not in ARTICLES):
        return "Who"
    unknown = len(parts) == 1 and subject.isalpha() and subject.istitle() and not is_known(subject.lower())
    return "Who or what" if unknown else "What"


def ask_rest(clause: Clause, answer: Answer, *, strand: bool) -> str | None:
    """Return the question that brings the question words to the front, or None where that cannot be done.

    `strand` leaves a preposition behind (`What is it made of?`) instead of taking it along (`Of what …`).
    """
    sides = _sides(clause, answer)
    if sides is None:
        return None
    asks, before, after = _move_preposition(answer, *sides, strand=strand)
    auxiliary, middle = _invert(clause, before)
    parts = [asks[:1].upper() + asks[1:], auxiliary, lower_first(clause.subject), middle, after]
    parts.append(lower_first(clause.opener) if clause.opener else "")
    return tidy(" ".join(part for part in parts if part) + "?")


def ask_indirectly(clause: Clause, answer: Answer) -> str | None:
    """Return the question in reported form, as in `how many days new starters earn for each month`."""
    sides = _sides(clause, answer)
    if sides is None:
        return None
    asks, before, after = _move_preposition(answer, *sides, strand=False)
    opener = lower_first(clause.opener) if clause.opener else ""
    parts = [asks, lower_first(clause.subject), clause.verb, before, after, opener]
    return tidy(" ".join(part for part in parts if part))


def _sides(clause: Clause, answer: Answer) -> tuple[str, str] | None:
    """Return what stands between verb and answer, and after it; None when its going would break a phrase."""
    if answer.start < clause.verb_end:
        return None
    before = clause.sentence[clause.verb_end : answer.start].rstrip(' "“')
    after = re.split(r"[;()]|:(?!\d)|^[\"”]?,", clause.sentence[answer.end :], maxsplit=1)[0].strip(' ."”')
    before = BOUNDS.sub("", re.sub(r"\b(?:a|an|the)$", "", before, flags=re.IGNORECASE).strip()).strip()
    if ELSEWHERE.search(f"{before} ") or re.match(r"(?:and|or|nor|than)\b", after):
        return None
    return None if _breaks_phrase(clause, answer, before, after) else (before, after)


def _breaks_phrase(clause: Clause, answer: Answer, before: str, after: str) -> bool:
    """Tell whether an answer is only a part of its noun phrase, which would be left behind."""
    if answer.kind == "number":  # `how many` has no noun with it here
        return bool(after) or before.split(" ")[-1] in PREPOSITIONS
    labels = {piece.start: label for piece, label in tags(clause.sentence)}
    end = clause.verb_end + 1 + len(before)
    last = max((place for place in labels if clause.verb_end <= place < end), default=-1)
    if before and labels.get(last, "") in {"JJ", "JJR", "JJS", "PRP$", "POS", "DT"}:
        return True
    named = answer.kind in {"phrase", "name", "code", "place"}
    return named and labels.get(answer.end + 1, "").startswith("NN")


def tidy(question: str) -> str:
    """Return a question without the empty quotes, doubled spaces and loose commas that moved words leave."""
    text = re.sub(r"[\"“]\s*[\"”]", "", question)
    return re.sub(r"\s+([,.;:?])", r"\1", " ".join(text.split()))


def _move_preposition(answer: Answer, before: str, after: str, *, strand: bool) -> tuple[str, str, str]:
    last = before.rsplit(None, 1)[-1].lower() if before else ""
    if last not in PREPOSITIONS or last in PARTICLES:
        return answer.asks, before, after
    shortened = before[: len(before) - len(last)].strip()
    if answer.kind == "date" and last in {"on", "in"}:
        return "when", shortened, after
    if answer.kind == "place":
        return "where", shortened, after
    if last == "for" and answer.text.rstrip("s").split()[-1] in DURATIONS:
        return "how long", shortened, after
    if strand:
        return answer.asks, before, after
    return f"{last} {'whom' if answer.asks == 'who' else answer.asks}", shortened, after


def _invert(clause: Clause, before: str) -> tuple[str, str]:
    verb = clause.verb.lower()
    if verb in BE | MODALS:
        return verb, before
    if verb in {"has", "have", "had"} and re.match(r"(?:not |been |\w+ed\b)", before):
        return verb, before
    plain = lemma(verb)
    if verb in IRREGULAR.values() or verb == plain:
        return ("did" if verb in IRREGULAR and IRREGULAR[verb] != verb else "do"), f"{plain} {before}".strip()
    helper = "does" if verb.endswith("s") and verb not in {"was"} else "did"
    return helper, f"{plain} {before}".strip()
