"""GPUs: their memory and how fast they multiply, from their makers' data sheets.

Tensor-core rates are the dense ones (data sheets often print twice as much, "with sparsity"),
with sums in float32. `float32` is the rate without TF32, which torch leaves off unless it is
asked. Names stand for the form that is rented most: SXM for A100, H100 and H200.
"""

from __future__ import annotations

from typing import Literal

from laterna.errors import LaternaError
from laterna.records import Record

Dtype = Literal["float32", "bfloat16"]
"""Number formats with a known peak rate, by torch's names."""
TERA = 10**12
GIB = 2**30


class Gpu(Record):
    """One GPU."""

    memory_gib: float
    """As in its name; the driver shows within 5 % of it, which the plan's headroom covers."""
    bfloat16: float
    """Peak rate of matrix products in bfloat16, in 10¹² FLOPs a second."""
    float32: float
    """The same in float32, without TF32."""
    source: str
    """The document that the figures are from."""

    def peak(self, dtype: Dtype) -> float:
        """Return the peak rate in a number format, in 10¹² FLOPs a second."""
        return {"float32": self.float32, "bfloat16": self.bfloat16}[dtype]


GPUS: dict[str, Gpu] = {
    "A100-40GB": Gpu(
        memory_gib=40, bfloat16=312, float32=19.5, source="NVIDIA A100 data sheet, SXM"
    ),
    "A100-80GB": Gpu(
        memory_gib=80, bfloat16=312, float32=19.5, source="NVIDIA A100 data sheet, SXM"
    ),
    "H100-80GB": Gpu(
        memory_gib=80, bfloat16=989.5, float32=67, source="NVIDIA H100 data sheet, SXM"
    ),
    "H100-PCIE": Gpu(
        memory_gib=80, bfloat16=756.5, float32=51, source="NVIDIA H100 data sheet, PCIe"
    ),
    "H200": Gpu(memory_gib=141, bfloat16=989.5, float32=67, source="NVIDIA H200 data sheet, SXM"),
    "L4": Gpu(memory_gib=24, bfloat16=121, float32=30.3, source="NVIDIA L4 data sheet"),
    "L40S": Gpu(memory_gib=48, bfloat16=362, float32=91.6, source="NVIDIA L40S data sheet"),
    "RTX-3090": Gpu(
        memory_gib=24, bfloat16=71, float32=35.6, source="NVIDIA Ampere GA102 white paper"
    ),
    "RTX-4090": Gpu(
        memory_gib=24, bfloat16=165.2, float32=82.6, source="NVIDIA Ada white paper, appendix A"
    ),
    "RTX-A6000": Gpu(
        memory_gib=48, bfloat16=154.8, float32=38.7, source="NVIDIA RTX A6000 data sheet"
    ),
}


def gpu_named(name: str) -> Gpu:
    """Return a GPU by its exact name; raises LaternaError for one that is not in `GPUS`."""
    if name not in GPUS:
        raise LaternaError(f"--gpu {name}: not known; known are: {', '.join(GPUS)}")
    return GPUS[name]
