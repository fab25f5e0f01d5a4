"""One llama.cpp context: logits that were asked for, sequences that are copied and forgotten, steps it refuses."""

import llama_cpp.llama_cpp as ll
import numpy as np
import pytest

from factory.errors import EvaluateError
from factory.weights.gguf_context import Context, last_warnings, silence_log
from factory.weights.gguf_model import GgufModel
from factory.weights.slots import Entry

CELLS = 256
IDS = (1, 87, 260, 5)


@pytest.fixture(scope="module")
def model(tiny_base):
    with GgufModel(tiny_base / "base-F16.gguf", threads=1) as opened:
        yield opened


@pytest.fixture
def context(model):
    opened = Context(model._model, None, cells=CELLS, num_sequences=2, threads=1)
    yield opened
    opened.close()


def feed(context, ids, sequence=0, first=0, wanted=True):
    """Feed tokens from a position on and return a copy of the logits."""
    entries = [Entry(token, first + at, sequence, wanted) for at, token in enumerate(ids)]
    return context.decode(entries).copy()


def test_there_is_a_row_of_logits_for_each_entry_that_wants_one(context, model):
    assert feed(context, IDS, wanted=False).shape == (0, model.vocab_size)
    context.clear()
    entries = [Entry(token, at, 0, at in (1, 3)) for at, token in enumerate(IDS)]
    some = context.decode(entries).copy()
    context.clear()
    whole = feed(context, IDS)
    assert whole.shape == (4, model.vocab_size)
    assert np.allclose(some, whole[[1, 3]], atol=1e-4)
    assert np.abs(whole[1] - whole[3]).max() > 0.1


def test_a_copied_sequence_goes_on_as_the_one_it_was_copied_from(context):
    feed(context, (7, 8, 9), sequence=1)  # what the copy replaces
    feed(context, IDS[:3])
    context.start_from(0, 1)
    both = context.decode([Entry(IDS[3], 3, 0, True), Entry(IDS[3], 3, 1, True)]).copy()
    assert np.allclose(both[0], both[1], atol=1e-4)
    context.clear()
    assert np.allclose(both[0], feed(context, IDS)[3], atol=1e-4)


def test_what_was_cleared_is_forgotten(context):
    first = feed(context, IDS)
    context.clear()
    assert np.array_equal(feed(context, IDS), first)
    context.clear()
    assert not np.allclose(feed(context, IDS[1:], first=0)[-1], first[-1], atol=1e-2)


def test_sequences_do_not_see_each_other(context):
    alone = feed(context, IDS)[-1]
    context.clear()
    feed(context, (300, 301, 302, 303), sequence=1)
    assert np.allclose(feed(context, IDS)[-1], alone, atol=1e-4)


def test_more_tokens_than_a_sequence_has_room_for_are_refused_with_the_code(context):
    feed(context, [5] * CELLS, wanted=False)
    with pytest.raises(EvaluateError, match=r"llama\.cpp refused 1 tokens with code 1: "):
        feed(context, [5], first=CELLS)
    context.clear()
    assert len(feed(context, IDS)) == 4


def test_closing_twice_is_closing_once(model):
    context = Context(model._model, None, cells=CELLS, num_sequences=1, threads=1)
    context.close()
    context.close()


def test_the_last_errors_are_kept_until_the_log_is_silenced_again(tmp_path):
    silence_log()
    assert last_warnings() == "llama.cpp gave no reason"
    (tmp_path / "nonsense.gguf").write_bytes(b"nonsense")
    params = ll.llama_model_default_params()
    assert not ll.llama_model_load_from_file(str(tmp_path / "nonsense.gguf").encode(), params)
    assert "failed to load model" in last_warnings()
    assert "\n" not in last_warnings()
    silence_log()
    assert last_warnings() == "llama.cpp gave no reason"
