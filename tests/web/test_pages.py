"""Which model the page shows when a training run ends, and what it promises about where answers come from."""

from datetime import UTC, datetime

import pytest

from factory.api.models import Catalog, EndpointSpec, endpoint_model, stub_model
from factory.api.router import Router
from factory.web.job import Job
from factory.web.pages import newest_model, promise

JOBS = [
    Job(id=name, name=name, recipe="quick", epochs=None, created=datetime(2026, 1, day, tzinfo=UTC))
    for day, name in ((3, "new"), (2, "mid"), (1, "old"))
]


@pytest.mark.parametrize(
    ("finished", "known", "ids", "shown"),
    [
        (("old", "new"), ("old",), ("base", "old", "new"), "new"),
        (("old", "mid", "new"), ("old",), ("base", "old", "mid", "new"), "new"),
        (("old", "new"), None, ("old", "new"), None),  # a page that has just been opened stays where it is
        (("old",), ("old",), ("old",), None),
        (("new",), (), ("base",), None),  # its bundle is not served
        ((), ("old",), ("base",), None),
        (("new",), (), ("base", "new:Q8_0", "new:Q4_K_M"), "new:Q8_0"),  # files alone, the default one first
        (("new",), (), ("base", "new", "new:Q8_0"), "new"),
    ],
)
def test_the_newest_finished_model_is_shown_once(finished, known, ids, shown):
    assert newest_model(JOBS, finished, known, ids) == shown


def test_an_endpoint_is_named_as_what_leaves_the_machine():
    afar = endpoint_model(EndpointSpec("big", "https://afar.example/v1", "big"))
    stub = stub_model()
    assert "Nothing is sent anywhere" in promise(Router(Catalog({stub.id: stub})))
    assert "**big**" in promise(Router(Catalog({stub.id: stub, afar.id: afar})))


def test_a_server_on_this_machine_is_promised_as_one():
    afar = endpoint_model(EndpointSpec("big", "https://afar.example/v1", "big"))
    near = endpoint_model(EndpointSpec("near", "http://localhost:11434/v1", "llama3.2"))
    assert "Nothing is sent anywhere else" in promise(Router(Catalog({near.id: near})))
    both = promise(Router(Catalog({near.id: near, afar.id: afar})))
    assert "**big**" in both
    assert "near" not in both
