"""`laterna serve`: an assistant on a page and behind an OpenAI-compatible address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec.structs import asdict, fields
from tyro.conf import Positional, arg

from laterna.choices import KeysOf
from laterna.commands.base import Command, Reads, Where
from laterna.errors import LaternaError
from laterna.recipe import Count


class Serve(Command, frozen=True, kw_only=True):
    """Serve an assistant on a page, and to clients of the OpenAI API such as the `openai` package.

    Without an API key in the environment it listens on this machine alone.
    """

    model: Positional[str]
    """A Laterna checkpoint, a llava-hf or original LLaVA folder, or a hub id of one."""
    engine: Annotated[str, KeysOf("laterna.serving.engines:ENGINES")] = "torch"
    """What answers: Laterna's own engine, or an export for llama.cpp or vLLM."""
    host: str = "127.0.0.1"
    """Address to listen at; others than this machine's own need an API key."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 8000
    """Port to listen at."""
    name: str = ""
    """The model's name in requests. Default: the last part of MODEL."""
    key_variable: Annotated[str, msgspec.Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$")] = (
        "LATERNA_API_KEY"
    )
    """Environment variable that holds the API key which requests must bring."""
    max_concurrency: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 32
    """Requests answered at once."""
    queue: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 256
    """Requests that may wait; more are told to come again (429)."""
    allow_image_hosts: tuple[str, ...] = ()
    """Hosts that images may be fetched from, such as `images.example.org` or `*.example.org`.
    Default: none; images come as data URLs."""
    answer_seconds: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 600.0
    """Time after which an answer is ended where it stands."""
    grace: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 30
    """Seconds that requests in flight may take when the server is asked to end."""
    cache_gb: Annotated[float, msgspec.Meta(gt=0, le=10_000)] | None = None
    """Room for keys and values, in 10^9 bytes. Default: half of a GPU's free memory, 2 GiB else."""
    open: bool = False
    """Open the page in this machine's browser."""
    threads: Count | None = None
    """Threads for the model on a CPU. Default: torch's own choice."""
    log_prompts: bool = False
    """Write questions and answers to the log too; images never are."""
    where: Annotated[Where, arg(name="")] = Where()

    def reads(self) -> Iterator[Reads]:
        """Name the model."""
        self._require_key()
        self._require_options()
        yield Reads(Path(self.model), kind="maybe")

    def run(self) -> str:
        """Call the engine."""
        from laterna.serving.engines import ENGINES
        from laterna.serving.listening import Listening

        ENGINES[self.engine].serve(
            Listening(
                host=self.host,
                port=self.port,
                name=self.name or Path(self.model).name,
                model=self.model,
                device=self.where.device,
                dtype=self.where.dtype,
                key=self._key(),
                rows=self.max_concurrency,
                queue=self.queue,
                image_hosts=self.allow_image_hosts,
                answer_seconds=self.answer_seconds,
                grace=self.grace,
                cache_bytes=None if self.cache_gb is None else round(self.cache_gb * 1e9),
                threads=self.threads,
                log_prompts=self.log_prompts,
                open=self.open,
            )
        )
        return ""

    def _key(self) -> str:
        return os.environ.get(self.key_variable, "").strip()

    def _require_options(self) -> None:
        """Raise LaternaError for an option that the engine does not have."""
        from laterna.serving.engines import ENGINES

        if self.engine not in ENGINES:
            raise LaternaError(f"--engine {self.engine}: it is one of {', '.join(ENGINES)}")
        plain = {field.name: field.default for part in (Serve, Where) for field in fields(part)}
        given = asdict(self) | asdict(self.where)
        for name in sorted(ENGINES[self.engine].lacks):
            if given[name] != plain[name]:
                raise LaternaError(
                    f"--{name.replace('_', '-')}: --engine {self.engine} does not have it; leave "
                    "it out, or serve with --engine torch"
                )

    def _require_key(self) -> None:
        from laterna.serving.listening import is_own

        if self._key() or is_own(self.host):
            return
        raise LaternaError(
            f"--host {self.host}: anyone who reaches it could use the model; put an API key into "
            f"the environment variable {self.key_variable}, or listen at 127.0.0.1"
        )
