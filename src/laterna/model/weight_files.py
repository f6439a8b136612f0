"""What files of weights are called, and what else may stand in their place.

Weights are safetensors, or pickles (`.bin`) where there are no others; whole, or in shards
`NAME-00001-of-00002` with an index beside them, which may be missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from laterna.errors import LaternaError
from laterna.files import some

INDEXES = {
    SAFE_WEIGHTS_INDEX_NAME: SAFE_WEIGHTS_NAME,
    "pytorch_model.bin.index.json": "pytorch_model.bin",
}
"""Index of a sharded checkpoint, and the file that stands there when it is not sharded."""
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<of>\d{5})(?P<end>\.bin|\.safetensors)")
_OTHERS = ("*.pt", "*.pth", "*.ckpt", "*.gguf", "*.distcp", "*.bin", "*.safetensors", "*.h5")
"""Names that weights have elsewhere."""
POINTER = b"version https://git-lfs"
"""What a file begins with that Git LFS put into the place of a large one."""
POINTED = "{path}: a pointer of Git LFS, not the file: fetch it with `git lfs pull`"
_NO_WEIGHTS = {
    b"{": "JSON", b"[": "JSON", b"<": "a web page or XML", b"GGUF": "llama.cpp's GGUF",
    b"\x89PNG": "an image", b"\xff\xd8\xff": "an image", b"%PDF": "a PDF",
}  # fmt: skip
"""What files begin with that are given for weights and are none."""


def pointers_in(place: Path) -> Iterator[Path]:
    """Yield the files, of a folder or this one, that are pointers of Git LFS."""
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(POINTER):
            yield path


def other_weights(folder: Path) -> str:
    """Return what a folder has in the place of weights that are read, for people; "" where it has
    some.
    """
    if any((folder / name).is_file() for pair in INDEXES.items() for name in pair):
        return ""
    if (folder / "zero_to_fp32.py").is_file():
        return (
            "its weights are DeepSpeed's shards: run the zero_to_fp32.py that lies beside them, "
            "which writes pytorch_model.bin"
        )
    found = sorted({path.name for pattern in _OTHERS for path in folder.glob(pattern)})
    known = " or ".join(INDEXES.values())
    here = f"; it holds {some(found)}" if found else ""
    return f"there is no {known}, whole or in shards{here}"


def unlisted_shards(folder: Path) -> list[str]:
    """Return the names of all shards of a folder that has no index of them."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    kinds = {(one["stem"], one["of"], one["end"]) for one in map(_SHARD.fullmatch, names) if one}
    for stem, of, end in sorted(kinds, key=lambda kind: kind[2] != ".safetensors"):
        if f"{stem}{end}" in INDEXES.values():
            return [f"{stem}-{number:05}-of-{of}{end}" for number in range(1, int(of) + 1)]
    return []


def require_weights(path: Path) -> None:
    """Raise LaternaError for a file that begins as no weights do, and say what it is."""
    with path.open("rb") as opened:
        start = opened.read(8)
    if not start:
        raise LaternaError(f"{path}: holds no weights: it is empty; fetch it again")
    if 0 in start:  # a safetensors file begins with a length, of which most is zero
        return
    for begin, told in _NO_WEIGHTS.items():
        if start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(begin):
            raise LaternaError(f"{path}: holds no weights: it is {told}")


def require_finite(module: nn.Module, source: str) -> None:
    """Raise LaternaError for a model of a foreign source with numbers that are none, by name.

    A tensor's sum tells it, in 1.3 CPU seconds for 7 billion weights. Buffers may hold infinities,
    as masks do.
    """
    for name, weight in module.named_parameters():
        if weight.is_floating_point() and not math.isfinite(float(weight.detach().sum())):
            _require_numbers(name, weight.detach(), source)
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point() and math.isnan(float(buffer.sum())):
            _require_numbers(name, buffer, source)


def _require_numbers(name: str, weight: Tensor, source: str) -> None:
    bad = weight.numel() - int(weight.isfinite().sum())  # 0: the sum alone was too large
    if bad:
        raise LaternaError(
            f"{source}: {name} holds {bad} numbers of {weight.numel()} that are not finite (NaN or "
            "infinite), as a damaged file or a training that diverged leaves them; fetch the file "
            "again, or take an earlier checkpoint"
        )
