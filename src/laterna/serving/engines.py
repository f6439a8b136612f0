"""What can answer behind `laterna serve`: an engine is one file and one line in `ENGINES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from laterna.choices import late
from laterna.serving.listening import Listening


class ServingEngine(NamedTuple):
    """One way to answer."""

    serve: Callable[[Listening], None]
    """Serves until SIGTERM or Ctrl-C. Raises LaternaError for what cannot be served so."""
    lacks: frozenset[str] = frozenset()
    """Options of `laterna serve` that mean nothing to it, and are refused."""


ENGINES: dict[str, ServingEngine] = {
    "torch": ServingEngine(late("laterna.serving.server:serve_model")),
    "llama.cpp": ServingEngine(
        late("laterna.serving.llama_cpp:serve"),
        lacks=frozenset({"max_concurrency", "answer_seconds", "cache_gb", "device", "dtype"}),
    ),
    "vllm": ServingEngine(
        late("laterna.serving.vllm:serve"),
        lacks=frozenset(
            {
                "queue",
                "answer_seconds",
                "grace",
                "cache_gb",
                "threads",
                "device",
                "log_prompts",
                "open",
            }
        ),
    ),
}
