"""Retrieval finds the chunk that answers, by body, title or heading, and nothing where no word is shared."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.chat.context import chunk_text
from factory.errors import UsageError
from factory.rows import write_rows
from factory.tasks.retrieval import Index, Retriever, fuse, read_chunks
from tests.made import make_chunks

CHUNKS = [
    *make_chunks(
        "# Pressure", "The pump runs at 12 bar.", "# Colour", "The lamp is green.", title="Pump manual"
    ),
    *make_chunks("# Gates", "The code of the north gate is 4711.", path="gates.md", title="Site book"),
    *make_chunks("# Holidays", "You have 27 days a year.", path="leave.md", title="Leave policy"),
]


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    return Retriever(CHUNKS)


def found(retriever: Retriever, question: str, count: int = 2) -> list[str]:
    return [hit.chunk.text for hit in retriever.find(question, count)]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the code of the north gate?", "4711"),
        ("At how many bar does the pump run?", "12 bar"),
        ("Which lamp colour?", "green"),
        ("What does the leave policy give me?", "27 days"),
        ("holidays", "27 days"),
        ("Which pumps are running, and at what bars?", "12 bar"),
    ],
)
def test_the_best_chunk_comes_first(retriever: Retriever, question: str, expected: str) -> None:
    assert expected in found(retriever, question)[0]
    scores = [hit.score for hit in retriever.find(question, 4)]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0


def test_what_else_stands_in_a_chunk_says_nothing_against_it() -> None:
    other = [f"Matter {number} of the yard is settled elsewhere by its keeper." for number in range(24)]
    long = " ".join([*other[:12], "The dock lamp has a green colour.", *other[12:]])
    gates = [f"The colour of gate {number} is grey." for number in range(4)]
    texts = [long, "The dock lamp is a lamp on the dock.", *gates]
    chunks = [chunk for n, text in enumerate(texts) for chunk in make_chunks(text, path=f"{n}.md")]
    whole = Index([chunk_text(chunk) for chunk in chunks]).find("Which colour has the dock lamp?", 1)
    assert chunks[whole[0][0]].text == texts[1], "by whole chunks the other is first"
    assert "green" in found(Retriever(chunks), "Which colour has the dock lamp?", 1)[0]


def test_a_row_of_a_table_is_found_as_its_words_stand_in_it() -> None:
    rows = [("Model", "Price"), *((f"TD-{number}", f"£{number}00") for number in range(20, 60))]
    chunks = make_chunks(tuple(rows), title="Prices") + make_chunks("Prices of a TD are yearly.", path="b.md")
    assert "TD-41" in Retriever(chunks).find("What does TD-41 cost?", 1)[0].chunk.text


@given(st.lists(st.text("ab .", min_size=1, max_size=60), min_size=1, max_size=6), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_each_chunk_is_found_once_and_as_many_as_share_a_word(texts: list[str], count: int) -> None:
    bodies = [f"apple {text}" for text in texts]
    chunks = [chunk for n, body in enumerate(bodies) for chunk in make_chunks(body, path=f"{n}.md")]
    hits = Retriever(chunks).find("apple", count)
    assert len({hit.chunk.document for hit in hits}) == len(hits) == min(count, len(chunks))


def test_as_many_as_asked_for_and_no_more_than_share_a_word(retriever: Retriever) -> None:
    assert len(found(retriever, "pump gate lamp", 1)) == 1
    assert len(found(retriever, "pump gate lamp", 50)) == 3


@pytest.mark.parametrize("question", ["", "?", "the of and", "zzz qqq", "漢字", "x" * 50_000, "\x00"])
def test_a_question_without_known_words_finds_nothing_and_is_asked_as_it_is(
    retriever: Retriever, question: str
) -> None:
    assert found(retriever, question) == []
    assert retriever.prompt(question, 2) == question


def test_a_prompt_holds_passages_above_the_question(retriever: Retriever) -> None:
    prompt = retriever.prompt("What is the code of the north gate?", 1)
    assert prompt.endswith("Question: What is the code of the north gate?\nAnswer:")
    assert prompt.index("4711") < prompt.index("Question:")
    assert "12 bar" not in prompt
    assert retriever.prompt("What is the gate {passages}?", 1).count("{passages}") == 1


def test_one_chunk_is_enough() -> None:
    assert Retriever(CHUNKS[:1]).prompt("pump", 5).startswith(chunk_text(CHUNKS[0]))


def embed(texts):
    """Vectors that hold whether a text is about light, about money or about neither."""
    about = [("lamp" in text or "bright" in text, "days" in text or "wage" in text) for text in texts]
    return [(float(light), float(money), 0.1) for light, money in about]


def test_an_encoder_finds_what_shares_no_word_and_both_together_rank_first() -> None:
    both = Retriever(CHUNKS, embed)
    assert found(both, "How bright?", 1) == ["The lamp is green."]
    assert found(both, "How bright is the pump lamp?", 1) == ["The lamp is green."]
    assert len(both.find("How bright?", 9)) == len(CHUNKS)


@pytest.mark.parametrize("encoder", [None, embed])
def test_a_document_that_a_newer_version_replaces_is_not_found(encoder) -> None:
    old = make_chunks("Version 1. The passphrase has 8 words.", path="v1.txt", title="Passphrases IT-02")
    new = make_chunks(
        "Version 2, replaces version 1. It has 12 words.", path="v2.txt", title="Passphrases IT-02"
    )
    hits = Retriever([*old, *new, *CHUNKS], encoder).find(
        "How many words has the passphrase of version 1?", 9
    )
    assert "v2.txt" in {hit.chunk.document for hit in hits}
    assert "v1.txt" not in {hit.chunk.document for hit in hits}
    assert "v1.txt" in {hit.chunk.document for hit in Retriever(old).find("passphrase", 1)}


def test_ranks_are_fused_by_their_reciprocals() -> None:
    assert fuse([7, 3], [3, 5]) == [(3, 1 / 62 + 1 / 61), (7, 1 / 61), (5, 1 / 62)]
    assert fuse([], [2]) == [(2, 1 / 61)]


def test_the_chunks_of_a_run_are_found_from_its_folder_its_chunks_and_its_bundle(tmp_path: Path) -> None:
    for name in ("chunks", "bundle"):
        (tmp_path / "run" / name).mkdir(parents=True)
    write_rows(tmp_path / "run" / "chunks" / "chunks.jsonl", CHUNKS)
    for place in ("run", "run/chunks", "run/bundle"):
        assert read_chunks(tmp_path / place) == CHUNKS
    with pytest.raises(UsageError, match=r"holds no chunks\.jsonl"):
        read_chunks(tmp_path)
    write_rows(tmp_path / "run" / "chunks" / "chunks.jsonl", [])
    with pytest.raises(UsageError, match=r"holds no chunks\.jsonl"):
        read_chunks(tmp_path / "run")
