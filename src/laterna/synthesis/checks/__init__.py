"""The checks of a teacher's reply against what the teacher was shown.

`checker` (open first: all of them on one reply) · `reasons` (why a reply is rejected) · `form`
(whole, in its form, an answer) · `leaks` (what it lets out) · `sentences`, `polarity`, `numbers`
(what is said, and how it is meant) · `evidence` (what boxes and captions hold) · `objects`,
`counts`, `colours`, `positions` (one held against the other) · `judge`, `judging` (claims listed by
a language model, decided by boxes and captions) · `duplicates` · `repair` (asking again) · `files`.
"""

from __future__ import annotations

from laterna.synthesis.checks.checker import check
from laterna.synthesis.checks.duplicates import NearDuplicates
from laterna.synthesis.checks.reasons import REASONS
from laterna.synthesis.checks.repair import repair_message

__all__ = ["REASONS", "NearDuplicates", "check", "repair_message"]
