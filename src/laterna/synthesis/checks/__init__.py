"""The checks of a teacher's reply against what the teacher was shown.

`checker` (open first: all of them on one reply) · `verdicts` (why a reply is rejected, and asking
again) · `form` (whole, in its form, an answer, nothing let out) · `sentences`, `polarity` (what is
said, and how it is meant) · `evidence` (what boxes and captions hold) · `claims` (objects, counts
and colours held against it), `positions` · `judge` (claims listed by a language model, decided by
boxes and captions) · `duplicates` · `files` · `words.toml` (the words of all of them).
"""

from __future__ import annotations

from laterna.synthesis.checks.checker import check
from laterna.synthesis.checks.duplicates import NearDuplicates
from laterna.synthesis.checks.verdicts import REASONS, repair_message

__all__ = ["REASONS", "NearDuplicates", "check", "repair_message"]
