"""The exception for errors that a user can correct: programs print it and exit with 2."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType


class LaternaError(Exception):
    """An error that the user can correct; it says what was wrong, where, and what to do."""


def package(name: str, extra: str, what: str) -> ModuleType:
    """Import a package that not every installation has; `extra` is our extra that installs it.

    Raises LaternaError, which says `what` needs it and how to get it, where it is missing.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise LaternaError(
            f"{what} needs the package {name}; run `pip install 'laterna[{extra}]'` ({error})"
        ) from error


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return what another library's error says, in one line of at most `limit` characters."""
    return " ".join(str(error).split())[:limit]


_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO))
_SAID_FULL = re.compile(
    r"\(os error (?:5|13|27|28|30|122)\)|No space left on device|File too large|disk is full"
)
_NUMPYS = r"\d+ requested and \d+ written"


def disk_fault(error: BaseException) -> str:
    """Return why a disk could not be written to; empty for other errors, LaternaError included.

    Rust (safetensors, tokenizers), Arrow, SQLite and numpy have it only in their errors' text.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return error.strerror or "the disk is full"
    text = "" if isinstance(error, LaternaError) else " ".join(str(error).split())
    if re.fullmatch(_NUMPYS, text):
        return "the disk is full"
    return text[:300] if _SAID_FULL.search(text) else ""


def told(work: Callable[[], object]) -> int:
    """Do a program's work and return its exit status: 2 for an error that the user can correct,
    which is written to standard error; else 0.
    """
    try:
        work()
    except LaternaError as error:
        message = str(error)
    except Exception as error:
        named = error.filename if isinstance(error, OSError) else None
        why = disk_fault(error) or (error.strerror if isinstance(error, OSError) and named else "")
        if not why:
            raise
        message = f"{named or 'disk'}: {why}"
    else:
        return 0
    sys.stderr.write(f"laterna: {message}\n")
    return 2
