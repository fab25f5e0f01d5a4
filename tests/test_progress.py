"""Bars and log lines: a rate, plain lines on standard error, nothing left behind."""

import logging

import pytest

from factory import progress
from factory.progress import Progress, shown_log


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_off_a_terminal_a_line_comes_every_half_minute_with_the_rate(clock, capsys):
    with Progress("ingest", unit="files") as bar:
        bar.update(40, 100)  # where a resumed run begins
        clock[0] += 10
        bar.update(60, 100)
        clock[0] += 30
        bar.update(80, 100)
    assert capsys.readouterr().err == "  ingest: 80/100 1.0 files/s\n"


def test_a_note_of_its_own_comes_instead_of_the_rate(clock, capsys):
    with Progress("verify") as bar:
        bar.update(1, 4, "weights")
        clock[0] += 40
        bar.update(2, 4, "model-F16.gguf")
        clock[0] += 40
        bar.update(3, 4)
    assert capsys.readouterr().err == "  verify: 2/4 model-F16.gguf\n  verify: 3/4\n"


def test_the_log_is_shown_as_plain_lines_while_the_block_runs(capsys):
    logger = logging.getLogger("factory.some.part")
    logger.info("not yet")
    with shown_log():
        logger.info("preparing %s", "base")
        logger.warning("two\n lines")
        logger.debug("never")
        logging.getLogger("other").info("not ours")
    logger.info("no more")
    captured = capsys.readouterr()
    assert captured.err == "  preparing base\n  warning: two lines\n"
    assert captured.out == ""


def test_a_training_step_says_loss_speed_share_of_the_peak_memory_and_time_left(clock, capsys):
    row = {"num_steps": 300, "loss": 1.5, "tokens_per_second": 1480.2, "mfu": 0.314, "memory_bytes": 3 << 29}
    with Progress("train") as bar:
        bar.training_step({"step": 1, "seconds": 1.0, **row})
        clock[0] += 40
        bar.training_step({"step": 100, "seconds": 90.0, **row})
    assert capsys.readouterr().err == (
        "  train: 100/300 loss 1.500  1480 tokens/s  31% MFU  1.5 GiB  3.0 min left\n"
    )
