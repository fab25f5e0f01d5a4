"""The record of a report: what it refuses, and that it survives JSON."""

import json

import pytest
from pydantic import ValidationError

from factory.report.model import LossPoint, Report, report_schema
from factory.scores import DocumentScore

EMPTY = dict.fromkeys(Report.model_fields, ()) | {
    "schema_version": 1, "recipe": "r", "verdict": "v", "failure": None, "machine": "m", "base": None,
    "counts": {}, "settings": {}, "packages": {},
}  # fmt: skip


def test_a_report_comes_back_from_json_equal_with_its_numbers():
    document = DocumentScore(document="a.md", question_set="user", n=9, base=0.0, adapter=1 / 3)
    report = Report(**EMPTY | {"documents": (document,), "loss": ({"step": 1, "loss": 0.1 + 0.2},)})
    again = Report.model_validate_json(report.model_dump_json())
    assert again == report
    assert again.documents[0].rag is None
    assert again.documents[0].base == 0.0
    assert again.loss == (LossPoint(step=1, loss=0.30000000000000004),)


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        ({"schema_version": 2}, ("schema_version",)),
        ({"mood": "good"}, ("mood",)),
        ({"loss": [{"step": 1.5, "loss": 0.1}]}, ("loss", 0, "step")),
        ({"scores": [{"model": "m"}]}, ("scores", 0, "kind")),
        ({"verdict": None}, ("verdict",)),
    ],
)
def test_a_report_of_another_shape_is_refused_where_it_differs(fault, place):
    Report(**EMPTY)
    with pytest.raises(ValidationError) as refused:
        Report(**EMPTY | fault)
    assert place in [error["loc"] for error in refused.value.errors()]


def test_no_part_of_a_report_may_be_left_out_but_its_version():
    for name in set(EMPTY) - {"schema_version"}:
        with pytest.raises(ValidationError, match=name):
            Report(**{key: value for key, value in EMPTY.items() if key != name})
    assert (
        Report(**{key: value for key, value in EMPTY.items() if key != "schema_version"}).schema_version == 1
    )


def test_a_report_cannot_be_changed_afterwards():
    report = Report(**EMPTY)
    with pytest.raises(ValidationError, match="frozen"):
        report.verdict = "better"


def test_the_schema_promises_every_key_of_what_is_written():
    schema = json.loads(report_schema())
    assert set(schema["properties"]) == set(json.loads(Report(**EMPTY).model_dump_json()))
    assert set(schema["properties"]) - set(schema["required"]) <= {"schema_version"}
    assert schema["additionalProperties"] is False
    assert schema["properties"]["schema_version"]["const"] == 1
