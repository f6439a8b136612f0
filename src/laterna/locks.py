"""The lock of a file or folder, which a process has while it lives."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def locked(path: Path, flags: int, *, folder: bool = False) -> int | None:
    """Open and lock what a process holds while it lives; None where another one does.

    With `folder` it is made first. On a disk without locks a folder is held by who makes it, and a
    file by all.
    """
    while True:
        anew = not path.exists()
        if folder:
            path.mkdir(exist_ok=True)  # raises where no folder can ever be made
        try:
            descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            if not folder:
                return None  # whoever had it has done with it
            continue
        except NotADirectoryError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            if not anew and path.is_dir():
                os.close(descriptor)
                return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # it was removed before it was locked
