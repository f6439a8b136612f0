"""Runs the HTTP server: from a network to an address, until it is asked to end."""

from __future__ import annotations

import logging
import signal
import sys
from typing import TYPE_CHECKING

import torch

from laterna.errors import LaternaError
from laterna.inference.batching.pace import EngineSettings
from laterna.inference.engine import Engine
from laterna.model.vlm import VisionLanguageModel
from laterna.serving.intake import IntakeSettings
from laterna.serving.listening import Listening

if TYPE_CHECKING:
    from fastapi import FastAPI

    from laterna.serving.door import ServerSettings


def serve_model(listening: Listening) -> None:
    """Load the model and serve it; raises LaternaError as `load` and `serve` do."""
    from laterna.inference.assistant import load

    require_packages()
    loaded = load(listening.model, device=listening.device, dtype=listening.dtype)
    serve(loaded.model, listening)


def serve(model: VisionLanguageModel, listening: Listening) -> None:
    """Serve a network until SIGTERM or Ctrl-C; requests in flight then have `grace` seconds.

    Raises LaternaError when the packages for serving are missing or the port is taken.
    """
    require_packages()
    from laterna.serving.openai_api import create_app

    engine = _engine(model, listening)
    try:
        listen(create_app(engine, settings_of(listening)), listening)
    finally:
        engine.close()


def require_packages() -> None:
    """Raise LaternaError where a package for serving is not installed."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise LaternaError(
            f"serving needs the package {error.name}; run `pip install 'laterna[serve]'`"
        ) from error


def settings_of(listening: Listening) -> ServerSettings:
    """Return the limits of the API."""
    from laterna.serving.door import ServerSettings

    return ServerSettings(
        name=listening.name,
        key=listening.key,
        answer_seconds=listening.answer_seconds,
        images=IntakeSettings(hosts=listening.image_hosts),
        log_prompts=listening.log_prompts,
    )


def listen(app: FastAPI, listening: Listening) -> None:
    """Listen until SIGTERM or Ctrl-C: then nothing new is taken, and what is in flight has `grace`
    seconds. Returns after SIGTERM; Ctrl-C raises KeyboardInterrupt, as anywhere.

    Raises LaternaError when the port is taken.
    """
    import uvicorn

    from laterna.serving.door import LOG, JsonLines
    from laterna.serving.page import open_page

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    LOG.setLevel(logging.INFO)
    loggers = (LOG, logging.getLogger("uvicorn"))
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=listening.host,
            port=listening.port,
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=listening.grace,
            server_header=False,
        )
    )
    _say_where(listening)
    if listening.open:
        open_page(server, listening.address)
    # uvicorn raises the signal that ended it once more, for whoever had a handler before.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        server.run()
    except SystemExit as error:  # uvicorn's way to say that it could not begin
        raise LaternaError(
            f"{listening.host}:{listening.port} cannot be listened at; is the port taken? name "
            "another one with --port"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)
        for logger in loggers:
            logger.removeHandler(handler)


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
        sys.stderr.write(
            f"requests are answered by the model's own `generate`: {engine.one_by_one}\n"
        )
    else:
        rows, tokens = engine.ready
        sys.stderr.write(
            f"the cache is ready for {rows} requests at once of {tokens:,} tokens each, answers "
            "included; for longer ones it is laid out anew while requests wait\n"
        )
    return engine


def _say_where(listening: Listening) -> None:
    sys.stderr.write(
        f"serving {listening.name} at {listening.address} (page) and {listening.address}/v1 (API)"
        + (", with an API key\n" if listening.key else ", to this machine alone (no API key)\n")
    )
