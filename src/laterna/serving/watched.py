"""`python -m laterna.serving.watched MODULE …`: a program that does not outlive who started it.

Standard input is a pipe whose other end the parent holds and never writes to. However the parent
ends, even by SIGKILL, the system closes that end, and this process ends at once.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)  # nobody is left who would wait for anything tidier


def main() -> None:
    """Run the module that the first argument names, as `python -m` does, with the others."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
