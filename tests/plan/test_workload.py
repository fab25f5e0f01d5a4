"""How much there is to do, from the dataset or guessed from the sources."""

import pytest

from factory.plan import workload
from factory.rows import write_rows


def test_an_epoch_has_one_row_a_fact_or_passage(tmp_path, base, example):
    rows = [example(1, "a"), example(2, "a"), example(3, "b"), example(4, None), example(5, None)]
    write_rows(tmp_path / "train.jsonl", rows)
    found = workload.read_dataset(tmp_path / "train.jsonl", base, 256)
    tokens = 4 + 2 + 2 * workload.TURN_TOKENS
    assert found == workload.Rows(an_epoch=4, total=5 * tokens, mean=tokens, longest=tokens)


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
    found = workload.find_workload(make_run("train.epochs=5", "train.max_tokens=99"))
    assert found.rows.an_epoch == 8000 // workload.BYTES_A_FACT
    assert found.rows.total == found.rows.an_epoch * 5 * workload.GUESSED_TOKENS
    assert (found.files, found.rows.longest) == (1, 99)
