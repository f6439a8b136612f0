"""How many tokens a language model can read at once, by its configuration."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from laterna.model.language.causal import positions_of


@pytest.mark.parametrize(
    ("kind", "said", "positions"),
    [
        ("llama", {"max_position_embeddings": 2048}, 2048),
        ("gpt2", {"n_positions": 300}, 300),
        ("mpt", {"max_seq_len": 500}, 500),
        ("bloom", {}, None),  # its positions are distances
        ("t5", {}, None),
        (  # Vicuna-7B-v1.5-16k
            "llama",
            {
                "max_position_embeddings": 4096,
                "max_sequence_length": 16384,
                "rope_scaling": {"type": "linear", "factor": 4.0},
            },
            16384,
        ),
        (  # DeepSeek-Coder-6.7B, which states the number after stretching
            "llama",
            {
                "max_position_embeddings": 16384,
                "rope_scaling": {"type": "linear", "factor": 4.0},
            },
            16384,
        ),
        (
            "llama",
            {"max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            8192,
        ),
        (  # Qwen2.5 as its card says to stretch it
            "qwen2",
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                },
            },
            131072,
        ),
        (
            "llama",
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 32.0,
                    "original_max_position_embeddings": 4096,
                },
            },
            131072,
        ),
        (  # Llama 3.1
            "llama",
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            },
            131072,
        ),
        ("gemma3_text", {"max_position_embeddings": 131072}, 131072),
    ],
)
def test_positions(kind: str, said: dict[str, Any], positions: int | None) -> None:
    assert positions_of(AutoConfig.for_model(kind, **said)) == positions
