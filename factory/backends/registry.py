"""Which backend answers chats: a GGUF file on this machine or an OpenAI-compatible endpoint."""

import importlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from factory.chat.backend import ChatBackend

BACKENDS = {
    "gguf": "factory.backends.local:open_gguf",
    "endpoint": "factory.backends.endpoint:open_endpoint",
}


class TeacherConfig(BaseModel):
    """A model that rewords questions: either a file `gguf` or an endpoint `url` with the name of a `model`.

    `key_env` names the environment variable that holds the endpoint's key; the key itself never stands in a
    recipe. `rewordings` is how many further wordings are asked for per fact; each is then asked twice, with the
    evidence above it and without.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gguf: Path | None = Field(default=None, exclude=True)
    url: str | None = Field(default=None, pattern=r"^https?://")
    model: str = ""
    key_env: str = ""
    rewordings: int = Field(default=3, ge=1, le=20)

    @model_validator(mode="after")
    def _one_place(self) -> "TeacherConfig":
        if (self.gguf is None) == (self.url is None):
            raise ValueError("name either gguf (a file) or url (an endpoint), not both and not neither")
        return self


def open_teacher(config: TeacherConfig) -> ChatBackend:
    """Return the backend a teacher configuration names, ready to answer."""
    target = BACKENDS["gguf" if config.gguf else "endpoint"]
    module, _, function = target.partition(":")
    backend: ChatBackend = getattr(importlib.import_module(module), function)(config)
    return backend
