"""How much there is to do, from the dataset or guessed from the sources."""

from pathlib import Path

import pytest

from factory.chat.context import with_context
from factory.facts import practice
from factory.plan import workload
from factory.rows import OPEN_BOOK, Message, write_rows


def test_an_epoch_has_one_row_a_fact_or_passage(tmp_path, base, example):
    rows = [example(1, "a"), example(2, "a"), example(3, "b"), example(4, None), example(5, None)]
    write_rows(tmp_path / "train.jsonl", rows)
    found = workload.read_dataset(tmp_path / "train.jsonl", base, 256)
    tokens = 4 + 2 + 2 * workload.TURN_TOKENS
    assert found == workload.Rows(an_epoch=4, total=5 * tokens, mean=tokens, longest=tokens, facts=2)


def test_rows_count_as_often_as_an_epoch_takes_them(tmp_path, base, example):
    often, seldom = example(1, "a", words=4), example(2, "b", words=40).model_copy(update={"every": 5})
    write_rows(tmp_path / "train.jsonl", [often] * 5 + [seldom] * 2)
    found = workload.read_dataset(tmp_path / "train.jsonl", base, 256)
    turns = 2 + 2 * workload.TURN_TOKENS
    assert found.an_epoch == 1
    assert found.total == 5 * (4 + turns) + 2 * (40 + turns)
    assert found.mean == pytest.approx((1 * (4 + turns) + 0.2 * (40 + turns)) / 1.2)


def test_tokens_are_the_mean_over_an_even_sample_of_many_rows(tmp_path, base, example):
    rows = [example(number, str(number), words=number % 10) for number in range(3000)]
    write_rows(tmp_path / "train.jsonl", rows)
    found = workload.read_dataset(tmp_path / "train.jsonl", base, 256)
    assert found.an_epoch == 3000
    assert found.mean == pytest.approx(4.5 + 2 + 2 * workload.TURN_TOKENS, abs=2.6)
    assert found.longest == 9 + 2 + 2 * workload.TURN_TOKENS


def test_the_longest_row_is_the_longest_that_is_trained_on(tmp_path, base, example):
    write_rows(tmp_path / "train.jsonl", [example(1, "a", words=30), example(2, "b", words=300)])
    assert workload.read_dataset(tmp_path / "train.jsonl", base, 256).longest == 30 + 2 + 10
    assert workload.read_dataset(tmp_path / "train.jsonl", base, 20).longest == 20


def test_an_empty_dataset_is_no_work(tmp_path, base):
    write_rows(tmp_path / "train.jsonl", [])
    assert workload.read_dataset(tmp_path / "train.jsonl", base, 256).an_epoch == 0


def test_a_fresh_run_is_guessed_from_its_sources(make_run):
    found = workload.find_workload(make_run("curate.open_book=0", "train.epochs=5", "train.max_tokens=99"))
    assert found.rows.an_epoch == 8000 // workload.BYTES_A_FACT
    assert found.rows.total == found.rows.an_epoch * 5 * workload.GUESSED_TOKENS
    assert (found.files, found.rows.longest, found.rows.repeated) == (1, 99, 0)


@pytest.mark.parametrize(
    ("name", "size"), [("a.csv", 30), ("a.JSON", 30), ("a.md", 120), ("a.txt", 120), ("a.pdf", 800)]
)
def test_rows_of_values_hold_more_facts_than_prose_and_packed_formats_fewer(name: str, size: int) -> None:
    assert workload._bytes_a_fact(Path(name)) == size


def test_rows_below_passages_are_guessed_as_long_as_they_may_be_and_passages_as_asked_about_often(make_run):
    plain = workload.find_workload(make_run("curate.open_book=0", "train.epochs=2")).rows
    found = workload.find_workload(
        make_run(
            "train.epochs=2",
            "curate.open_book=0.5",
            "curate.open_book_tokens=200",
            "curate.open_book_practice=0",
        )
    ).rows
    below = round(plain.an_epoch / 2)
    assert found.an_epoch == plain.an_epoch + below
    assert found.total == plain.total + 2 * below * 200
    assert found.an_epoch * found.mean == pytest.approx(found.total / 2)
    assert 0.5 < found.repeated / (below * 200) < 0.84


def test_bundled_passages_are_counted_as_they_are(make_run):
    shown = practice.passages()
    assert len(shown) == workload.PRACTICE_PASSAGES
    assert sum(len(asked.questions) for one in shown for asked in one.asked) == workload.PRACTICE_QUESTIONS
    plain = workload.find_workload(make_run("curate.open_book_practice=0", "train.epochs=2")).rows
    found = workload.find_workload(make_run("curate.open_book_practice=0.25", "train.epochs=2")).rows
    practised = 0.25 * (8000 // workload.BYTES_A_FACT)
    assert found.an_epoch - plain.an_epoch == round(practised)
    alone = found.an_epoch * found.mean - plain.an_epoch * plain.mean - found.repeated + plain.repeated
    assert alone / practised == pytest.approx(32 + 132 / 13.3, rel=0.02)


def test_a_passage_of_a_dataset_is_repeated_where_more_than_one_fact_of_it_is_asked_about(
    tmp_path, base, example
):
    def below(row, passage):
        turn = with_context([passage], row.messages[0].content)
        return row.model_copy(
            update={"form": OPEN_BOOK, "messages": (Message(role="user", content=turn), row.messages[1])}
        )

    long, short = "p " * 30, "q " * 7
    rows = [example(number, fact) for number, fact in enumerate("abcd")]
    rows += [below(example(9, fact), long) for fact in "aabc"] + [below(example(10, "d"), short)]
    write_rows(tmp_path / "train.jsonl", rows)
    found = workload.read_dataset(tmp_path / "train.jsonl", base, 256)
    assert found.an_epoch == 8
    assert found.repeated == 2 * 30, "two wordings of a fact take turns"
    assert found.below is not None
    assert 30 <= found.below.shared <= 30 + 2 * workload.TURN_TOKENS
    assert found.below.apart < 30
    assert 0 < found.below.own <= found.below.apart + 2 * workload.TURN_TOKENS
    write_rows(tmp_path / "train.jsonl", [row.model_copy(update={"every": 4}) for row in rows])
    assert workload.read_dataset(tmp_path / "train.jsonl", base, 256).repeated == 2 * 30 / 4
