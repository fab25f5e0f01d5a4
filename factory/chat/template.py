"""The one chat template: how messages become prompt text, the same in data, training, evaluation and serving.

Knows a tokenizer's or a file's template and its opening and end-of-turn tokens; not what any message says.
"""

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
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
    """Return the prompt text of a conversation under the tokenizer's own template.

    Raises:
        BaseModelError: the template does not render these messages.
    """
    try:
        text = tokenizer.apply_chat_template(
            _turns(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as error:
        raise _unrenderable(messages, error) from error
    return str(text)


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return messages as templates take them, accents composed: some tokenizers do that, llama.cpp's do not."""
    return [
        {"role": message.role, "content": unicodedata.normalize("NFC", message.content)}
        for message in messages
    ]


def _unrenderable(turns: Sequence[Any], error: Exception) -> BaseModelError:
    return BaseModelError(f"The chat template cannot render {len(turns)} turn(s): {error}; use another base")


def settle_template(source: str) -> str:
    """Return a chat template that writes the same text on any day and for every caller, thinking switched off.

    A macro of the template's own stands before what a program hands in: the day in it is the one that Llama 3's writes
    where it is told none. Thoughts would not fit into the answers that are trained and compared.
    """
    settled = ""
    if "strftime_now" in source:
        settled += "{%- macro strftime_now(format) %}26 Jul 2024{% endmacro %}\n"
    if "enable_thinking" in source:
        settled += "{%- set enable_thinking = false %}\n"
    return source if source.startswith(settled) else settled + source


def compile_template(source: str) -> Callable[..., str]:
    """Return a function of turns and the template's variables that renders a chat template as transformers does.

    Args:
        source: the Jinja text; it runs in a sandbox, because it may come with a downloaded file.

    Raises:
        BaseModelError: the text is not a Jinja template (at once), or cannot render a conversation (when called).
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    try:
        template = environment.from_string(source)
    except TemplateError as error:
        raise BaseModelError(f"The chat template is not valid Jinja: {error}; use another base") from error

    def render_turns(
        turns: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True, **variables: str
    ) -> str:
        known = {"messages": turns, "add_generation_prompt": add_generation_prompt}
        try:
            return template.render(**known, tools=None, documents=None, **variables)
        except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise _unrenderable(turns, error) from error

    return render_turns


def _refuse(message: str) -> str:
    raise TemplateError(message)


def render_template(
    template: str, messages: Sequence[Message], bos_token: str = "", eos_token: str = ""
) -> str:
    """Return the prompt text of a conversation under the template of a file that carries no tokenizer.

    Raises:
        BaseModelError: the template does not render these messages.
    """
    return compile_template(template)(_turns(messages), bos_token=bos_token, eos_token=eos_token)


def encode_file_prompt(model: Any, messages: Sequence[Message]) -> list[int]:
    """Return the prompt ids of a conversation for an open GGUF file, those that its base's tokenizer gives.

    A template that writes the opening or closing token gets the file's own; none is added to one that does not.

    Raises:
        BaseModelError: the file's template does not render these messages.
    """
    bos_token, eos_token = (
        "" if token is None else model.detokenize([token], special=True)
        for token in (model.bos_id, model.eos_id)
    )
    return list(model.tokenize(render_template(model.chat_template or "", messages, bos_token, eos_token)))


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
    """Return a conversation's token ids and labels, as `encode_examples` does."""
    return encode_examples(tokenizer, [messages])[0]


def encode_examples(
    tokenizer: Any, conversations: Sequence[Sequence[Message]]
) -> list[tuple[list[int], list[int]]]:
    """Return each conversation's token ids and labels, both of shape (length,).

    Labels are -100 except on the last assistant turn and its end-of-turn token. Prompt and answer are encoded
    apart, since that is how the model meets them when it answers. Many at once take a third of the time.
    """
    if not conversations:
        return []
    end_id = end_of_turn_id(tokenizer)
    prompts = tokenizer(
        [render(tokenizer, messages[:-1]) for messages in conversations], add_special_tokens=False
    )["input_ids"]
    answers = tokenizer(
        [_turns(messages[-1:])[0]["content"] for messages in conversations], add_special_tokens=False
    )["input_ids"]
    return [
        ([*prompt, *answer, end_id], [-100] * len(prompt) + [*answer, end_id])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
