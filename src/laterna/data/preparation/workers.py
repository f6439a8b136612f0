"""Processes that check chunks side by side, each in its own interpreter.

They are started as `python -m laterna.data.preparation.worker`, not forked and not by
`multiprocessing`: a fork would copy the locks of torch's and Arrow's threads, and a spawned child
would run the user's script again from its top.
"""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING

import msgspec

from laterna.data.preparation.cache import encode_batch
from laterna.data.preparation.checking import Checker, Dropped, Job
from laterna.data.sources.rows import Chunk
from laterna.errors import LaternaError
from laterna.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AHEAD = 2
"""Chunks that wait for each worker, so that none waits for chunks."""


class Done(Record, frozen=True):
    """What became of a chunk: the bytes of its samples, and what was dropped."""

    batch: bytes = b""
    kept: int = 0
    dropped: tuple[Dropped, ...] = ()
    error: str = ""
    """What is wrong with every row, in the words of the LaternaError; empty where nothing is."""


def do_chunk(checker: Checker, chunk: Chunk) -> Done:
    """Check a chunk. Raises LaternaError for what is wrong with every row."""
    kept, dropped = checker.check(chunk)
    return Done(batch=encode_batch(kept), kept=len(kept), dropped=tuple(dropped))


def do_chunks(
    chunks: Iterator[Chunk], job: Job, tokenizer: PreTrainedTokenizerBase, workers: int
) -> Iterator[Done]:
    """Check chunks, in their order, in so many processes; with one, in this one.

    Raises LaternaError for what is wrong with every row, and for a process that was killed.
    """
    if workers <= 1:
        checker = Checker(job, tokenizer)
        yield from (do_chunk(checker, chunk) for chunk in chunks)
        return
    idle: SimpleQueue[_Worker] = SimpleQueue()
    started = [_Worker(job, tokenizer) for _ in range(workers)]
    for worker in started:
        idle.put(worker)

    def do(chunk: Chunk) -> Done:
        worker = idle.get()
        try:
            return worker.do(chunk)
        finally:
            idle.put(worker)

    try:
        with ThreadPoolExecutor(workers) as threads:
            waiting: deque[Future[Done]] = deque()
            for chunk in chunks:
                waiting.append(threads.submit(do, chunk))
                if len(waiting) > workers * AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        for worker in started:
            worker.stop()


class _Worker:
    """One process, asked through its standard input and heard through its standard output."""

    def __init__(self, job: Job, tokenizer: PreTrainedTokenizerBase) -> None:
        packages = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "laterna.data.preparation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(filter(None, packages)),
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
            },
        )
        self._send(msgspec.msgpack.encode(job))
        self._send(pickle.dumps(tokenizer))

    def do(self, chunk: Chunk) -> Done:
        """Have a chunk checked. Raises LaternaError as `do_chunks` does."""
        self._send(msgspec.msgpack.encode(chunk))
        assert self.process.stdout is not None
        answer = receive(self.process.stdout)
        if answer is None:
            raise LaternaError(
                f"a worker of the preparation ended early (status {self.process.wait()}); its "
                "words, if any, are above. Run the same again: what was done is kept"
            )
        done = msgspec.msgpack.decode(answer, type=Done)
        if done.error:
            raise LaternaError(done.error)
        return done

    def _send(self, content: bytes) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: the answer that does not come says so
            send(self.process.stdin, content)

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.communicate()


def send(stream: IO[bytes], content: bytes) -> None:
    """Write one message: its length, and itself."""
    stream.write(struct.pack("<Q", len(content)))
    stream.write(content)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes | None:
    """Read one message; None where the stream has ended."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (length,) = struct.unpack("<Q", head)
    content = stream.read(length)
    return content if len(content) == length else None
