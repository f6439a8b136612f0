"""SIGTERM and SIGINT: finish the step, save, leave. Spot machines give little more than that."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE_SECONDS = 25.0
"""From the signal to the end of the process at the latest; spot machines are taken after 30."""


class StopRequest:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal = 0

    def leave(self) -> None:
        """End the process as the signal would have: status 130 for SIGINT, 143 for SIGTERM."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.signal or signal.SIGTERM))


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the first SIGTERM or SIGINT inside into a request; a second one ends at once.

    A step that lasts longer than the grace time is given up: the process then ends with what was
    saved before. Outside the main thread, where Python lets no one catch signals, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    timers: list[threading.Timer] = []

    def asked(number: int, _frame: FrameType | None) -> None:
        request.signal = number
        signal.signal(number, before[signal.Signals(number)])
        timer = threading.Timer(GRACE_SECONDS, os._exit, [128 + number])
        timer.daemon = True
        timer.start()
        timers.append(timer)

    for number in before:
        signal.signal(number, asked)
    try:
        yield request
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
