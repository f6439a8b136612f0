"""What a run that is asked to stop is given: the end of its step, once, and a grace time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import laterna

DRIVER = """
import os, signal, sys, time
from laterna.training import resume as signals
signals.GRACE_SECONDS = 0.3
first, last, left, slept = (int(number) for number in sys.argv[1:])
with signals.stop_requests() as request:
    os.kill(os.getpid(), first)
    print(request.signal, flush=True)
    if last:
        os.kill(os.getpid(), last)
    if not left:
        time.sleep(slept)
time.sleep(slept)
print("lived on", flush=True)
"""


def ended(*numbers: int) -> tuple[int, str, float]:
    """Return how a process ends that signals come to, what it prints, and after how long."""
    source = str(Path(laterna.__file__).parents[1])
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *map(str, numbers)],
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout, time.monotonic() - begun


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_step_that_outlasts_the_grace_time_is_given_up(number: signal.Signals) -> None:
    status, said, seconds = ended(number, 0, 0, 80)
    assert (status, said) == (128 + number, f"{int(number)}\n")
    assert seconds < 60, "it did not sleep to its end"


def test_a_second_signal_ends_at_once() -> None:
    status, said, _ = ended(signal.SIGTERM, signal.SIGTERM, 0, 80)
    assert (status, said) == (-signal.SIGTERM, f"{int(signal.SIGTERM)}\n")


def test_what_was_left_in_time_is_not_ended_later() -> None:
    status, said, _ = ended(signal.SIGTERM, 0, 1, 1)  # seconds: more than the grace time
    assert (status, said) == (0, f"{int(signal.SIGTERM)}\nlived on\n")
