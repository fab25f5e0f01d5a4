"""The little grammar: clauses taken apart and questions put together, on sentences a company writes."""

import time

import pytest

from factory.facts import grammar, lexis, spans

CLAUSES = [
    ("The pump runs at 12 bar.", ("", "The pump", "runs", "at 12 bar")),
    ("Petra Lindqvarn approves purchases.", ("", "Petra Lindqvarn", "approves", "purchases")),
    ("The MC-7 was released on 3 May.", ("", "The MC-7", "was", "released on 3 May")),
    ("A survey costs £160.", ("", "A survey", "costs", "£160")),
    ("Claims belong in Ledgerly.", ("", "Claims", "belong", "in Ledgerly")),
    ("The boiler must be inspected.", ("", "The boiler", "must", "be inspected")),
    ("If the PIN is lost, the reset takes 14 seconds.",
     ("If the PIN is lost", "the reset", "takes", "14 seconds")),
    ("When the bell stops you must ring us.", ("When the bell stops", "you", "must", "ring us")),
    ("In the first year you earn 25 days.", ("In the first year", "you", "earn", "25 days")),
    ("Last year we turned over £11 million.", ("Last year", "we", "turned", "over £11 million")),
    ("The clock (made in 1911) has four dials.", None),
    ("It weighs 40 kg.", None),
    ("What does it weigh?", None),
    ("Three wrong tries", None),
    ("When we work on a dial the hands are parked.", None),
    ("In Quarter all parts are included.", None),
    ("Notes: the customer wants engraving.", None),
]  # fmt: skip
QUESTIONS = [
    # sentence, answer, in front, with the preposition left behind, indirect
    ("The pump runs at 12 bar.", "12 bar",
     "At how many bar does the pump run?", "How many bar does the pump run at?", "at how many bar the pump runs"),
    ("Our financial year starts on 1 February.", "1 February",
     "When does our financial year start?", "When does our financial year start?",
     "when our financial year starts"),
    ("The MC-7 was released on 14 November 2025.", "14 November 2025",
     "When was the MC-7 released?", "When was the MC-7 released?", "when the MC-7 was released"),
    ("A survey costs £160.", "£160",
     "How much does a survey cost?", "How much does a survey cost?", "how much a survey costs"),
    ("New starters earn 2.25 days for each month.", "2.25 days",
     "How many days do new starters earn for each month?", "How many days do new starters earn for each month?",
     "how many days new starters earn for each month"),
    ("The workshop opens at 07:30.", "07:30",
     "At what time does the workshop open?", "What time does the workshop open at?",
     "at what time the workshop opens"),
    ("The office is in Leuvendijk.", "Leuvendijk",
     "Where is the office?", "Where is the office?", "where the office is"),
    ("Purchases are approved by Petra Lindqvarn.", "Petra Lindqvarn",
     "By whom are purchases approved?", "Who are purchases approved by?", "by whom purchases are approved"),
    ("Every Osprey runs in the Stump for 21 days.", "21 days",
     "How long does every Osprey run in the Stump?", "How long does every Osprey run in the Stump?",
     "how long every Osprey runs in the Stump"),
    ("If the PIN is lost, the reset takes 14 seconds.", "14 seconds",
     "How many seconds does the reset take if the PIN is lost?",
     "How many seconds does the reset take if the PIN is lost?",
     "how many seconds the reset takes if the PIN is lost"),
    ("We have 86 people.", "86 people",
     "How many people do we have?", "How many people do we have?", "how many people we have"),
    ("Last year we turned over £11.4 million.", "£11.4 million",
     "How much did we turn over last year?", "How much did we turn over last year?",
     "how much we turned over last year"),
    ('Our motto is "Right, and seen to be right", which is hard.', "Right, and seen to be right",
     "What is our motto?", "What is our motto?", "what our motto is"),
    ("Everyone calls it the Stump.", "Stump",
     "What does everyone call it?", "What does everyone call it?", "what everyone calls it"),
    ("The standard laptop is the Marlowe 14.", "Marlowe 14",
     "What is the standard laptop?", "What is the standard laptop?", "what the standard laptop is"),
    ("Staff may work from home up to three days a week.", "three days",
     "How many days may staff work from home a week?", "How many days may staff work from home a week?",
     "how many days staff may work from home a week"),
    ("The discount is 15 % for schools.", "15 %",
     "What percentage is the discount for schools?", "What percentage is the discount for schools?",
     "what percentage the discount is for schools"),
    ("Ada ran the works from 1934 to 1968.", "1934",
     "From what date did Ada run the works to 1968?", "What date did Ada run the works from to 1968?",
     "from what date Ada ran the works to 1968"),
    ("The museum closed in 2019.", "2019",
     "When did the museum close?", "When did the museum close?", "when the museum closed"),
    ("The clock struck 47 times.", "47 times",
     "How many times did the clock strike?", "How many times did the clock strike?",
     "how many times the clock struck"),
    ("Tea is served at 10:40.", "10:40",
     "At what time is tea served?", "What time is tea served at?", "at what time tea is served"),
    ("The alarm code is 4711.", "4711",
     "Which number is the alarm code?", "Which number is the alarm code?", "which number the alarm code is"),
    ("The boiler must be inspected by Corwin Tate.", "Corwin Tate",
     "By whom must the boiler be inspected?", "Who must the boiler be inspected by?",
     "by whom the boiler must be inspected"),
    # where the answer is a part of a phrase, or stands in another clause, nothing is moved
    ("The van carries an MC-7 controller.", "MC-7", None, None, None),
    ("A single day needs two days' notice.", "two", None, None, None),
    ("The heaviest piece is the drive, 64 kg in its crate.", "64 kg", None, None, None),
    ("The hive is behind the Stump and holds 3 frames.", "3 frames", None, None, None),
]  # fmt: skip
IN_PLACE = [
    ("The pump runs at 12 bar.", "12 bar", "The pump runs at how many bar?"),
    ("The office is in Leuvendijk.", "Leuvendijk", "The office is where?"),
    ("Purchases are approved by Petra Lindqvarn.", "Petra Lindqvarn", "Purchases are approved by whom?"),
    ("The van carries an MC-7 controller.", "MC-7", "The van carries which code controller?"),
    ('Our motto is "Never stop".', "Never stop", "Our motto is what?"),
    ("A single day needs two days' notice.", "two", "A single day needs how many days' notice?"),
]
SUBJECTS = [
    ("Petra Lindqvarn approves purchases above £2,500.", "Who approves purchases above £2,500?"),
    ("Tea is served at 10:40 by the yard clock.", "What is served at 10:40 by the yard clock?"),
    ("Rasmus leads the workshop team.", "Who or what leads the workshop team?"),
    (
        "Ada ran it from 1934 to 1968, and the big ledger is still here.",
        "Who or what ran it from 1934 to 1968?",
    ),
    ("If the PIN is lost, the reset takes 14 seconds.", "What takes 14 seconds, if the PIN is lost?"),
]


