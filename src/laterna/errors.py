"""The one exception that speaks to a person: programs print it and exit 2."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType


class LaternaError(Exception):
    """Something the user can mend: the message says what was wrong, where, and what to do."""


def package(name: str, extra: str, what: str) -> ModuleType:
    """Import a package that not every installation has; `extra` is ours that brings it.

    Raises LaternaError, which names `what` needs it and how to get it, where it is not there.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise LaternaError(
            f"{what} needs the package {name}; run `pip install 'laterna[{extra}]'` ({error})"
        ) from error


def told(work: Callable[[], object]) -> int:
    """Do a program's work; return its exit status: 0, or 2 when what the user can mend was told."""
    try:
        work()
    except LaternaError as error:
        message = str(error)
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        message = f"{error.filename or 'disk'}: {error.strerror}"
    else:
        return 0
    sys.stderr.write(f"laterna: {message}\n")
    return 2
