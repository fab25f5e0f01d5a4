from prometheus_client.parser import text_string_to_metric_families

from factory.api.router import Router
from tests.api.served import ASKED, serving

CHAT = "/v1/chat/completions"


def _samples(http):
    """Return the values of all samples by name and labels, from the text as Prometheus reads it."""
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        (sample.name.removeprefix("adapter_factory_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_requests_and_tokens_are_counted_by_model(catalog):
    with serving(Router(catalog)) as server, server.http() as http:
        body = {"model": "gate", "messages": list(ASKED)}
        first = http.post(CHAT, json=body).json()["usage"]
        assert http.post(CHAT, json=body | {"stream": True}).status_code == 200
        http.post("/v1/completions", json={"model": "stub-endpoint", "prompt": "x"})
        http.post(CHAT, json=body | {"messages": [{"role": "user", "content": "long " * 2000}]})
        samples = _samples(http)

    assert samples["requests_total", "gate", "chat/completions", "200"] == 2
    assert samples["requests_total", "gate", "chat/completions", "400"] == 1
    assert samples["requests_total", "stub-endpoint", "completions", "200"] == 1
    assert samples["tokens_total", "prompt_tokens", "gate"] == 2 * first["prompt_tokens"]
    assert samples["tokens_total", "completion_tokens", "gate"] == 2 * first["completion_tokens"]
    assert samples["first_token_seconds_count", "gate"] == 2
    assert samples[("requests_running",)] == 0
    assert samples[("engine_deaths_total",)] == 0


def test_two_servers_do_not_share_counters(catalog):
    one, two = Router(catalog).metrics, Router(catalog).metrics
    one.deaths.inc()

    assert b"engine_deaths_total 1.0" in one.text()
    assert b"engine_deaths_total 0.0" in two.text()
