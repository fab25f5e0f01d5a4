"""Signals held back until training stands between two steps."""

import os
import signal
import threading

import pytest

from factory.lora.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_raises(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interruption() as interruption:
        interruption.pass_on()
        os.kill(os.getpid(), number)
        assert interruption.caught
        with pytest.raises(KeyboardInterrupt):
            interruption.pass_on()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interruption.caught
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_trains_without_hearing_signals() -> None:
    seen = []

    def work() -> None:
        with Interruption() as interruption:
            seen.append(interruption.caught)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
