"""Writing one GGUF file: tensors in their precision, and the file closed whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILE_TYPES = {torch.float32: 0, torch.float16: 1}
"""`general.file_type`: what most of the tensors are."""


@contextmanager
def gguf_writer(path: Path, architecture: str, dtype: torch.dtype) -> Iterator[Any]:
    """Yield a writer of the `gguf` package; the file is written when the block succeeds."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    writer.add_uint32("general.file_type", FILE_TYPES[dtype])
    try:
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def add_tensor(writer: Any, name: str, weight: Tensor, dtype: torch.dtype) -> None:
    """Add a tensor: matrices in the precision asked for, vectors in float32."""
    kept = dtype if weight.ndim > 1 else torch.float32
    writer.add_tensor(name, weight.detach().to("cpu", kept).contiguous().numpy())
