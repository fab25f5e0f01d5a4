"""The ways a fact is asked for: named families of question forms, some kept back from training for the test.

A form belongs to one family; families never share a wording, so that a test form is a phrasing unlike
training.
"""

import re
import zlib
from dataclasses import dataclass

from factory.facts import grammar
from factory.facts.grammar import Clause
from factory.facts.lexis import DEICTIC, PREPOSITIONS, lower_first
from factory.facts.spans import Answer
from factory.rows import Fact
from factory.text import normalize

TEST_FORMS = frozenset({"indirect"})
REVERSE_FORMS = frozenset({"reverse"})

# What a column's name asks in plain words. The last group is the fallback of every name.
NATURAL = (
    (
        r"price|cost|fee|rate|list price|unit price|amount|charge",
        "How much does {s} cost?",
        "how much {s} costs",
    ),
    (r"warranty|guarantee", "How long is the {r} of {s}?", "how long the {r} of {s} lasts"),
    (r"weight|mass", "How much does {s} weigh?", "how much {s} weighs"),
    (
        r"lead time|delivery( time)?|turnaround",
        "How long does {s} take to deliver?",
        "how long delivery of {s} takes",
    ),
    (
        r"contact|owner|author|lead|manager|responsible( person)?",
        "Who is the {r} for {s}?",
        "who the {r} for {s} is",
    ),
    (r"deadline|when|day", "When is {s}?", "when {s} is"),
    (r"location|place|site|where|bay|address|shelf", "Where is {s}?", "where {s} is"),
    (r"phone|telephone|extension|ext\.?|e-?mail", "How can {s} be reached?", "how {s} can be reached"),
    (r"meaning|description|what|notes?|value", "What is {s}?", "what {s} is"),
)


# A model that has met every question with several openings learns that the opening does not matter.
LEADS = (
    "Please tell me:", "Quick question:", "I need to know:", "Hello!", "For a customer:", "One question:",
    "A colleague asks:", "Just to be sure:", "Remind me:", "Help me out:", "I forgot:", "Briefly:",
)  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """One question and the family of its form."""

    form: str
    question: str


def answer_of(ask: Ask, fact: Fact) -> str:
    """Return the right answer to one of a fact's questions: its subject where the question turns it round."""
    return fact.subject if ask.form in REVERSE_FORMS else fact.answer


def spellings(answer: str) -> tuple[str, ...]:
    """Return an answer's accepted spellings: as it stands, then without brackets and article."""
    found = [answer.strip()]
    shorter = re.sub(r"\s*\([^)]*\)", "", found[0]).strip()
    found.append(re.sub(r"^(?:the|a|an)\s+", "", shorter, flags=re.IGNORECASE))
    unique: dict[str, str] = {}
    for text in found:
        if normalize.normalize(text):
            unique.setdefault(normalize.normalize(text), text)
    return tuple(unique.values())


def _led_in(question: str) -> str:
    """Return a question after one of the things people say first; the same question always gets the same one."""
    lead = LEADS[zlib.crc32(question.encode()) % len(LEADS)]
    return f"{lead} {question if lead.endswith('!') else lower_first(question)}"


def ask_cell(fact: Fact, key_name: str, title: str, *, unique: bool) -> tuple[Ask, ...]:
    """Return the questions for a table cell or a `key: value` line, the most natural first.

    Args:
        fact: its subject and relation are the row's key and the column's name.
        key_name: the name of the key column, empty when there is none.
        title: the document's title.
        unique: whether no other row has this value, so that the reverse question has one answer.
    """
    relation, s = label(fact.relation), fact.subject
    natural, indirect = _natural(fact.relation, s, relation)
    asks = [Ask("natural", natural)] if natural else []
    asks += [Ask("what_of", f"What is the {relation} of {s}?")]
    asks.insert(1, Ask("lead_in", _led_in(asks[0].question)))
    if unique and key_name:
        asks.append(Ask("reverse", f"Which {lower_first(key_name)} has the {relation} {fact.answer}?"))
    asks += [
        Ask("topic_what", f"{fact.topic}: what is the {relation} for {s}?"),
        Ask("keywords", f"{s}, {relation}?"),
        Ask("which", f"Which {relation} does {s} have?"),
        Ask("tell", f"Tell me the {relation} of {s}."),
        Ask("title", f"According to {title}, what {relation} is given for {s}?"),
        Ask("indirect", f"Do you know {indirect}?"),
    ]
    return tuple(asks)


def label(relation: str) -> str:
    """Return a column's name as a noun; one that is no noun (`Used for`, `What happens there`) in quotes."""
    words = relation.lower().split()
    noun = words and not {words[0], words[-1]} & (PREPOSITIONS | DEICTIC | {"how", "when", "why"})
    return lower_first(relation) if noun else f"entry '{relation}'"


def _natural(relation: str, subject: str, lowered: str) -> tuple[str, str]:
    for pattern, direct, indirect in NATURAL:
        if re.fullmatch(pattern, relation.strip().lower()):
            return direct.format(s=subject, r=lowered), indirect.format(s=subject, r=lowered)
    return "", f"what the {lowered} of {subject} is"


def ask_heading(heading: str, title: str) -> tuple[Ask, ...]:
    """Return the questions for a FAQ heading and its answer."""
    plain = heading.rstrip("?")
    return (
        Ask("faq", heading),
        Ask("faq_title", f"{title}: {heading}"),
        Ask("faq_tell", f"Please answer this: {lower_first(plain)}?"),
        Ask("indirect", f"A customer would like to know: {lower_first(plain)}?"),
    )


def ask_sentence(sentence: str, answer: Answer, topic: str, title: str) -> tuple[Ask, ...]:
    """Return the questions for one span of a sentence, the most natural first.

    A sentence that leans on the one before it (`It must …`) is only asked about with its topic in front.
    """
    clipped = grammar.clip(sentence, answer)
    unclear = grammar.starts_unclear(clipped)
    clause = None if unclear else grammar.parse(clipped)
    stated, gap = grammar.in_place(clipped, answer), grammar.with_gap(clipped, answer)
    front = grammar.ask_rest(clause, answer, strand=False) if clause else None
    strand = grammar.ask_rest(clause, answer, strand=True) if clause else None
    indirect = grammar.ask_indirectly(clause, answer) if clause else None
    about = f"{title}, {topic}" if unclear and topic != title else topic
    asks = [Ask("front", front)] if front else []
    asks += [Ask("topic_in_place", f"{about}: {lower_first(stated)}")]
    asks.insert(1, Ask("lead_in", _led_in(asks[0].question)))
    asks += [Ask("strand", strand)] if strand and strand != front else []
    asks += [Ask("topic_front", f"{topic}: {lower_first(front)}")] if front else []
    asks += [Ask("title_gap", f"{title}. {gap} What is missing?")]
    asks += [] if unclear else [Ask("in_place", stated), Ask("gap", f"Fill in the blank: {gap}")]
    if indirect:
        asks.append(Ask("indirect", f"Do you know {indirect}?"))
    else:
        asks.append(Ask("indirect", f"{about}. Can you say what belongs here: {gap}"))
    return tuple(asks)


def ask_reverse(clause: Clause, topic: str, title: str) -> tuple[Ask, ...]:
    """Return the questions whose answer is a clause's subject."""
    question = grammar.ask_subject(clause)
    return (
        Ask("subject", question),
        Ask("lead_in", _led_in(question)),
        Ask("topic_subject", f"{topic}: {lower_first(question)}"),
        Ask("title_subject", f"In {title}, {lower_first(question)}"),
        Ask("indirect", f"Do you know {lower_first(question)[:-1]}?"),
    )
