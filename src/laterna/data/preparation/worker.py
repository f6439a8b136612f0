"""The process that checks chunks: see `workers`. Its standard output is its answers alone."""

from __future__ import annotations

import gc
import os
import pickle
import sys

import msgspec

from laterna.data.preparation.checking import Checker, Job
from laterna.data.preparation.workers import Done, do_chunk, receive, send
from laterna.data.sources.rows import Chunk
from laterna.errors import LaternaError


def main() -> None:
    """Answer every chunk until the input ends."""
    source = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    job = msgspec.msgpack.decode(receive(source) or b"", type=Job)
    # Written by the process that started this one, of an object that it held.
    tokenizer = pickle.loads(receive(source) or b"")  # noqa: S301
    checker: Checker | None = None
    while (content := receive(source)) is not None:
        try:
            if checker is None:
                checker = Checker(job, tokenizer)
                gc.freeze()  # models' libraries and the tokenizer stay; no collection walks them
            done = do_chunk(checker, msgspec.msgpack.decode(content, type=Chunk))
        except LaternaError as error:
            done = Done(error=str(error))
        try:
            send(answers, msgspec.msgpack.encode(done))
        except BrokenPipeError:  # who asked was killed
            os._exit(0)  # what the answers still hold cannot be flushed either


if __name__ == "__main__":
    main()
