"""Holds one reply against what the teacher was shown."""

from __future__ import annotations

from laterna.records import Finding, Kind, Reply, Scene, Verdict
from laterna.synthesis.checks.claims import check_colours, check_counts, check_objects
from laterna.synthesis.checks.evidence import Evidence, gather_evidence
from laterna.synthesis.checks.form import (
    check_answered,
    check_declined,
    check_finish,
    check_giveaway,
    check_leaks,
    read_exchanges,
)
from laterna.synthesis.checks.positions import check_positions
from laterna.synthesis.checks.sentences import (
    Sentence,
    read_sentence,
    read_statements,
    sentences_of,
)
from laterna.synthesis.checks.verdicts import Outcome, total
from laterna.synthesis.parsing import Exchange

_CLAIMS = (check_objects, check_counts, check_colours, check_positions)


def check(scene: Scene, reply: Reply, kind: Kind) -> Verdict:
    """Return what is wrong with a teacher's reply about a scene, and how much was checked.

    `kind` is what was asked for; it settles the form and which rules hold. Each finding keeps
    the offending sentence. Near-duplicates are a matter of many replies: `NearDuplicates`.
    """
    cut = check_finish(reply)
    exchanges = read_exchanges(reply, kind)
    if isinstance(exchanges, Finding):
        apology = check_answered(reply.text, kind)
        return Verdict(findings=(*cut, *(apology or (exchanges,))))
    evidence = gather_evidence(scene)
    found = total(_check_exchange(exchange, evidence, kind) for exchange in exchanges)
    return Verdict(
        findings=tuple(dict.fromkeys((*cut, *found.findings))),
        checked=found.checked,
        unchecked=found.unchecked,
    )


def _check_exchange(exchange: Exchange, evidence: Evidence, kind: Kind) -> Outcome:
    findings = [*check_answered(exchange.answer, kind), *check_declined(exchange.answer, kind)]
    for sentence in (*sentences_of(exchange.question), *sentences_of(exchange.answer)):
        findings += check_leaks(sentence, evidence.captions)
    if kind == "reasoning":
        asked = read_sentence(exchange.question, evidence.words, kind)
        findings += check_giveaway(asked, evidence)
    statements = read_statements(exchange, evidence.words, kind)
    outcomes = [_check_sentence(sentence, evidence) for sentence in statements.sentences]
    outcomes += [check_objects(sentence, evidence) for sentence in statements.presumed]
    return total((Outcome(tuple(findings)), *outcomes))


def _check_sentence(sentence: Sentence, evidence: Evidence) -> Outcome:
    found = total(check_one(sentence, evidence) for check_one in _CLAIMS)
    if not found.checked and not found.unchecked:
        return Outcome(unchecked=1)  # its nouns may be there, but what it says is not decided
    return found
