"""Runs the HTTP server: from a network to an address, until it is asked to end."""

from __future__ import annotations

import logging
import sys

import torch

from laterna.errors import LaternaError
from laterna.inference.engine import Engine
from laterna.inference.steps import EngineSettings
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Record
from laterna.serving.intake import IntakeSettings


class Listening(Record):
    """Where and how a server listens; the fields are explained in `laterna serve --help`."""

    host: str
    port: int
    name: str
    key: str = ""
    rows: int = 32
    queue: int = 256
    image_hosts: tuple[str, ...] = ()
    answer_seconds: float = 600.0
    grace: int = 30
    cache_bytes: int | None = None
    threads: int | None = None


def serve(model: VisionLanguageModel, listening: Listening) -> None:
    """Serve a network until SIGTERM or Ctrl-C; requests in flight then have `grace` seconds.

    Raises LaternaError when the packages for serving are missing or the port is taken.
    """
    try:
        import uvicorn

        from laterna.serving.openai_api import ServerSettings, create_app
    except ImportError as error:
        raise LaternaError(
            f"serving needs the package {error.name}; run `pip install 'laterna[serve]'`"
        ) from error
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("laterna.serve").setLevel(logging.INFO)
    engine = _engine(model, listening)
    settings = ServerSettings(
        name=listening.name,
        key=listening.key,
        answer_seconds=listening.answer_seconds,
        images=IntakeSettings(hosts=listening.image_hosts),
    )
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(engine, settings),
            host=listening.host,
            port=listening.port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=listening.grace,
            server_header=False,
        )
    )
    _say_where(listening)
    try:
        server.run()
    except SystemExit as error:  # uvicorn's way to say that it could not begin
        raise LaternaError(
            f"{listening.host}:{listening.port} cannot be listened at; is the port taken? name "
            "another one with --port"
        ) from error
    finally:
        engine.close()


def _engine(model: VisionLanguageModel, listening: Listening) -> Engine:
    if listening.threads:
        torch.set_num_threads(listening.threads)
    engine = Engine(
        model,
        EngineSettings(
            rows=listening.rows,
            queue=listening.queue,
            cache_bytes=listening.cache_bytes,
            row_tokens=None,
        ),
    )
    if engine.one_by_one:
        sys.stderr.write(f"requests are answered one by one: {engine.one_by_one}\n")
    else:
        rows, tokens = engine.ready
        sys.stderr.write(
            f"the cache is ready for {rows} requests at once of {tokens:,} tokens each, answers "
            "included; for longer ones it is laid out anew while requests wait\n"
        )
    return engine


def _say_where(listening: Listening) -> None:
    where = f"[{listening.host}]" if ":" in listening.host else listening.host
    sys.stderr.write(
        f"serving {listening.name} at http://{where}:{listening.port}/v1"
        + (", with an API key\n" if listening.key else ", to this machine alone (no API key)\n")
    )
