"""Answers by vLLM: a Hugging Face folder is exported, and `vllm serve` takes this process over."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from laterna.errors import LaternaError
from laterna.serving.listening import Listening, exported

NOWHERE = "no-host.invalid"
"""A host that nobody has: with it alone on vLLM's list no image is fetched; an empty list would
mean that every host may be asked."""


def serve(listening: Listening) -> None:
    """Export a model once, and become `vllm serve`; signals then reach vLLM itself.

    Raises LaternaError when vLLM is not installed or the format cannot hold the model.
    """
    program = shutil.which("vllm")
    if program is None:
        raise LaternaError(
            "--engine vllm needs the program `vllm`; install it as its documentation says "
            "(https://docs.vllm.ai), or serve with --engine torch"
        )
    folder = exported(listening.model, "hf", "f32")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(program, command(program, folder, listening), environment(listening))


def command(program: str, folder: Path, listening: Listening) -> list[str]:
    """Return the command line."""
    return [
        program,
        "serve",
        str(folder),
        *("--host", listening.host),
        *("--port", str(listening.port)),
        *("--served-model-name", listening.name),
        *("--max-num-seqs", str(listening.rows)),
        *("--dtype", listening.dtype or "auto"),
        *("--allowed-media-domains", *(listening.image_hosts or (NOWHERE,))),
    ]


def environment(listening: Listening) -> dict[str, str]:
    """Return the environment: the key is in no command line, and no image leads on elsewhere."""
    key = {"VLLM_API_KEY": listening.key} if listening.key else {}
    return {**os.environ, **key, "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}
