"""An OpenAI-compatible endpoint over HTTP. What is sent leaves the process, and maybe the machine."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import httpx

from factory.errors import BackendError
from factory.rows import Message

TIMEOUT_S = 120.0


class EndpointConfig(Protocol):
    """What an endpoint needs to be told."""

    @property
    def url(self) -> str | None:
        """The address, up to `/v1`."""
        ...

    @property
    def model(self) -> str:
        """The model's name there."""
        ...

    @property
    def key_env(self) -> str:
        """The environment variable that holds the key; '' for none."""
        ...


class EndpointBackend:
    """Answers through `POST <url>/chat/completions`."""

    def __init__(self, config: EndpointConfig, client: httpx.Client | None = None) -> None:
        """Keep the address; the key is read from the environment variable the configuration names."""
        self._url = f"{str(config.url).rstrip('/')}/chat/completions"
        self._model = config.model
        key = os.environ.get(config.key_env, "") if config.key_env else ""
        if config.key_env and not key:
            raise BackendError(
                f"The environment variable {config.key_env} is empty: set it to the endpoint's key"
            )
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = client or httpx.Client(timeout=TIMEOUT_S, headers=headers)

    def chat(
        self, messages: Sequence[Message], *, max_tokens: int, schema: Mapping[str, Any] | None = None
    ) -> str:
        """Return the assistant's next turn, decoded greedily: JSON of a schema, if there is one.

        Raises:
            BackendError: the endpoint cannot be reached, refuses, or answers in another shape.
        """
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [message.model_dump() for message in messages],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        if schema:
            form = {"name": "answer", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        try:
            response = self._client.post(self._url, json=body)
            response.raise_for_status()
            content = response.json()["choices"][0]["message"]["content"] or ""
            if not isinstance(content, str):
                raise TypeError(f"content is {type(content).__name__}, not text")
            return content
        except httpx.HTTPStatusError as error:
            raise BackendError(
                f"{self._url} answered {error.response.status_code}: check model {self._model!r}, its key"
                + (" and that it answers by a JSON schema (`response_format`)" if schema else "")
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise BackendError(f"{self._url} cannot be reached ({error}): is the server running?") from error
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BackendError(f"{self._url} answered in another shape than OpenAI's: {error!r}") from error


def open_endpoint(config: EndpointConfig) -> EndpointBackend:
    """Return an endpoint backend."""
    return EndpointBackend(config)
