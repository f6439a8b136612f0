"""Reading Hugging Face parts from a folder or the hub: whole, or not at all.

Weights are safetensors, or pickles (`.bin`) where there are no others. These are read with
`weights_only=True`, which makes tensors and nothing else.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils import logging as transformers_logging

from laterna.errors import LaternaError, one_line
from laterna.model.language.adapters import LORA_MARK
from laterna.model.weight_files import (
    INDEXES,
    POINTED,
    other_weights,
    pointers_in,
    require_weights,
    unlisted_shards,
)

T = TypeVar("T")

_FAULTS = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)
"""What Hugging Face's loaders raise for files that do not hold what they look for."""
_AROUND = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training programs keep the weights in a file of more."""
_WRAPPERS = re.compile(
    r"^(?:module\.|base_model\.model\.)+|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\."
)
"""What DDP, peft, torch.compile, FSDP and activation checkpointing put into weights' names."""
_AROUND_PEFT = re.compile(_WRAPPERS.pattern.replace(r"|base_model\.model\.", ""))
"""The same without peft's own."""
_EMPTY = (
    "{name} is empty, as ZeRO's stage 3 leaves weights that it did not gather; run the "
    "zero_to_fp32.py that DeepSpeed put beside its checkpoint"
)


def read_part(read: Callable[[], T], *, source: str, what: str) -> T:
    """Call a Hugging Face loader; `what` names the part in the error.

    Raises LaternaError when the source is missing, incomplete or not readable.
    """
    try:
        with quiet_transformers():
            return read()
    except _FAULTS as error:
        require_named(source)
        for pointer in pointers_in(Path(source)):
            raise LaternaError(POINTED.format(path=pointer)) from error
        for path in sorted(Path(source).glob("*.safetensors")):
            require_weights(path)
        lacking = other_weights(Path(source)) if "no file named" in str(error) else ""
        reason = lacking or one_line(error).rstrip(".")
        raise LaternaError(
            f"{source}: cannot read the {what}: {reason}. "
            "Give a folder or hub id that holds it as config.json and safetensors"
        ) from error


def require_named(source: str) -> None:
    """Raise LaternaError for a source that is neither on this machine nor named as on the hub."""
    if Path(source).exists():
        return
    try:
        validate_repo_id(source)
    except HFValidationError as error:
        raise LaternaError(
            f"{source}: no such file or folder; a model on the Hugging Face hub is named "
            "OWNER/NAME, as in llava-hf/llava-1.5-7b-hf"
        ) from error


def no_config(source: str, what: str, error: Exception) -> LaternaError:
    """Return the error for a configuration that cannot be had.

    Raises LaternaError as `require_named` does.
    """
    require_named(source)
    reason = one_line(error, 200)
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
    """Load a model in float32, and require that every weight was there.

    transformers fills a missing weight with random numbers and a warning; here it is an error.
    `weights` were read from the source already, and need a `config` beside them; other `options`
    go to `from_pretrained` too. Raises LaternaError when the source is missing or lacks weights.
    """
    if weights is None and "gguf_file" not in options and _only_pickled(source):
        weights = unwrapped(sharded_tensors_of(source))

    def read() -> tuple[Any, dict[str, Any]]:
        chosen = model_class
        if weights is not None:
            config = options.get("config") or AutoConfig.from_pretrained(source)
            options["config"] = config
            if chosen is AutoModelForCausalLM:  # which needs a place to read from
                chosen = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        model, info = chosen.from_pretrained(
            source if weights is None else None,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            state_dict=weights,
            ignore_mismatched_sizes=True,  # they are told below, by name
            **options,
        )
        return model, info

    model, info = read_part(read, source=source, what=what)
    if info["missing_keys"] and weights is None and any(map(_wrapped, info["unexpected_keys"])):
        found = unwrapped(sharded_tensors_of(source))
        return load_weights(model_class, source, what=what, weights=found, **options)
    _require_all(info, source, what)
    return model.eval()


def _require_all(info: dict[str, Any], source: str, what: str) -> None:
    other = sorted(info["mismatched_keys"])
    if any(0 in shape for _, shape, _ in other):
        raise LaternaError(f"{source}: {_EMPTY.format(name=other[0][0])}")
    shapes = [f"{name} of {tuple(had)} for {tuple(needed)}" for name, had, needed in other]
    lacking = sorted(info["missing_keys"]) + shapes
    if lacking:
        strange = sorted(info["unexpected_keys"])
        also = f" (it holds {len(strange)} of other names, as {strange[0]})" if strange else ""
        raise LaternaError(
            f"{source}: {len(lacking)} weights of the {what} are missing or of another shape, "
            f"the first is {lacking[0]}{also}; the files do not belong together, fetch them again"
        )


def _wrapped(name: str) -> bool:
    return _WRAPPERS.search(name) is not None


def unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by the names they have in their model, whatever was around it in training.

    Raises LaternaError for a model that still has its adapters beside its weights.
    """
    for name in weights:
        if LORA_MARK in name:
            raise LaternaError(
                f"{name}: adapters stand beside the weights; merge them first (in peft, "
                "`merge_and_unload`), or give the base and the adapters in folders of their own"
            )
    return {bare(name): weight for name, weight in weights.items()}


def bare(name: str, wrappers: re.Pattern[str] = _WRAPPERS) -> str:
    """Return a weight's name without what training programs put around it, in any order."""
    while (shorter := wrappers.sub("", name)) != name:
        name = shorter
    return name


