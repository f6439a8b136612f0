"""What one check makes of one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from laterna.records import Finding


class Outcome(NamedTuple):
    """Findings, and how many claims could and could not be held against the proxy."""

    findings: tuple[Finding, ...] = ()
    checked: int = 0
    unchecked: int = 0


def total(outcomes: Iterable[Outcome]) -> Outcome:
    """Return several outcomes as one."""
    many = list(outcomes)
    return Outcome(
        findings=tuple(finding for one in many for finding in one.findings),
        checked=sum(one.checked for one in many),
        unchecked=sum(one.unchecked for one in many),
    )
