"""Processes that check chunks side by side: a pool of the standard library.

They are spawned: a fork would copy the locks of torch's and Arrow's threads. A spawned process
imports the script that was started, so a script that prepares with several workers needs the guard
`if __name__ == "__main__":`, and is told so where it has none.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from laterna.data.preparation.cache import encode_batch
from laterna.data.preparation.checking import Checker, Dropped, Job
from laterna.data.sources.rows import Chunk
from laterna.errors import LaternaError
from laterna.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AHEAD = 2
"""Chunks that wait for each worker, so that none waits for chunks."""

ASKED_BY = "LATERNA_PREPARING"
"""Environment variable that names, to the workers, the process that spawned them."""
GUARD = '`if __name__ == "__main__":`'


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
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(job, tokenizer),
    )
    started: set[BaseProcess] = set()
    os.environ[ASKED_BY] = str(os.getpid())
    try:
        waiting: deque[Future[Done]] = deque()
        for chunk in chunks:
            waiting.append(pool.submit(_do, chunk))
            started |= set(multiprocessing.active_children()) - others
            if len(waiting) > workers * AHEAD:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    except BrokenProcessPool as error:
        pool.shutdown()
        raise LaternaError(
            f"{_ended(started)}; its words, if any, are above. A script of your own needs {GUARD} "
            "around its call. Run the same again: what was done is kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        os.environ.pop(ASKED_BY, None)


def require_own_process() -> None:
    """Raise LaternaError in a worker that was spawned and imports a script that prepares again."""
    if os.environ.get(ASKED_BY) == str(os.getppid()):
        raise LaternaError(
            "a worker of the preparation imports the script that was started, which prepares "
            f"again; put what it does behind {GUARD}, or prepare with one worker"
        )


def _result(future: Future[Done]) -> Done:
    done = future.result()
    if done.error:
        raise LaternaError(done.error)
    return done


def _ended(started: set[BaseProcess]) -> str:
    """Say which process ended early: the pool ends all others by SIGTERM when one is gone."""
    codes = {process.pid: process.exitcode for process in started}
    for pid, code in codes.items():
        if code is not None and code not in (0, -signal.SIGTERM):
            how = (
                f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            )
            return f"a worker of the preparation (process {pid}) {how}"
    pids = ", ".join(str(pid) for pid in codes) or "none had begun"
    return f"a worker of the preparation ended early (processes: {pids})"


_checker: Checker | LaternaError
"""Of this process, where it is a worker."""


def _start(job: Job, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a process ready."""
    global _checker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _checker = Checker(job, tokenizer)
    except LaternaError as error:  # told with the first chunk
        _checker = error
    gc.freeze()  # models' libraries and the tokenizer stay; no collection walks them


def _end_with_parent() -> None:
    """End this process when the one that asks is killed: it holds the pipes open itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _do(chunk: Chunk) -> Done:
    try:
        if isinstance(_checker, LaternaError):
            raise _checker
        return do_chunk(_checker, chunk)
    except LaternaError as error:
        return Done(error=str(error))