def _answer(sentence: str, text: str) -> spans.Answer:
    return next(answer for answer in spans.answers(sentence) if answer.text == text)


@pytest.mark.parametrize(("sentence", "parts"), CLAUSES)
def test_a_clause_is_opener_subject_verb_and_rest(sentence: str, parts: tuple[str, ...] | None) -> None:
    clause = grammar.parse(sentence)
    assert (clause and (clause.opener, clause.subject, clause.verb, clause.rest)) == parts
    if clause:
        assert clause.sentence[clause.verb_start : clause.verb_end] == clause.verb


@pytest.mark.parametrize(("sentence", "text", "front", "stranded", "indirect"), QUESTIONS)
def test_questions_read_as_english(
    sentence: str, text: str, front: str | None, stranded: str | None, indirect: str | None
) -> None:
    answer = _answer(sentence, text)
    clause = grammar.parse(grammar.clip(sentence, answer))
    assert clause is not None
    assert grammar.ask_rest(clause, answer, strand=False) == front
    assert grammar.ask_rest(clause, answer, strand=True) == stranded
    assert grammar.ask_indirectly(clause, answer) == indirect


@pytest.mark.parametrize(("sentence", "text", "question"), IN_PLACE)
def test_question_words_stand_where_the_answer_stood(sentence: str, text: str, question: str) -> None:
    assert grammar.in_place(sentence, _answer(sentence, text)) == question


