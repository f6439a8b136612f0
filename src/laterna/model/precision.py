"""Which numbers a machine multiplies fast: bfloat16 where it has instructions for it, or float32.

Without them a matrix product in bfloat16 is converted number by number, and takes many times as
long as one in float32.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache

import torch

INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16")
"""Of `torch.cpu.get_capabilities`: what multiplies bfloat16; the last is ARM's name."""
WIDE = "AVX512"
"""What torch's own kernels must use on x86 for these; `ATEN_CPU_CAPABILITY` can take it away."""
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that keep oneDNN, which computes torch's products, from instructions."""
TOO_LOW = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"})
"""Their values below bfloat16."""


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device computes fast in it, else float32."""
    return torch.bfloat16 if device.type != "cpu" else _cpu_dtype()


def cpu_dtype(level: str, has: Mapping[str, object], limit: str = "") -> torch.dtype:
    """Return a CPU's dtype: `level` is what torch's kernels use, `has` what the CPU has, `limit`
    what oneDNN is kept to, as the environment says.
    """
    x86 = has.get("architecture") == "x86_64"
    limited = x86 and (not level.startswith(WIDE) or limit.upper() in TOO_LOW)
    fast = any(has.get(name) for name in INSTRUCTIONS) and not limited
    return torch.bfloat16 if fast else torch.float32


def slow_half_line(device: torch.device, *what: str) -> str:
    """Say that `what` computes in float32 here, or nothing where it does not."""
    if not what or fast_dtype(device) is torch.bfloat16:
        return ""
    level = torch.backends.cpu.get_cpu_capability()
    return (
        f"this CPU ({level}) has no fast bfloat16: {' and '.join(what)} of the recipe "
        f"compute{'s' if len(what) == 1 else ''} in float32"
    )


@lru_cache
def _cpu_dtype() -> torch.dtype:
    read = getattr(torch.cpu, "get_capabilities", dict)  # torch 2.10 and older do not tell
    limit = next((os.environ[name] for name in LIMITS if os.environ.get(name)), "")
    return cpu_dtype(torch.backends.cpu.get_cpu_capability(), read(), limit)
