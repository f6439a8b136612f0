"""The lock of a file or folder, which a process has until it ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def locked(path: Path, flags: int, *, folder: bool = False) -> int | None:
    """Open and lock a file or folder; None where another process has the lock.

    With `folder` it is made first. On a disk without locks, the process that makes a folder has its
    lock, and every process that of a file.
    """
    while True:
        anew = not path.exists()
        if folder:
            path.mkdir(exist_ok=True)  # raises where no folder can ever be made
        try:
            descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            if not folder:
                return None  # its process has removed it
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
