import numpy as np
import pytest

from factory.chat.template import conversation, encode_prompt
from factory.errors import BaseModelError, EvaluateError
from factory.weights import gguf_files, merged
from factory.weights.conversations import load_tokenizer
from factory.weights.delta import read_adapter
from factory.weights.gguf_model import GgufModel
from factory.weights.parity import torch_logprobs
from tests.tiny import CHATML, rewrite_gguf

QUESTIONS = [
    f"What is the {thing} of gate {number}?" for thing in ("code", "colour", "key") for number in range(9)
]


@pytest.fixture(scope="module")
def model(tiny_base):
    with GgufModel(tiny_base / "base-F16.gguf", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def prompts(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    return [
        encode_prompt(tokenizer, conversation(question, system="Be brief." if i % 2 else ""))
        for i, question in enumerate(QUESTIONS)
    ]


def test_log_probabilities_equal_those_of_torch(model, tiny_base, prompts):
    ids = prompts[1]
    expected = torch_logprobs(merged.load_model(tiny_base), ids, 0)
    found = model.logprobs(ids)

    assert found.shape == (len(ids), model.vocab_size)
    assert np.abs(expected - found).max() < 0.05
    assert np.allclose(np.exp(found).sum(-1), 1, atol=1e-4)


def test_rows_before_the_start_are_left_out(model, prompts):
    assert np.array_equal(model.logprobs(prompts[0], start=7), model.logprobs(prompts[0])[7:])


def test_sequences_longer_than_a_step_are_scored_in_several(tiny_base, prompts, model):
    long = (prompts[0] * 40)[:700]
    found = model.logprobs(long)

    assert np.abs(found[: len(prompts[0])] - model.logprobs(prompts[0])).max() < 0.05
    assert len(model.generate_batch([long, long[1:]], 3)) == 2
    assert model.generate_greedy(long, 3) == model.generate_batch([long], 3)[0]


@pytest.mark.parametrize("parallel", [1, 3, 8, 40])
def test_a_batch_says_what_each_prompt_says_alone(model, prompts, parallel):
    alone = [model.generate_greedy(prompt, 12) for prompt in prompts]
    together = model.generate_batch(prompts, 12, parallel=parallel)

    same = sum(a == b for a, b in zip(alone, together, strict=True))
    assert same == len(prompts)


def test_a_completion_says_how_sure_it_is(model, prompts):
    for prompt, (answer, sureness) in zip(prompts[:6], model.complete_batch(prompts[:6], 12), strict=True):
        assert answer == model.generate_greedy(prompt, 12)
        whole = [*prompt, *answer]
        rows = model.logprobs(whole, start=len(prompt) - 1)
        spoken = rows.max(axis=-1)[: min(len(answer) + 1, 12)]  # greedy: the likeliest, its end among them
        assert sureness == pytest.approx(spoken.mean(), abs=0.02)
    assert model.complete_batch([], 5) == []


def test_stop_ids_end_an_answer_and_stay_out_of_it(model, prompts):
    free = model.generate_batch(prompts[:4], 12)
    stop = free[0][3]
    stopped = model.generate_batch(prompts[:4], 12, stop_ids=[stop])

    assert stopped[0] == free[0][: free[0].index(stop)]
    assert all(stop not in answer for answer in stopped)


def test_nothing_is_generated_from_nothing_or_for_nothing(model, prompts):
    assert model.generate_batch([], 5) == []
    assert model.generate_batch(prompts[:2], 0) == [[], []]
    assert model.generate_greedy(prompts[0], 0) == []


def test_answers_do_not_depend_on_what_was_asked_before(model, prompts):
    first = model.generate_greedy(prompts[0], 8)
    model.generate_batch(prompts, 8)
    model.logprobs(prompts[5])

    assert model.generate_greedy(prompts[0], 8) == first


def test_text_survives_tokens_and_back(model):
    for text in ("The code is 4711.", " two  spaces ", "Zürich 😀\n", "日本"):
        assert model.detokenize(model.tokenize(text)) == text
    assert model.detokenize([]) == ""
    assert model.detokenize([1], special=True) == "<|im_start|>"
    assert model.detokenize([1]) == ""
    assert model.detokenize(model.tokenize("é")[:1]) == "\ufffd"


def test_template_marks_are_tokens_only_where_asked(model):
    assert model.tokenize("<|im_end|>") == [2]
    assert len(model.tokenize("<|im_end|>", special=False)) > 1
    assert model.chat_template == CHATML
    assert (model.bos_id, model.adds_bos) == (1, False)
    assert model.is_end(2)
    assert not model.is_end(50)


def test_an_adapter_changes_what_is_said(tiny_base, tiny_adapter, tmp_path, prompts):
    file = tmp_path / "adapter.gguf"
    gguf_files.write_adapter_gguf(read_adapter(tiny_adapter), tiny_base, file, "a", "0")
    with GgufModel(tiny_base / "base-F16.gguf", file, threads=1) as adapted:
        found = adapted.logprobs(prompts[0])
        expected = torch_logprobs(merged.load_adapted(tiny_base, tiny_adapter), prompts[0], 0)
        assert np.abs(found - expected).max() < 0.1
        assert len(adapted.generate_batch(prompts[:3], 4)) == 3


def test_an_adapter_for_another_base_is_refused(tiny_base, tiny_adapter, tmp_path):
    file = tmp_path / "adapter.gguf"
    gguf_files.write_adapter_gguf(read_adapter(tiny_adapter), tiny_base, file, "a", "0")
    other = rewrite_gguf(
        file, tmp_path / "other.gguf", change_tensor=lambda _, values: np.ascontiguousarray(values[:, :8])
    )

    with pytest.raises(BaseModelError, match=r"cannot put the adapter 'other\.gguf'"):
        GgufModel(tiny_base / "base-F16.gguf", other, threads=1)


def test_a_sequence_that_does_not_fit_is_refused(tiny_base, prompts):
    with GgufModel(tiny_base / "base-F16.gguf", n_ctx=16, threads=1) as small:
        with pytest.raises(EvaluateError, match="does not fit n_ctx=16"):
            small.logprobs(prompts[0])
        with pytest.raises(EvaluateError, match="does not fit n_ctx=16"):
            small.generate_batch([[1, 2, 3]], 14)


def test_a_file_that_is_no_model_says_why(tiny_base, tmp_path):
    broken = rewrite_gguf(
        tiny_base / "base-F16.gguf", tmp_path / "x.gguf", keys={"tokenizer.ggml.pre": "nobody-knows-this"}
    )

    with pytest.raises(BaseModelError, match="unknown pre-tokenizer"):
        GgufModel(broken, threads=1)


def test_nothing_is_written_to_the_terminal(tiny_base, capfd):
    with GgufModel(tiny_base / "base-F16.gguf", threads=1) as opened:
        opened.generate_batch([[1, 5, 6]], 3)
    captured = capfd.readouterr()

    assert captured.out == ""
    assert captured.err == ""


def test_closing_twice_is_harmless(tiny_base):
    opened = GgufModel(tiny_base / "base-F16.gguf", threads=1)
    opened.logprobs([1, 2, 3])
    opened.close()
    opened.close()
