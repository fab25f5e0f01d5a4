import random

import pytest

from factory.weights.slots import Slots, chunk_entries, common_prefix


def test_the_common_prefix_leaves_every_prompt_a_token_of_its_own():
    assert common_prefix([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 9]]) == [1, 2]
    assert common_prefix([[1, 2], [1, 2, 3]]) == [1]
    assert common_prefix([(7, 8), [7, 8]]) == [7]
    assert common_prefix([[5]]) == []


def test_chunks_hold_consecutive_positions():
    steps = chunk_entries([10, 11, 12], 2, sequence=4)

    assert [[tuple(entry) for entry in step] for step in steps] == [
        [(10, 0, 4, False), (11, 1, 4, False)],
        [(12, 2, 4, False)],
    ]


def _echo(history):
    """A model that says the sum of what it has seen, and stops after multiples of five."""
    return sum(history) % 50


def _run(prompts, width, step_tokens, max_tokens):
    shared = common_prefix(prompts)
    slots = Slots(prompts, len(shared), max_tokens, width, step_tokens)
    memory = {}
    for place in slots.fill():
        memory[place] = list(shared)
    while step := slots.next_step():
        assert len(step) <= step_tokens
        picked = []
        for entry in step:
            assert entry.position == len(memory[entry.sequence])
            memory[entry.sequence].append(entry.token)
            if entry.wants_logits:
                picked.append(_echo(memory[entry.sequence]))
        slots.accept(picked, [-float(token) for token in picked], lambda token: token % 5 == 0)
        for place in slots.fill():
            memory[place] = list(shared)
    for answer, logprobs in zip(slots.answers, slots.logprobs, strict=True):
        assert logprobs[: len(answer)] == [-float(token) for token in answer]
        assert len(logprobs) == min(len(answer) + 1, max_tokens)  # what ends an answer counts, too
    return slots.answers


def _answer_alone(prompt, max_tokens):
    history, answer = list(prompt), []
    while len(answer) < max_tokens and (token := _echo(history)) % 5:
        answer.append(token)
        history.append(token)
    return answer


def test_each_prompt_gets_the_answer_it_would_get_alone():
    generator = random.Random(1)
    for _ in range(300):
        head = [generator.randrange(9) for _ in range(generator.randrange(4))]
        prompts = [
            head + [generator.randrange(9) for _ in range(generator.randrange(1, 12))]
            for _ in range(generator.randrange(1, 9))
        ]
        width, step_tokens, max_tokens = (generator.randrange(*bounds) for bounds in ((1, 5), (1, 9), (0, 6)))
        expected = [_answer_alone(prompt, max_tokens) for prompt in prompts]
        assert _run(prompts, width, step_tokens, max_tokens) == expected


def test_places_keep_their_order_in_a_step():
    slots = Slots([[1], [2], [3], [4]], 0, 2, 3, 16)
    slots.fill()
    slots.next_step()
    slots.accept([9, 5, 9], [0.0] * 3, lambda token: token == 5)
    slots.fill()

    assert [entry.sequence for entry in slots.next_step()] == [0, 1, 2]


def test_a_pick_too_few_is_an_error():
    slots = Slots([[1], [2]], 0, 2, 2, 16)
    slots.fill()
    slots.next_step()

    with pytest.raises(ValueError, match="shorter"):
        slots.accept([1], [0.0], lambda _: False)
