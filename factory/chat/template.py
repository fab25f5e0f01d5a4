"""The one chat template: how messages become prompt text, the same in data, training, evaluation and serving.

Knows a tokenizer's template and its end-of-turn token; not what any message says.
"""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from factory.errors import BaseModelError
from factory.rows import Message

PROBE = "adapterfactoryprobe"


def conversation(question: str, answer: str | None = None, system: str = "") -> tuple[Message, ...]:
    """Return the messages of one exchange; an empty system text means no system turn."""
    messages = [Message(role="system", content=system)] if system else []
    messages.append(Message(role="user", content=question))
    if answer is not None:
        messages.append(Message(role="assistant", content=answer))
    return tuple(messages)


def render(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
    """Return the prompt text of a conversation under the tokenizer's own template."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    return str(text)


def render_template(template: str, messages: Sequence[Message]) -> str:
    """Return the prompt text of a conversation under a template's source, in a sandbox.

    For files that carry a template and no tokenizer; begin- and end-of-text tokens are left to the runtime.

    Raises:
        BaseModelError: the template does not render these messages.
    """
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return environment.from_string(template).render(
            messages=turns, add_generation_prompt=True, bos_token="", eos_token="", tools=None
        )
    except TemplateError as error:
        raise BaseModelError(
            f"The file's chat template cannot be rendered: {error}; use an instruct model"
        ) from error


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Return the token ids of a conversation that ends where the assistant begins to speak."""
    return list(tokenizer(render(tokenizer, messages), add_special_tokens=False)["input_ids"])


def end_of_turn_id(tokenizer: Any) -> int:
    """Return the id of the token that ends an assistant turn in the tokenizer's template.

    Raises:
        BaseModelError: the template ends a turn with ordinary text, so that a model could never stop.
    """
    messages = conversation(PROBE, PROBE)
    text = render(tokenizer, messages, add_generation_prompt=False)
    tail = text[text.rindex(PROBE) + len(PROBE) :]
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    if not ids or ids[0] not in special:
        raise BaseModelError(
            f"The chat template ends an assistant turn with {tail!r}, which starts with no special token: "
            "the model could not learn to stop; use a base whose template ends turns with one"
        )
    return int(ids[0])


def encode_example(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Return a conversation's token ids and labels, both of shape (length,).

    Labels are -100 except on the last assistant turn and its end-of-turn token. Prompt and answer are encoded
    apart, since that is how the model meets them when it answers.
    """
    *prompt, answer = messages
    prompt_ids = encode_prompt(tokenizer, prompt)
    answer_ids = list(tokenizer(answer.content, add_special_tokens=False)["input_ids"])
    answer_ids.append(end_of_turn_id(tokenizer))
    return prompt_ids + answer_ids, [-100] * len(prompt_ids) + answer_ids
