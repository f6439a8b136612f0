"""How image tokens meet the language model: the only code that knows.

A fusion is one file in this folder and one line in `FUSIONS`.
"""

from __future__ import annotations

from laterna.model.fusion.prefix import PrefixFusion

FUSIONS = {"prefix": PrefixFusion}
"""Name in recipes to the fusion's class."""

__all__ = ["FUSIONS", "PrefixFusion"]
