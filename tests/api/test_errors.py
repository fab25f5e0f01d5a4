"""Errors of the API: their status, the shape that OpenAI's clients read, and which of others' are passed on."""

import pytest

from factory.api.errors import (
    ApiError,
    EngineError,
    NotOfferedError,
    RequestError,
    UnknownModelError,
    UpstreamError,
)


@pytest.mark.parametrize(
    ("kind", "built_in", "status", "type_", "code"),
    [
        (ApiError, Exception, 500, "server_error", "internal_error"),
        (RequestError, ValueError, 400, "invalid_request_error", "invalid_request"),
        (UnknownModelError, LookupError, 404, "invalid_request_error", "model_not_found"),
        (NotOfferedError, NotImplementedError, 501, "server_error", "not_offered"),
        (EngineError, ConnectionError, 503, "server_error", "engine_unavailable"),
    ],
)
def test_each_error_has_its_status_and_keeps_message_and_field(kind, built_in, status, type_, code):
    error = kind("'x' is wrong: write y", "model")
    assert isinstance(error, built_in)
    assert error.status == status
    assert error.body() == {
        "error": {"message": "'x' is wrong: write y", "type": type_, "param": "model", "code": code}
    }


def test_an_error_about_no_field_names_none():
    assert RequestError("The body is empty").body()["error"]["param"] is None


@pytest.mark.parametrize("status", [400, 404, 408, 413, 422, 429, 499])
def test_what_an_endpoint_says_of_the_request_is_passed_on(status):
    error = UpstreamError(status, "Too many tokens", "context_length_exceeded")
    assert (error.status, error.kind) == (status, "invalid_request_error")
    assert error.body()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("status", [200, 302, 401, 403, 407, 500, 503, 599])
def test_what_it_says_of_itself_or_of_our_key_becomes_a_bad_gateway(status):
    error = UpstreamError(status, "No")
    assert (error.status, error.kind, error.code) == (502, "server_error", "upstream_error")


def test_one_upstream_error_leaves_the_status_of_others_alone():
    UpstreamError(429, "slow down")
    assert (UpstreamError.status, UpstreamError.code, UpstreamError(500, "x").status) == (
        500,
        "internal_error",
        502,
    )
