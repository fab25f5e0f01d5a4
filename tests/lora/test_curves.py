"""Curves on disk: each row at once, what a kill left past the checkpoint cut off, and what TensorBoard reads."""

import json
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from factory.lora import curves as curves_module
from factory.lora.curves import EVENTS, Curves, following


def _row(step: int) -> dict[str, float]:
    return {"step": step, "epoch": 1, "loss": 5.0 - step, "learning_rate": 1e-3, "seconds": 2.0 * step}


def _recall(step: int) -> dict[str, float]:
    return {"step": step, "epoch": 1, "recall": 0.25}


def _lines(folder: Path, name: str = "loss.jsonl") -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def _events(folder: Path) -> list[Event]:
    """Read an event file as TensorBoard frames it: length, checksum, event, checksum."""
    data, events = (folder / EVENTS).read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return events


def _scalars(folder: Path) -> list[tuple[int, str, float]]:
    return [
        (event.step, value.tag, pytest.approx(value.simple_value))
        for event in _events(folder)
        for value in event.summary.value
    ]


@pytest.fixture(autouse=True)
def _flush_at_once(monkeypatch) -> None:
    monkeypatch.setattr(curves_module, "FLUSH_SECONDS", -1.0)


def test_a_row_can_be_read_as_soon_as_it_is_added(tmp_path: Path) -> None:
    with Curves(tmp_path) as curves:
        for step in (1, 2):
            curves.add(_row(step))
            assert _lines(tmp_path)[-1] == _row(step)
        curves.add(_recall(2))
        assert _lines(tmp_path, "recall.jsonl") == [_recall(2)]
        expected = [
            (1, "loss", 4.0), (1, "learning_rate", 1e-3), (2, "loss", 3.0), (2, "learning_rate", 1e-3),
            (2, "recall", 0.25),
        ]  # fmt: skip
        assert _scalars(tmp_path) == expected


def test_a_resumed_run_cuts_off_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    with Curves(tmp_path) as curves:
        for step in (1, 2, 3, 4):
            curves.add(_row(step))
            curves.add(_recall(step))
    with (tmp_path / "loss.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # where the kill came
    with Curves(tmp_path) as curves:
        curves.add(_row(3))
        assert [row["step"] for row in _lines(tmp_path)] == [1, 2, 3]
        assert [row["step"] for row in _lines(tmp_path, "recall.jsonl")] == [1, 2]
        losses = [(step, value) for step, name, value in _scalars(tmp_path) if name == "loss"]
        assert losses == [(1, 4.0), (2, 3.0), (3, 2.0)]


def test_a_run_that_is_resumed_with_a_measurement_keeps_its_steps_loss(tmp_path: Path) -> None:
    with Curves(tmp_path) as curves:
        curves.add(_row(1))
        curves.add(_row(2))
        curves.add(_recall(2))
    with Curves(tmp_path) as curves:
        curves.add(_recall(2))
        assert _lines(tmp_path) == [_row(1), _row(2)]
        assert _lines(tmp_path, "recall.jsonl") == [_recall(2)]


def test_the_end_writes_everything_anew(tmp_path: Path) -> None:
    with Curves(tmp_path) as curves:
        curves.add(_row(7))
        curves.finish([_row(1), _row(2)], [_recall(2)])
    assert _lines(tmp_path) == [_row(1), _row(2)]
    assert _lines(tmp_path, "recall.jsonl") == [_recall(2)]
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        "loss.jsonl", "recall.jsonl", EVENTS,
    }  # fmt: skip
    first, *rest = _events(tmp_path)
    assert first.file_version == "brain.Event:2"
    times = [event.wall_time for event in rest]
    assert times == sorted(times)
    assert times[-1] - times[0] == pytest.approx(2.0), "rows keep their distance in time"


def test_a_later_stage_goes_on_where_the_rows_ended_and_is_marked(tmp_path: Path) -> None:
    first = [_row(1), _row(2)]
    later = [following(row, first[-1], "preferences") for row in (_row(1), _recall(1))]
    assert (later[0]["step"], later[0]["seconds"], later[0]["loss"]) == (3, 6.0, 4.0)
    assert later[1] == _recall(3) | {"stage": "preferences"}
    with Curves(tmp_path) as curves:
        for row in (*first, *later):
            curves.add(row)
    with Curves(tmp_path) as curves:  # a killed run goes on
        curves.add(following(_row(2), first[-1], "preferences"))
    assert [(row["step"], row.get("stage")) for row in _lines(tmp_path)] == [
        (1, None), (2, None), (3, "preferences"), (4, "preferences"),
    ]  # fmt: skip
    assert (3, "preferences/loss", 4.0) in _scalars(tmp_path)
    assert (3, "preferences/recall", 0.25) in _scalars(tmp_path)


def test_without_a_row_nothing_is_written(tmp_path: Path) -> None:
    with Curves(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
