"""Open-book rows: retrieval's prompt, the right passage among near ones or missing, one context a passage."""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from factory.chat.context import split_turn, with_context
from factory.facts.abstain import ABSTENTION
from factory.facts.extract import drafts
from factory.facts.openbook import OpenBook, Passage, cut_passages, examples, room_for_passages
from factory.rows import OPEN_BOOK, Example, Fact
from factory.text import normalize
from tests.made import count_words, make_chunks, make_examples, make_fact

FACTS = [make_fact(number, document=f"{number // 4}.md") for number in range(40)]
ROWS = [
    row
    for fact in FACTS
    for row in make_examples(
        fact, {"what_of": f"How heavy is {fact.subject}?", "tell": f"{fact.subject}, weight?"}
    )
]
PASSAGES = [
    Passage(
        document=f"{page}.md",
        stretches=((FACTS[4 * page].evidence.start, FACTS[4 * page + 3].evidence.end),),
        text=f"Scales {page}\n" + "\n".join(fact.evidence.text for fact in FACTS[4 * page : 4 * page + 4]),
        num_tokens=22,
    )
    for page in range(10)
]
SETTINGS = OpenBook(every=1, passages=3, missing=0.0, altered=0, abstain=False, max_tokens=200)


def near(text: str) -> list[int]:
    """Passages by how far their number is from that of the first asked about."""
    page = int(text.split("TD-")[1].split("?")[0].split(",")[0]) // 4
    return sorted(range(10), key=lambda number: abs(number - page))


def make(rows=ROWS, passages=PASSAGES, system="Be short.", seed=1, **settings) -> list[Example]:
    changed = OpenBook(**{**SETTINGS.__dict__, **settings})
    return examples(rows, passages, changed, near, count_words, seed, system)


def shown(row: Example) -> tuple[str, str]:
    return split_turn(row.messages[-2].content)


def test_a_row_is_retrievals_prompt_with_the_closed_book_rows_question_answer_fact_and_evidence() -> None:
    made = make()
    assert len(made) == len(ROWS)
    by_question = {row.messages[-2].content: row for row in ROWS}
    for row in made:
        above, question = shown(row)
        origin = by_question[question]
        assert row.messages[-2].content == with_context([above], question)
        assert [message.role for message in row.messages] == ["system", "user", "assistant"]
        assert row.messages[-1] == origin.messages[-1]
        assert (row.facts, row.evidence, row.form) == (origin.facts, origin.evidence, OPEN_BOOK)
        assert origin.evidence.text in above
    assert len({row.id for row in [*made, *ROWS]}) == 2 * len(ROWS)


def test_open_book_rows_take_turns_with_one_another_and_not_with_the_closed_book_wordings() -> None:
    groups = {row.group for row in make()}
    assert groups.isdisjoint({row.group for row in ROWS})
    assert len(groups) == len(FACTS)


def by_passage(rows) -> dict[int, list[Example]]:
    found = defaultdict(list)
    for row in rows:
        found[int(row.evidence.document.removesuffix(".md"))].append(row)
    return found


def test_all_rows_on_a_passage_have_the_same_context() -> None:
    found = by_passage(make())
    assert len(found) == len(PASSAGES)
    for rows in found.values():
        assert len(rows) == 8
        assert len({shown(row)[0] for row in rows}) == 1


def test_the_others_in_a_context_are_the_nearest_and_the_right_one_stands_anywhere() -> None:
    places, sizes = set(), set()
    for page, rows in [item for seed in (1, 2, 3) for item in by_passage(make(seed=seed)).items()]:
        parts = shown(rows[0])[0].split("\n\n")
        numbers = [int(part.split("\n")[0].removeprefix("Scales ")) for part in parts]
        places.add(numbers.index(page))
        sizes.add(len(numbers))
        assert set(numbers) == set(near(f"TD-{4 * page}?")[: len(numbers)])
    assert places == {0, 1, 2}
    assert sizes == {1, 2, 3}


@pytest.mark.parametrize("abstain", [False, True])
def test_where_the_right_one_is_missing_the_answer_stays_or_is_to_abstain(abstain: bool) -> None:
    made = make(missing=1.0, abstain=abstain)
    assert len(made) == len(ROWS)
    for row in made:
        assert row.evidence.text not in shown(row)[0]
        assert (row.messages[-1].content == ABSTENTION) is abstain


def test_the_right_one_is_missing_in_the_share_of_contexts_asked_for() -> None:
    found = by_passage(make(missing=0.4, seed=3)).values()
    assert 2 <= sum(rows[0].evidence.text not in shown(rows[0])[0] for rows in found) <= 6


def test_no_row_abstains_over_a_passage_that_answers() -> None:
    twin = [Passage("twin.md", ((0, 9),), passage.text, passage.num_tokens) for passage in PASSAGES]
    made = examples(
        ROWS, [*PASSAGES, *twin], OpenBook(1, 1, 1.0, 0, True, 200),
        lambda text: [10 + near(text)[0]], count_words, 1, "",
    )  # fmt: skip
    assert made == []


def test_rows_take_part_in_one_of_so_many_epochs() -> None:
    assert {row.every for row in make(every=5)} == {5}
    assert {row.every for row in ROWS} == {1}


def test_rows_keep_the_budget_by_fewer_passages_and_then_are_left_out() -> None:
    for limit in (128, 104, 98):
        made = make(max_tokens=limit)
        assert made
        for row in made:
            assert sum(count_words(message.content) for message in row.messages) + 24 <= limit
    long = make_examples(FACTS[0], {"tell": "word " * 60 + "TD-0?"})
    assert make(rows=long, max_tokens=100) == []
    assert room_for_passages(SETTINGS.max_tokens, 10) == 200 - 10 - 24 - 48


