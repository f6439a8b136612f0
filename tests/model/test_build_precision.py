"""Which dtype is taken on which CPU; nothing is timed."""

from __future__ import annotations

import pytest
import torch

from laterna.model import build
from laterna.model.build import cpu_dtype, fast_dtype, slow_half_line

HASWELL = {"architecture": "x86_64", "avx2": True, "avx512_f": False, "avx512_bf16": False}
SKYLAKE = HASWELL | {"avx512_f": True}
ZEN_4 = SKYLAKE | {"avx512_bf16": True}
SAPPHIRE_RAPIDS = ZEN_4 | {"amx_bf16": True}
GRAVITON_2 = {"architecture": "aarch64", "neon": True, "bf16": False}
GRAVITON_3 = GRAVITON_2 | {"bf16": True, "sve_bf16": True}


@pytest.mark.parametrize(
    ("level", "has", "limit", "expected"),
    [
        ("AVX2", HASWELL, "", torch.float32),
        ("AVX512", SKYLAKE, "", torch.float32),
        ("AVX512", ZEN_4, "", torch.bfloat16),
        ("AVX512", SAPPHIRE_RAPIDS, "DEFAULT", torch.bfloat16),
        ("AVX512", ZEN_4, "AVX512_CORE_BF16", torch.bfloat16),
        # told to do without by ATEN_CPU_CAPABILITY, by ONEDNN_MAX_CPU_ISA, by both
        ("AVX2", ZEN_4, "", torch.float32),
        ("DEFAULT", ZEN_4, "", torch.float32),
        ("AVX512", ZEN_4, "AVX2", torch.float32),
        ("AVX512", SAPPHIRE_RAPIDS, "avx512_core_vnni", torch.float32),
        ("AVX2", ZEN_4, "AVX2", torch.float32),
        ("DEFAULT", GRAVITON_2, "", torch.float32),
        ("DEFAULT", GRAVITON_3, "", torch.bfloat16),
        ("SVE256", GRAVITON_3, "", torch.bfloat16),
        # an older torch tells nothing
        ("AVX512", {}, "", torch.float32),
    ],
)
def test_the_dtype_of_a_cpu(
    level: str, has: dict[str, object], limit: str, expected: torch.dtype
) -> None:
    assert cpu_dtype(level, has, limit) is expected


def test_accelerators_are_fast_in_bfloat16() -> None:
    assert fast_dtype(torch.device("cuda")) is torch.bfloat16


def test_a_line_says_what_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(build, "_cpu_dtype", lambda: torch.float32)
    level = torch.backends.cpu.get_cpu_capability()
    said = (
        f"this CPU ({level}) has no fast bfloat16: bf16 and muon of the recipe compute in float32"
    )
    assert slow_half_line(cpu, "bf16", "muon") == said
    assert slow_half_line(cpu, "muon").endswith("muon of the recipe computes in float32")
    assert slow_half_line(cpu) == ""
    assert slow_half_line(torch.device("cuda"), "bf16") == ""
    monkeypatch.setattr(build, "_cpu_dtype", lambda: torch.bfloat16)
    assert slow_half_line(cpu, "bf16") == ""
