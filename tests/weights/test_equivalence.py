"""What is measured of a model's forms, on which rows, from where on, and the means of it worked out by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest

from factory.errors import EvaluateError
from factory.weights import equivalence
from factory.weights.conversations import Conversation, load_tokenizer
from factory.weights.equivalence import ScoredRow, Sizes, gather
from tests.tiny import TINY_ROWS, make_tiny_adapter, make_tiny_dataset

ALL = Sizes(prompts=4, compared_tokens=10**6, scored_tokens=10**6, text_lines=10**6, answer_tokens=8)
FEW = Sizes(prompts=2, compared_tokens=1, scored_tokens=2, text_lines=3, answer_tokens=400)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_tiny_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def probe(tiny_base, dataset):
    return gather(tiny_base, dataset, "", ALL)


def logs(*rows):
    return np.log(np.array(rows, dtype=np.float32))


def test_prompts_end_where_the_assistant_begins(probe):
    prompts = [probe.tokenizer.decode(prompt) for prompt in probe.prompts]
    assert prompts == [
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n" for question, _ in TINY_ROWS
    ]


def test_gold_rows_count_on_the_answer_and_its_end_alone(probe):
    counted = [probe.tokenizer.decode(row.token_ids[row.start + 1 :]) for row in probe.gold]
    assert counted == [f"{answer}<|im_end|>" for _, answer in TINY_ROWS]


def test_compared_rows_count_from_the_last_token_that_all_share(probe):
    (start,) = {row.start for row in probe.compared}
    assert len(probe.compared) == 8, "held-out rows, and as many trained ones"
    assert len({row.token_ids[: start + 1] for row in probe.compared}) == 1
    assert len({row.token_ids[start + 1] for row in probe.compared}) > 1
    assert probe.tokenizer.decode(probe.compared[0].token_ids[: start + 1]).startswith("<|im_start|>user\n")


@pytest.mark.parametrize("shared", [3, 1023, 1024, 1025, 3000])
def test_rows_count_their_own_tokens_however_many_all_share(shared):
    tokens = [(*range(shared), 5000 + number, *range(6000, 6010)) for number in range(2)]
    rows = equivalence._differing([Conversation((), ids, ()) for ids in tokens])
    for number, row in enumerate(rows):
        assert row.token_ids[row.start : row.start + 2] == (shared - 1, 5000 + number)
        assert len(row.token_ids) <= equivalence.MAX_ROW_TOKENS


def test_little_is_measured_where_little_is_asked_for_but_never_nothing(tiny_base, dataset, probe):
    small = gather(tiny_base, dataset, "", FEW)
    assert small.prompts == (probe.prompts[0], probe.prompts[2]), "spread over the rows"
    assert (len(small.compared), len(small.gold), len(probe.texts) - len(small.texts)) == (1, 1, 13)
    tokens = load_tokenizer(tiny_base)("The code is 4711.<|im_end|>\n", add_special_tokens=False)["input_ids"]
    assert (probe.answer_tokens, small.answer_tokens) == (2 * len(tokens), 400)


def test_a_dataset_without_a_conversation_is_an_error_that_names_it(tiny_base, tmp_path):
    with pytest.raises(EvaluateError, match=r"holds no conversation .*: run curate again") as refused:
        gather(tiny_base, tmp_path, "", ALL)
    assert repr(str(tmp_path)) in str(refused.value)


def test_means_are_over_positions_and_not_over_rows():
    half, quarter = [0.5, 0.5, 1e-9, 1e-9, 1e-9], [0.25, 0.75, 1e-9, 1e-9, 1e-9]
    expected, found = [logs(half), logs(half, half, half)], [logs(quarter), logs(half, half, half)]
    # KL = ½ ln(½ / ¼) + ½ ln(½ / ¾) = ½ ln(4/3), at one position of four; the largest difference is ln 2.
    assert equivalence.divergence(expected, found) == pytest.approx(math.log(4 / 3) / 8, abs=1e-6)
    assert equivalence.mean_difference(expected, found) == pytest.approx(math.log(2) / 4, abs=1e-6)
    tops = [logs(quarter), logs(half, quarter, quarter[::-1])]
    assert equivalence.same_top(tops, [logs(quarter), logs(half, quarter, quarter)]) == 0.75
    with pytest.raises(ValueError, match="shorter"):
        equivalence.divergence(expected, found[:1])


def test_an_adapter_of_zeros_moves_nothing_and_its_model_is_the_base(
    tiny_base, tiny_adapter, probe, tmp_path
):
    nothing = make_tiny_adapter(tiny_base, tmp_path, strength=0)
    reference = equivalence.measure_adapter(tiny_base, nothing, probe)
    plain = equivalence.measure_merged(tiny_base, probe)
    assert reference.effect == 0
    assert equivalence.mean_difference(reference.logprobs, plain) == pytest.approx(0, abs=1e-5)
    moved = equivalence.measure_adapter(tiny_base, tiny_adapter, probe)
    assert moved.effect > 0.01
    assert equivalence.mean_difference(moved.logprobs, plain) > 0.01
    assert [len(row) for row in plain] == [len(row.token_ids) - row.start for row in probe.compared]


def test_a_longer_budget_adds_rows_behind_the_same_ones(tiny_base, dataset):
    sizes = [Sizes(2, tokens, 2, 0, 8) for tokens in (1, 30, 60, 120)]
    rows: list[tuple[ScoredRow, ...]] = [gather(tiny_base, dataset, "", size).compared for size in sizes]
    assert all(more[: len(less)] == less for less, more in pairwise(rows))
    assert len(rows[0]) == 1 < len(rows[-1])