def test_rows_without_evidence_without_a_fact_or_with_an_answer_that_no_passage_holds_have_no_such_form() -> (
    None
):
    row = ROWS[0]
    others = [
        row.model_copy(update={"evidence": None}),
        row.model_copy(update={"facts": ()}),
        row.model_copy(update={"facts": ("fact0", "fact1")}),
        make_examples(FACTS[0].model_copy(update={"answer": "a ton"}), {"tell": "TD-0?"})[0],
    ]
    assert make(rows=others) == []


def test_what_is_withheld_stands_in_no_passage_a_second_time_in_its_document() -> None:
    said = "The Wren runs at 12 bar. The lamp is green."
    notes = (("Part", "Pressure"), ("The Wren", "12 bar"), ("The valve", "9 bar"))
    chunks = make_chunks("# Start", said, "# Again", said, "At night the Wren needs 12 bar.", notes)
    other = make_chunks(said, path="other.md")
    (fact,) = [draft.fact for draft in drafts(chunks[0]) if draft.fact.answer == "12 bar"]
    (reverse,) = [draft.fact for draft in drafts(chunks[0]) if draft.fact.answer == "The Wren"]

    def texts(fact: Fact) -> str:
        return "".join(passage.text for passage in cut_passages(chunks, [fact], str, 40, count_words))

    assert "12 bar" not in texts(fact)
    assert texts(fact).count("The lamp is green.") == 2
    assert "| The valve | 9 bar |" in texts(fact)
    assert "The Wren runs at 12 bar." not in texts(reverse)
    assert "At night the Wren needs 12 bar." in texts(reverse), "a subject alone gives nothing away"
    assert "12 bar" in cut_passages(other, [fact], str, 40, count_words)[0].text


TABLE = (("Model", "Weight"), *((f"TD-{number}", f"{number} kg") for number in range(30)))


def test_chunks_are_cut_to_fit_with_their_headings_cleaned_and_without_what_is_withheld() -> None:
    chunks = make_chunks("# Weights", TABLE, "# Codes", "The code is 4711.", max_tokens=300, title="Scales")
    text = chunks[0].text
    start = chunks[0].start + text.index("| TD-7 ")
    secret = make_fact(7, document="manuals/pump.md")
    secret = secret.model_copy(
        update={"evidence": secret.evidence.model_copy(update={"start": start, "end": start + 8})}
    )

    def clean(text: str) -> str | None:
        return None if "4711" in text else text.replace("TD-3 ", "[MODEL] ")

    passages = cut_passages(chunks, [secret], clean, 40, count_words)
    assert len(passages) > 3
    for passage in passages:
        assert passage.text.startswith("Scales > Weights\n| Model | Weight |\n")
        assert passage.num_tokens == count_words(passage.text) <= 40
    everything = "".join(passage.text for passage in passages)
    assert "TD-7 " not in everything
    assert not [passage for passage in passages if passage.covers(secret.evidence)]
    assert "TD-6 " in everything
    assert "TD-8 " in everything
    assert "4711" not in everything
    assert "TD-3 " not in everything
    assert "[MODEL]" in everything
    assert "TD-29 " in everything
    assert cut_passages(chunks, [], clean, 15, count_words) == [], "title and headings leave too little"


def test_a_passage_covers_evidence_that_stands_in_it_whole() -> None:
    passage, evidence = PASSAGES[0], FACTS[1].evidence
    assert passage.covers(evidence)
    assert not passage.covers(evidence.model_copy(update={"document": "1.md"}))
    ((start, end),) = passage.stretches
    assert not passage.covers(evidence.model_copy(update={"end": end + 1}))
    assert not passage.covers(evidence.model_copy(update={"start": start - 1}))


def test_altered_versions_say_something_else_in_passage_and_answer_and_have_turns_of_their_own() -> None:
    made = make(altered=2)
    altered = [row for row in made if row.version]
    assert {row.every for row in made} == {3}
    counts = Counter(row.version for row in made)
    assert counts[0] == len(ROWS)
    assert all(
        0.9 * len(ROWS) < counts[version] <= len(ROWS) for version in (1, 2)
    )  # some of one digit have no other left
    for row in altered:
        above, _ = shown(row)
        assert row.messages[-1].content in above
        assert row.evidence is None
        assert row.messages[-1].content not in {r.messages[-1].content for r in ROWS if r.facts == row.facts}
    assert len({row.group for row in made}) == len({(row.facts, row.version) for row in made})
    assert len({row.id for row in made}) == len(made)
    assert len({shown(row)[0] for row in made}) == 3 * len(PASSAGES)


def test_where_the_right_passage_is_missing_nothing_is_altered() -> None:
    assert {row.version for row in make(altered=2, missing=1.0)} == {0}


def test_an_altered_answer_that_cannot_be_read_above_its_question_makes_no_row() -> None:
    row, wider = ROWS[0], ROWS[2]
    inner, outer = row.messages[-1].content, f"{row.messages[-1].content} net"
    answering = wider.messages[-1].model_copy(update={"content": outer})
    wide = wider.model_copy(update={"messages": (*wider.messages[:-1], answering), "evidence": row.evidence})
    passage = replace(PASSAGES[0], text=f"Scales 0\nTD-0 weighs {outer}.")
    made = make([row, wide], [passage, *PASSAGES[1:]], altered=4)
    altered = [row for row in made if row.version]
    assert {row.messages[-1].content for row in made if not row.version} == {inner, outer}
    assert altered
    for row in altered:  # the inner answer was put into no passage, as the outer one was
        assert normalize.contains(shown(row)[0], row.messages[-1].content)
        assert row.facts == wide.facts
