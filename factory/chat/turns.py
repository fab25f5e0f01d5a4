"""A Jinja chat template seen as fixed marks around turns, and written in Go for Ollama. Knows no model and no file.

Nearly every chat template writes each turn between marks that depend on the role alone. `derive` finds those marks by
rendering probes, checks on conversations of every shape that marks and template give the same text, and refuses a
template for which they do not.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from factory.chat.template import compile_template
from factory.errors import BaseModelError, ExportError

Turn = Mapping[str, str]
MARKER = re.compile(r"<\|[^|<>\s]+\|>|<(?:start|end)_of_turn>|\[/?INST\]")
SYSTEM, FIRST, REPLY, SECOND = "probesystem", "probefirst", "probereply", "probesecond"
GO_SPECIAL = ("{{", "}}", '"""')


def _turns(*contents: str, system: str | None = None) -> list[Turn]:
    head: list[Turn] = [{"role": "system", "content": system}] if system is not None else []
    return head + [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


# Every conversation ends with the user, since that is when a model is asked.
FIXTURES = (
    _turns("When does the shop open?"),
    _turns("When does the shop open?", system="You answer questions about the shop."),
    _turns("Hello", "Hello, what would you like to know?", "Who keeps the key?"),
    _turns("Hello", "Hello!", "Who?", "Ada does.", "Since when?", system="Be brief.\nBe polite."),
    _turns("Was kostet die Öse № 5 — 3 €? 日本 🙂", system="Antworte auf Deutsch: “kurz”."),
    _turns(
        "{{ .Content }} {% raw %} {0} \\n \"quoted\" 'single' $x & <b>", "one\n\n\ntwo\n- three", "{{- end }}"
    ),
)
PADDED_FIXTURES = (_turns("  padded \n", " reply  ", "\tsecond \n\n", system=" system \n"),)


@dataclass(frozen=True)
class TurnTemplate:
    """What a chat template writes around turns; each pair is (before, after) the content.

    `opening` is the token that opens a text, which runtimes add by themselves; `default_turn` is written when a
    conversation brings no system turn; `generation` invites the assistant to speak. `trims` says that the Jinja
    template cuts white space off contents, which Go templates in Ollama cannot do.
    """

    opening: str
    default_turn: str
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    generation: str
    trims: bool = False

    def render(self, turns: Sequence[Turn]) -> str:
        """Return the prompt of a conversation that the assistant is to continue."""
        marks = {"system": self.system, "user": self.user, "assistant": self.assistant}
        text = self.opening + ("" if turns[0]["role"] == "system" else self.default_turn)
        for turn in turns:
            before, after = marks[turn["role"]]
            text += before + (turn["content"].strip() if self.trims else turn["content"]) + after
        return text + self.generation

    def as_go(self) -> str:
        """Return the template in Ollama's Go syntax, without the opening token.

        Raises:
            ExportError: a mark holds characters that Go templates or Modelfiles read as their own.
        """
        literals = [self.default_turn, self.generation, *self.system, *self.user, *self.assistant]
        for literal in literals:
            if any(special in literal for special in GO_SPECIAL):
                raise ExportError(
                    f"The chat template writes {literal!r}, which a Modelfile cannot hold: use another base"
                )
        default = f"{{{{ if not .System }}}}{self.default_turn}{{{{ end }}}}" if self.default_turn else ""
        return f"{default}{{{{ range .Messages }}}}{self._go_turn()}{{{{ end }}}}{self.generation}"

    def _go_turn(self) -> str:
        roles = {"system": self.system, "user": self.user, "assistant": self.assistant}
        general = {
            (before.replace(role, "{{ .Role }}", 1), after)
            for role, (before, after) in roles.items()
            if role in before
        }
        content = "{{ .Content }}"
        if len(general) == 1 and all(role in before for role, (before, _) in roles.items()):
            before, after = general.pop()
            return before + content + after
        system, user, assistant = (content.join(pair) for pair in roles.values())
        branches = f'{{{{ if eq .Role "system" }}}}{system}{{{{ else if eq .Role "user" }}}}{user}'
        return f"{branches}{{{{ else }}}}{assistant}{{{{ end }}}}"

    def stop_markers(self, special_tokens: Sequence[str]) -> list[str]:
        """Return the markers at which a runtime must stop, in the order a conversation meets them.

        Raises:
            ExportError: no marker ends an assistant turn, so that generation would never stop.
        """
        text = "".join([*self.system, *self.user, *self.assistant, self.generation])
        found = {token for token in special_tokens if token.strip() and token in text} | set(
            MARKER.findall(text)
        )
        if not any(marker in self.assistant[1] for marker in found):
            raise ExportError(
                f"The chat template ends an assistant turn with {self.assistant[1]!r}, which holds no special token: "
                "a runtime would never stop; use a base whose template ends turns with one"
            )
        return sorted(found, key=text.index)


def jinja_renderer(source: str, **specials: str) -> Callable[..., str]:
    """Return a function of turns and `add_generation_prompt` that renders a chat template.

    Args:
        source: the Jinja text.
        specials: values of `bos_token`, `eos_token` and their like.

    Raises:
        ExportError: the text is not a Jinja template (at once), or cannot render a conversation (when called).
    """
    with _as_export_error():
        compiled = compile_template(source)

    def render(turns: Sequence[Turn], add_generation_prompt: bool = True) -> str:
        with _as_export_error():
            return compiled(turns, add_generation_prompt=add_generation_prompt, **specials)

    return render


@contextmanager
def _as_export_error() -> Iterator[None]:
    try:
        yield
    except BaseModelError as error:
        raise ExportError(str(error)) from error


def derive(source: str, bos_token: str = "", eos_token: str = "") -> TurnTemplate:
    """Return the marks of a Jinja chat template, proven equal to it on every fixture.

    Raises:
        ExportError: the template does more than write turns between fixed marks, or cannot be rendered.
    """
    render = jinja_renderer(source, bos_token=bos_token, eos_token=eos_token)
    try:
        found = _find_marks(render, bos_token)
    except _NotTurnwiseError as error:
        try:  # Phi-3.5's closes a whole conversation, which no prompt is, and not its turns
            found = _find_marks(jinja_renderer(source, bos_token=bos_token, eos_token=""), bos_token)
        except _NotTurnwiseError:
            raise ExportError(_refusal(str(error))) from error
    for turns in FIXTURES:
        if found.render(turns) != render(turns):
            raise ExportError(
                _refusal(
                    f"it writes {render(turns)[:200]!r} where fixed marks give {found.render(turns)[:200]!r}"
                )
            )
    if all(found.render(turns) == render(turns) for turns in PADDED_FIXTURES):
        return found
    trimming = TurnTemplate(**{**vars(found), "trims": True})
    if all(trimming.render(turns) == render(turns) for turns in PADDED_FIXTURES):
        return trimming
    raise ExportError(_refusal("it changes the white space of some contents"))


class _NotTurnwiseError(Exception):
    """The probes do not come out between fixed marks."""


def _refusal(reason: str) -> str:
    return (
        f"The chat template cannot be written for Ollama: {reason}; use a base whose template writes each turn "
        "between fixed marks, as ChatML and Llama 3 do"
    )


def _find_marks(render: Callable[..., str], bos_token: str) -> TurnTemplate:
    closed = _pieces(render(_turns(FIRST, REPLY, SECOND), False), FIRST, REPLY, SECOND)
    invited = _pieces(render(_turns(FIRST, REPLY, SECOND)), FIRST, REPLY, SECOND)
    user_end, assistant_end = closed[3], _pieces(render(_turns(FIRST, REPLY), False), FIRST, REPLY)[2]
    user_start = _without_prefix(closed[2], assistant_end)
    opening = _without_suffix(closed[0], user_start)
    with_system = _pieces(render(_turns(FIRST, system=SYSTEM)), SYSTEM, FIRST)
    # A token that begins every turn (SmolLM2's bos is <|im_start|>) belongs to the turns.
    bos = (
        bos_token
        if bos_token and opening.startswith(bos_token) and not user_start.startswith(bos_token)
        else ""
    )
    return TurnTemplate(
        opening=bos,
        default_turn=_without_prefix(opening, bos),
        system=(_without_prefix(with_system[0], bos), _without_suffix(with_system[1], user_start)),
        user=(user_start, user_end),
        assistant=(_without_prefix(closed[1], user_end), assistant_end),
        generation=_without_prefix(invited[3], user_end),
    )


def _pieces(text: str, *probes: str) -> list[str]:
    pieces = []
    for probe in probes:
        before, found, text = text.partition(probe)
        if not found:
            raise _NotTurnwiseError("it leaves out or reorders turns")
        pieces.append(before)
    return [*pieces, text]


def _without_prefix(text: str, prefix: str) -> str:
    if not text.startswith(prefix):
        raise _NotTurnwiseError(f"{text!r} does not begin with {prefix!r} as elsewhere")
    return text[len(prefix) :]


def _without_suffix(text: str, suffix: str) -> str:
    if not text.endswith(suffix):
        raise _NotTurnwiseError(f"{text!r} does not end with {suffix!r} as elsewhere")
    return text[: len(text) - len(suffix)]


def template_of(merged: Mapping[str, Any], chat_template: str | None) -> tuple[str, str, str]:
    """Return a tokenizer's Jinja template, opening and closing token from `tokenizer_config.json` and template file.

    Raises:
        ExportError: there is no template.
    """
    source = chat_template or merged.get("chat_template")
    if not isinstance(source, str) or not source:
        raise ExportError("The merged model has no chat template: merge again from a base that has one")
    named = (merged.get(key) or "" for key in ("bos_token", "eos_token"))
    bos, eos = (token if isinstance(token, str) else str(token.get("content", "")) for token in named)
    return source, bos, eos
