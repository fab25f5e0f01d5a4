"""What a request may hold, in OpenAI's shape: an allow-list with limits. Knows no model and no engine.

Only the fields named here reach an engine. Others that OpenAI's API has are ignored and named in a response header;
anything larger or deeper than a limit is refused.
"""

import base64
import json
import struct
import unicodedata
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from factory.api.errors import RequestError

MAX_DEPTH, MAX_SCHEMA_BYTES, MAX_TOKENS = 32, 64_000, 32_768
SAMPLER = (
    *("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty"),
    *("seed", "stop", "max_tokens"),
)
Seed = Annotated[int, Field(ge=-1, le=2**32 - 1)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(max_length=2_000_000)]


class TextPart(BaseModel):
    """One part of a message's content; only text is understood."""

    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    """One turn. Parts are joined; `developer` is another name for system."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    tool_calls: Annotated[list[dict[str, Any]], Field(max_length=64)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    def for_engine(self) -> dict[str, Any]:
        """Return the turn as an engine reads it, accents composed as `chat.template` does."""
        role = "system" if self.role == "developer" else self.role
        extra = {"tool_calls": self.tool_calls, "tool_call_id": self.tool_call_id}
        return {"role": role, "content": unicodedata.normalize("NFC", self.text)} | {
            key: value for key, value in extra.items() if value
        }


class StreamOptions(BaseModel):
    """Whether a last chunk reports the tokens used."""

    include_usage: bool = False


class Sampling(BaseModel):
    """How tokens are chosen; what is None is left to the model's own settings."""

    model_config = ConfigDict(allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=200)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.5, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    n: Literal[1] = 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def settings(self) -> dict[str, Any]:
        """Return the sampling fields that were given, as an engine reads them."""
        given = {name: getattr(self, name) for name in SAMPLER}
        return {name: value for name, value in given.items() if value is not None}


class ChatRequest(Sampling):
    """A body of `POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=512)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=64)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None

    @field_validator("response_format")
    @classmethod
    def _known_format(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        kind = value.get("type")
        if kind not in ("text", "json_object", "json_schema"):
            raise ValueError(f"type {str(kind)[:40]!r} is not one of text, json_object, json_schema")
        form = value.get("json_schema")
        if kind == "json_schema" and not (isinstance(form, dict) and isinstance(form.get("schema"), dict)):
            raise ValueError("json_schema.schema is missing or no object")
        if len(json.dumps(value)) > MAX_SCHEMA_BYTES:
            raise ValueError(f"the schema is longer than {MAX_SCHEMA_BYTES} bytes")
        return value

    @field_validator("tools")
    @classmethod
    def _known_tools(cls, value: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        for number, tool in enumerate(value or ()):
            function = tool.get("function")
            if tool.get("type") != "function" or not isinstance(function, dict):
                raise ValueError(f'tool {number} is not {{"type": "function", "function": {{…}}}}')
            if not isinstance(function.get("name"), str) or not function["name"]:
                raise ValueError(f"tool {number} has no function.name")
            if not isinstance(function.get("parameters", {}), dict | None):
                raise ValueError(f"tool {number}: function.parameters is not a JSON schema")
        return value

    @model_validator(mode="after")
    def _small_tools(self) -> Self:
        if self.tools and len(json.dumps(self.tools)) > MAX_SCHEMA_BYTES:
            raise ValueError(f"tools are longer than {MAX_SCHEMA_BYTES} bytes")
        return self

    def settings(self) -> dict[str, Any]:
        """Return the fields but the messages that were given, as an engine reads them."""
        names = ("logprobs", "top_logprobs", "response_format", "tools", "tool_choice", "parallel_tool_calls")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.max_completion_tokens:
            given["max_tokens"] = self.max_completion_tokens
        return super().settings() | given


class CompletionRequest(Sampling):
    """A body of `POST /v1/completions`: a raw prompt, or with `suffix` a gap to fill in."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    suffix: Text | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] = False

    @property
    def text(self) -> str:
        """The prompt as one text."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]

    def settings(self) -> dict[str, Any]:
        """Return the fields but the prompt that were given, as an engine reads them."""
        return super().settings() | ({"logprobs": self.logprobs} if self.logprobs is not None else {})


class EmbeddingRequest(BaseModel):
    """A body of `POST /v1/embeddings`."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=512)]
    encoding_format: Literal["float", "base64"] = "float"

    @property
    def texts(self) -> list[str]:
        """The texts, also when there is one."""
        return [self.input] if isinstance(self.input, str) else self.input

    def encoded(self, vector: list[float]) -> list[float] | str:
        """Return a vector as the request wants it: numbers, or their float32 bytes in base64."""
        if self.encoding_format == "float":
            return vector
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


R = TypeVar("R", bound=BaseModel)


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the object of a request body.

    Raises:
        RequestError: it is no JSON object, or nested deeper than MAX_DEPTH.
    """
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON ({type(error).__name__}): send an object") from error
    if not isinstance(value, dict):
        raise RequestError("the body is not a JSON object: send {…}")
    if _is_deeper(value, MAX_DEPTH):
        raise RequestError(f"the body is nested deeper than {MAX_DEPTH} levels: flatten it")
    try:  # infinity written as 1e999 and halves of surrogate pairs can be read and not be passed on
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise RequestError(
            "the body holds a number or a text that JSON cannot carry: leave it out"
        ) from error
    return value


def read(kind: type[R], body: dict[str, Any]) -> tuple[R, list[str]]:
    """Return a request and the names of the fields that it holds and nothing reads; null is as good as left out.

    Raises:
        RequestError: a field has a value outside its limits; the first one is named.
    """
    body = {name: value for name, value in body.items() if value is not None}
    try:
        return kind.model_validate(body), sorted(set(body) - set(kind.model_fields))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise RequestError(f"{place}: {first['msg']}", param=place) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_deeper(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not layer:
            return False
    return any(isinstance(item, dict | list) for item in layer)