@pytest.mark.parametrize(("sentence", "question"), SUBJECTS)
def test_a_subject_is_asked_for_with_the_rest_of_its_clause_only(sentence: str, question: str) -> None:
    clause = grammar.parse(sentence)
    assert clause is not None
    assert grammar.ask_subject(clause) == question


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("It was sold on 3 May 2024 for £1,290.", [("3 May 2024", "date"), ("£1,290", "money")]),
        ("Open from 09:00 to 17:30 for 5 % less.", [("09:00 to 17:30", "time"), ("5 %", "percent")]),
        ("We met Petra Lindqvarn in Skelbeck.", [("Petra Lindqvarn", "name"), ("Skelbeck", "place")]),
        ("Use part S-1150-A with firmware 7.3.0.", [("S-1150-A", "code"), ("7.3.0", "code")]),
        ("It takes 3-5 working days.", [("3-5 working days", "quantity")]),
        ("Keep it between -20 and +50 °C.", []),
        ("The weight is often written down.", []),
        ("Card 4929 1234 5678 9012 exp 08/27 was used.", []),
        ("The last 9012 exp was old.", [("9012", "number")]),
        ("There are 3 wrong tries.", [("3", "number")]),
        ("He is in Unit 4 today.", [("Unit 4", "place")]),
    ],
)
def test_answers_are_whole_numbers_dates_and_names(sentence: str, found: list[tuple[str, str]]) -> None:
    answers = spans.answers(sentence)
    assert [(answer.text, answer.kind) for answer in answers] == found
    assert all(sentence[answer.start : answer.end] == answer.text for answer in answers)


@pytest.mark.parametrize(
    ("unit", "plural"),
    [("day", "days"), ("people", "people"), ("kg", "kg"), ("box", "boxes"), ("battery", "batteries"),
     ("key", "keys"), ("working days", "working days"), ("°C", "°C"), ("mph", "mph"), ("dials", "dials")],
)  # fmt: skip
def test_units_are_in_the_plural_after_how_many(unit: str, plural: str) -> None:
    assert lexis.plural(unit) == plural


@pytest.mark.parametrize(
    ("verb", "base"),
    [("runs", "run"), ("carries", "carry"), ("stopped", "stop"), ("costs", "cost"), ("taught", "teach"),
     ("measured", "measure"), ("passes", "pass"), ("applied", "apply"), ("installed", "install"),
     ("closed", "close"), ("opened", "open"), ("released", "release"), ("goes", "go"), ("visited", "visit")],
)  # fmt: skip
def test_verbs_are_brought_to_their_base_form(verb: str, base: str) -> None:
    assert lexis.lemma(verb) == base


@pytest.mark.parametrize(
    ("text", "lowered"),
    [("The pump", "the pump"), ("Tea time", "tea time"), ("Petra Lindqvarn", "Petra Lindqvarn"),
     ("MC-7 units", "MC-7 units"), ("Skelbeck works", "Skelbeck works"), ("Our year", "our year"), ("", "")],
)  # fmt: skip
def test_only_common_words_lose_their_capital(text: str, lowered: str) -> None:
    assert lexis.lower_first(text) == lowered


def test_a_trailing_clause_is_clipped_only_after_the_answer_and_if_enough_is_left() -> None:
    sentence = "The reset takes 14 seconds, and then the lamp is green."
    assert grammar.clip(sentence, _answer(sentence, "14 seconds")) == "The reset takes 14 seconds"
    late = "The lamp is green, and the reset takes 14 seconds."
    assert grammar.clip(late, _answer(late, "14 seconds")) == late
    short = "It takes 14 seconds, because it does."
    assert grammar.clip(short, _answer(short, "14 seconds")) == short


@pytest.mark.parametrize(
    "bait", ["a." * 300, "A1-" * 200, "1 " * 300, '"' * 600, "Aa " * 200, "1,1" * 200, "@a" * 300]
)
def test_the_longest_sentence_allowed_takes_no_time_whatever_it_holds(bait: str) -> None:
    started = time.process_time()
    for sentence in (bait, f"The pump is {bait}", f"When {bait}, we must go."):
        clause = grammar.parse(sentence)
        for answer in spans.answers(sentence):
            grammar.in_place(sentence, answer)
            if clause:
                grammar.ask_rest(clause, answer, strand=True)
    assert time.process_time() - started < 5
