"""The API's errors, each with its HTTP status, and the shape in which OpenAI's clients read them."""

from typing import Any

from factory.errors import ServeError


class ApiError(ServeError):
    """A request that gets no answer: `status` is the HTTP status, `code` what a program can tell it by."""

    status = 500
    kind = "server_error"
    code = "internal_error"

    def __init__(self, message: str, param: str | None = None) -> None:
        """Say what failed and, where there is one, which field is meant."""
        super().__init__(message)
        self.param = param

    def body(self) -> dict[str, Any]:
        """Return the error in OpenAI's shape."""
        return {
            "error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code},
        }


class RequestError(ApiError, ValueError):
    """The request cannot be answered as it is."""

    status, kind, code = 400, "invalid_request_error", "invalid_request"


class UnknownModelError(ApiError, LookupError):
    """No model of that name is served."""

    status, kind, code = 404, "invalid_request_error", "model_not_found"


class NotOfferedError(ApiError, NotImplementedError):
    """The route exists in OpenAI's API, and nothing here can answer it."""

    status, kind, code = 501, "server_error", "not_offered"


class EngineError(ApiError, ConnectionError):
    """The engine ended, hung or cannot be started, and nothing else was allowed to answer."""

    status, kind, code = 503, "server_error", "engine_unavailable"


class UpstreamError(ApiError):
    """An engine or endpoint answered with an error of its own, which is passed on."""

    def __init__(self, status: int, message: str, code: str = "upstream_error") -> None:
        """Keep the upstream's status where it speaks of the request, else answer 502."""
        super().__init__(message)
        self.status = status if 400 <= status < 500 and status not in {401, 403, 407} else 502
        self.kind = "invalid_request_error" if self.status < 500 else "server_error"
        self.code = code