def adapters_unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return adapters' weights by peft's own names, which begin with `base_model.model.`."""
    return {bare(name, _AROUND_PEFT): weight for name, weight in weights.items()}


def _only_pickled(source: str) -> bool:
    """Say whether the weights are read here: pickles, or shards without the index of them."""
    there = [any(file_of(source, name) is not None for name in pair) for pair in INDEXES.items()]
    return there == [False, True] or (not any(there) and bool(_unlisted(source)))


def sharded_tensors_of(source: str) -> dict[str, Tensor]:
    """Read a whole checkpoint, sharded or not, safetensors first; nothing when none is there.

    Raises LaternaError for a missing or damaged file, and for a pickle of more than tensors.
    """
    for index, single in INDEXES.items():
        if (path := file_of(source, single)) is not None:
            return tensors_in(path)
        if file_of(source, index) is None:
            continue
        shards = sorted(set(_places(source, index).values()))
        return _joined(source, shards, f", though {index} names it")
    return _joined(source, _unlisted(source), ", though the others' names count it")


def _joined(source: str, shards: Sequence[str], named: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        path = file_of(source, shard)
        if path is None:
            raise LaternaError(f"{source}: {shard} is missing{named}")
        tensors.update(tensors_in(path))
    return tensors


def _unlisted(source: str) -> list[str]:
    folder = Path(source)
    return unlisted_shards(folder) if folder.is_dir() else []


def _places(source: str, index: str) -> dict[str, str]:
    """Return the file of each tensor, by an index; raises LaternaError for one that is none."""
    found = json_of(source, index).get("weight_map")
    places = found if isinstance(found, dict) else {}
    files = places.values()
    if not files or not all(isinstance(file, str) and Path(file).name == file for file in files):
        raise LaternaError(
            f"{source}: {index} lists no weights by the files beside it (its `weight_map`); fetch "
            "it again"
        )
    return places


def file_of(source: str, name: str) -> Path | None:
    """Return where a folder's or hub id's file lies; None where there is none."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    found = read_part(
        lambda: cached_file(
            source,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        ),
        source=source,
        what=name,
    )
    return Path(found) if found else None


def tensors_in(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors, in float32, by the names that stand in it.

    Raises LaternaError for a damaged file, a pickle of more than tensors, a pointer of Git LFS, and
    for the empty tensors that ZeRO's stage 3 leaves.
    """
    for pointer in pointers_in(path):
        raise LaternaError(POINTED.format(path=pointer))
    require_weights(path)
    try:
        safe = path.suffix == ".safetensors"
        found = load_file(path) if safe else torch.load(path, "cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, *_FAULTS) as error:
        # torch's words for a pickle that it refuses tell how to open it all the same.
        refused = isinstance(error, pickle.UnpicklingError)
        reason = "" if refused else ": " + one_line(error, 200)
        what = "is damaged" if safe else "is damaged or holds more than tensors"
        raise LaternaError(f"{path}: not read, because it {what}{reason}") from error
    while isinstance(found, dict):
        inside = next((found[key] for key in _AROUND if isinstance(found.get(key), dict)), None)
        if inside is None:
            break
        found = inside
    if not isinstance(found, dict):
        raise LaternaError(f"{path}: holds no table of tensors")
    for name, weight in found.items():
        if not isinstance(weight, Tensor):
            raise LaternaError(f"{path}: {name} is not a tensor but `{type(weight).__name__}`")
        if not weight.numel():
            raise LaternaError(f"{path}: {_EMPTY.format(name=name)}")
    return {name: weight.to(torch.float32) for name, weight in found.items()}


def read_tensors(source: str, prefixes: tuple[str, ...], *, what: str) -> dict[str, Tensor]:
    """Read the tensors whose names begin with one of `prefixes`, in float32, and no others.

    Of a sharded checkpoint only the shards that hold them are opened, and fetched from the hub.
    Raises LaternaError when the source has no safetensors or a file cannot be read.
    """

    if _only_pickled(source):
        whole = unwrapped(sharded_tensors_of(source))
        return {name: weight for name, weight in whole.items() if name.startswith(prefixes)}

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
        cached_file(source, SAFE_WEIGHTS_INDEX_NAME)
        places = _places(source, SAFE_WEIGHTS_INDEX_NAME)
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


def found_in(source: str, name: str) -> bool:
    """Say whether a folder or hub id holds a file."""
    return file_of(source, name) is not None


def json_of(source: str, name: str) -> dict[str, Any]:
    """Read a JSON object; raises LaternaError when it is missing or damaged."""
    path = file_of(source, name)
    if path is None:
        raise LaternaError(f"{source}: has no {name}")
    for pointer in pointers_in(path):
        raise LaternaError(POINTED.format(path=pointer))
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise LaternaError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(found, dict):
        raise LaternaError(f"{path}: holds no JSON object")
    return found


def tensors_of(source: str, names: Sequence[str]) -> dict[str, Tensor]:
    """Read the first of these files that is there, in float32; nothing when none is.

    Raises LaternaError for a damaged file, and for a pickle of more than tensors.
    """
    for name in names:
        path = file_of(source, name)
        if path is not None:
            return tensors_in(path)
    return {}
