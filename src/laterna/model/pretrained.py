"""Reading Hugging Face parts from a folder or the hub: whole and as safetensors, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils import logging as transformers_logging

from laterna.errors import LaternaError

T = TypeVar("T")


def read_part(read: Callable[[], T], *, source: str, what: str) -> T:
    """Call a Hugging Face loader; `what` names the part in the error.

    Raises LaternaError when the source is missing, incomplete or not readable.
    """
    try:
        with quiet_transformers():
            return read()
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise LaternaError(
            f"{source}: cannot read the {what}: {reason}. "
            "Give a folder or hub id that holds it as config.json and safetensors"
        ) from error


def no_config(source: str, what: str, error: Exception) -> LaternaError:
    """Return the error for a configuration that cannot be had."""
    reason = " ".join(str(error).split())[:200]
    kind = "folder" if Path(source).is_dir() else "source"
    return LaternaError(
        f"{source}: cannot read the configuration of the {what} from this {kind}: {reason}. "
        "Planning needs its config.json and no weights: fetch that file (`hf download OWNER/NAME "
        "config.json --local-dir DIR`) and name DIR as the source"
    )


def load_weights(
    model_class: Any,
    source: str,
    *,
    what: str,
    weights: dict[str, Tensor] | None = None,
    **options: Any,
) -> Any:
    """Load a model in float32, from safetensors only, and insist that every weight was there.

    transformers fills a missing weight with random numbers and a warning; here it is an error.
    `weights` were read from the source already, and need a `config` beside them; other `options`
    go to `from_pretrained` too. Raises LaternaError when the source is missing or lacks weights.
    """

    def read() -> tuple[Any, dict[str, Any]]:
        model, info = model_class.from_pretrained(
            source if weights is None else None,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            state_dict=weights,
            **options,
        )
        return model, info

    model, info = read_part(read, source=source, what=what)
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        raise LaternaError(
            f"{source}: {len(lacking)} weights of the {what} are missing or of another shape, "
            f"the first is {lacking[0]}; the files do not belong together, fetch them again"
        )
    return model.eval()


def read_tensors(source: str, prefixes: tuple[str, ...], *, what: str) -> dict[str, Tensor]:
    """Read the tensors whose names begin with one of `prefixes`, in float32, and no others.

    Of a sharded checkpoint only the shards that hold them are opened, and fetched from the hub.
    Raises LaternaError when the source has no safetensors or a file cannot be read.
    """

    def read() -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for shard in _shards(source, prefixes):
            with safe_open(cached_file(source, shard), framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118, it is no dictionary
                    if name.startswith(prefixes):
                        tensors[name] = opened.get_tensor(name).to(torch.float32)
        return tensors

    return read_part(read, source=source, what=what)


def _shards(source: str, prefixes: tuple[str, ...]) -> list[str]:
    """Return the names of the files that hold tensors of these names."""
    try:
        cached_file(source, SAFE_WEIGHTS_NAME)
    except OSError:  # sharded, or nothing there, which the next line says
        index = Path(str(cached_file(source, SAFE_WEIGHTS_INDEX_NAME)))
        places: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
        return sorted({file for name, file in places.items() if name.startswith(prefixes)})
    return [SAFE_WEIGHTS_NAME]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hold back transformers' own progress bars and remarks; Laterna shows its own."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
