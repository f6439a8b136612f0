"""The judge: claims from a model, decided by boxes; its failures are counted and never verdicts."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from laterna.cli import main
from laterna.errors import LaternaError
from laterna.records import Message, Reply, Scene, Verdict
from laterna.synthesis.checks.evidence import gather_evidence
from laterna.synthesis.checks.files import CheckedReply, check_files
from laterna.synthesis.checks.judge import (
    Claim,
    Claims,
    Judge,
    decide,
    judge_endpoint,
    judge_messages,
    judging_usage,
    read_claims,
)
from laterna.synthesis.run import dry_run, run_job
from laterna.synthesis.settings import Endpoint, Job, Spending, read_parameters
from laterna.synthesis.teachers.base import NoAnswer

SAID = "A dog and a horse are here. The dog is on the right."


def claim(kind: str, subject: str, value: str = "", **more: str) -> Claim:
    fields = {"sentence": "The dog is on the right.", "object": "", "mood": "seen"} | more
    made = {"kind": kind, "subject": subject, "value": value} | fields
    return msgspec.convert(made, Claim)


class Stub:
    """A teacher that says the same whatever it is asked, and keeps what it was asked."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked: list[Sequence[Message]] = []

    async def complete(self, messages: Sequence[Message]) -> Reply:
        self.asked.append(messages)
        if self.text == "down":
            raise NoAnswer("timeout", "")
        return Reply(text=self.text, finish_reason="stop")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (claim("exists", "dog"), None),
        (claim("exists", "other", "horse"), "absent object"),
        (claim("exists", "other", "tree"), "undecided"),
        (claim("absent", "other", "horse"), None),
        (claim("absent", "dog"), "undecided"),
        (claim("count", "car", "2"), None),
        (claim("count", "car", "3"), "wrong count"),
        (claim("count", "car", "three"), "wrong count"),
        (claim("count", "car", "1"), "undecided"),
        (claim("count", "car", "some"), "undecided"),
        (claim("side", "dog", "left"), None),
        (claim("side", "dog", "right"), "wrong position"),
        (claim("side", "dog", "left", object="bench"), None),
        (claim("side", "dog", "right", object="bench"), "wrong position"),
        (claim("side", "dog", "right", object="dog"), "undecided"),
        (claim("side", "dog", "right", object="other"), "undecided"),
        (claim("vertical", "clock", "above", object="bench"), None),
        (claim("vertical", "clock", "below", object="bench"), "wrong position"),
        (claim("vertical", "clock", "behind", object="bench"), "undecided"),
        (claim("vertical", "clock", "bottom"), "wrong position"),
        (claim("place", "clock", "top right"), None),
        (claim("place", "clock", "Top left"), "wrong position"),
        (claim("place", "clock", "on the wall"), "undecided"),
        (claim("attribute", "dog", "brown"), None),
        (claim("attribute", "dog", "white"), "wrong colour"),
        (claim("attribute", "dog", "sleepy"), "undecided"),
        (claim("attribute", "bench", "green"), "undecided"),
        (claim("action", "dog", "sleeps"), "undecided"),
        (claim("exists", "other", "horse", mood="likeness"), "unclaimed"),
        (claim("count", "car", "3", mood="purpose"), "unclaimed"),
        (claim("exists", "horse"), "it names a category that was not offered"),
        (claim("side", "dog", "left", object="cat"), "it names a category that was not offered"),
        (claim("exists", "dog", sentence="A dog."), "it quotes what the reply does not say"),
        (claim("exists", "dog", sentence=" "), "it quotes what the reply does not say"),
    ],
)
def test_boxes_and_captions_decide_claims(street: Scene, made: Claim, reason: str | None) -> None:
    captions = (*street.captions, "A brown dog.")
    evidence = gather_evidence(msgspec.structs.replace(street, captions=captions))
    found = decide([made], evidence, Reply(text=SAID, finish_reason="stop"))
    outcome = (found.decided, found.undecided, found.unclaimed, len(found.dropped))
    if reason in (None, "absent object", "wrong count", "wrong position", "wrong colour"):
        assert outcome == (1, 0, 0, 0)
        assert [one.reason for one in found.findings] == ([reason] if reason else [])
    else:
        expected = {"undecided": (0, 1, 0, 0), "unclaimed": (0, 0, 1, 0)}
        assert outcome == expected.get(reason, (0, 0, 0, 1))
        assert found.dropped in ((), (reason,))
        assert found.findings == ()


def test_the_request_offers_the_categories_of_the_image(street: Scene) -> None:
    system, asked = judge_messages(gather_evidence(street), Reply(text=SAID, finish_reason="stop"))
    held = "bench, bottle, car, clock, cup, dog, person, other"
    assert asked.content == f"Categories: {held}\n\nText:\n{SAID}"
    assert "You do not judge" in system.content


def test_the_endpoint_is_asked_for_json_of_the_claims_form() -> None:
    endpoint = judge_endpoint(Endpoint(model="teacher", parameters=("seed=1",)), "judge")
    sent = read_parameters(endpoint.parameters)
    form = msgspec.json.decode(sent["response_format"])
    schema = form["json_schema"]["schema"]
    assert (endpoint.model, sent["seed"], form["type"]) == (
        "judge",
        msgspec.Raw(b"1"),
        "json_schema",
    )
    assert schema["type"] == "object", "the root must be no reference"
    claim_form = schema["$defs"]["Claim"]
    assert sorted(claim_form["required"]) == sorted(claim_form["properties"])
    assert claim_form["additionalProperties"] is False


def test_claims_are_read_with_text_around_them() -> None:
    made = Claims([claim("exists", "dog")])
    text = msgspec.json.encode(made).decode()
    assert read_claims(f"```json\n{text}\n```") == made.claims


@pytest.mark.parametrize(
    "text",
    ["", "Yes, all true.", "{", '{"claims": [{"kind": "exists"}]}', '{"claims": 3}', "down"],
)
def test_a_judges_failure_is_counted_and_is_no_verdict(street: Scene, text: str) -> None:
    judge = Judge(Stub(text))
    verdict = Verdict(checked=3, unchecked=4)
    reply = Reply(text=SAID, finish_reason="stop")
    assert asyncio.run(judge.add_to(verdict, street, reply)) == verdict
    failure = "timeout" if text == "down" else "no claims in the form asked for"
    assert judge.counts == {f"failed: {failure}": 1}


def test_a_judgement_goes_into_the_verdict_and_rejected_replies_are_not_judged(
    street: Scene,
) -> None:
    claims = [
        claim("exists", "other", "horse", sentence="A dog and a horse are here."),
        claim("exists", "dog", sentence="Not said."),
        claim("action", "dog", "sleeps"),
    ]
    stub = Stub(msgspec.json.encode(Claims(claims)).decode())
    judge = Judge(stub)
    reply = Reply(text=SAID, finish_reason="stop")
    verdict = asyncio.run(judge.add_to(Verdict(checked=9), street, reply))
    assert [found.sentence for found in verdict.findings] == ["A dog and a horse are here."]
    assert (verdict.checked, verdict.unchecked) == (1, 1)
    assert judge.counts == {
        "replies judged": 1,
        "claims dropped: it quotes what the reply does not say": 1,
    }
    assert asyncio.run(judge.add_to(verdict, street, reply)) == verdict
    assert len(stub.asked) == 1


def replies_file(folder: Path) -> Path:
    path = folder / "replies.jsonl"
    moods = "calm", "quiet", "gentle", "open", "vivid"
    rows = [
        {"id": str(number), "kind": "detail", "text": f"The mood of it all is {moods[number]}."}
        for number in range(5)
    ]
    path.write_bytes(b"\n".join(msgspec.json.encode(row) for row in rows))
    return path


def test_check_asks_the_judge_through_the_ledger_once_a_reply(
    start_stub: Callable[..., Any], some_contexts: Path, tmp_path: Path, capsys: Any
) -> None:
    stub = start_stub()
    out = tmp_path / "out.jsonl"
    paths = ["--contexts", some_contexts, "--replies", replies_file(tmp_path), "--out", out]
    command = ["check", *map(str, paths), "--judge", "small", "--base-url", stub.url]
    assert main(command) == 0
    lines = [msgspec.json.decode(line, type=CheckedReply) for line in out.read_bytes().splitlines()]
    # the stub sees a horse in texts of an odd length: those with "calm", "gentle" and "open"
    assert [line.accepted for line in lines] == [False, True, False, False, True]
    assert lines[0].findings[0].reason == "absent object"
    assert [line.judgement and line.judgement.unclaimed for line in lines] == [0, 1, 0, 0, 1]
    assert "3 rejected (3 absent object)" in (said := capsys.readouterr().out)
    assert "judge: 5 replies judged; made" in said
    first = out.read_bytes()
    stub.close()
    assert main([*command, "--judge-by", "replay"]) == 0, "a ledger answers without an endpoint"
    assert out.read_bytes() == first


def test_synthesis_rejects_what_the_judge_finds(
    start_stub: Callable[..., Any], some_contexts: Path, tmp_path: Path
) -> None:
    stub = start_stub()
    job = Job(
        annotations=some_contexts,
        teacher="openai",
        kinds=("detail",),
        judge="small",
        endpoint=Endpoint(model="m", base_url=stub.url),
        spending=Spending(input_price=1.0, output_price=1.0),
    )
    summary = run_job(job, tmp_path / "out.json")
    assert summary.calls is not None
    assert summary.calls.judged == {"replies judged": 24}
    assert summary.calls.asked == 48 == stub.stats()["paid"]
    assert summary.rejected.keys() == {"absent object"}
    assert summary.records["detail"] + summary.rejected["absent object"] == 24
    assert "judge: 24 replies judged" in summary.line()
    assert summary.calls.spent is not None and summary.calls.spent > 0
    again = msgspec.structs.replace(
        job, teacher="replay", ledger=shutil.copy(tmp_path / "out.ledger.sqlite", tmp_path / "l")
    )
    replayed = run_job(again, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes().count(b'"id"') == summary.records["detail"]
    assert replayed.rejected == summary.rejected


def test_a_judge_needs_a_teacher_that_is_asked(some_contexts: Path, tmp_path: Path) -> None:
    job = Job(annotations=some_contexts, judge="small")
    with pytest.raises(LaternaError, match="openai, batch, replay are, not as 'scribe'"):
        run_job(job, tmp_path / "out.json")


def test_the_judges_budget_is_kept(
    start_stub: Callable[..., Any], some_contexts: Path, tmp_path: Path
) -> None:
    stub = start_stub()
    job = Job(
        annotations=some_contexts,
        teacher="openai",
        judge="small",
        endpoint=Endpoint(model="m", base_url=stub.url, concurrency=1),
        spending=Spending(input_price=1000.0, output_price=1000.0, budget=0.5),
        ledger=tmp_path / "l.sqlite",
    )
    summary = check_files(some_contexts, replies_file(tmp_path), tmp_path / "o.jsonl", job)
    assert summary.replies == 5
    assert summary.judged["failed: not asked: the budget is spent"] >= 1
    assert summary.judged["replies judged"] == stub.stats()["paid"] >= 1
    assert sum(summary.judged.values()) == 5


def test_a_dry_run_tells_what_the_judge_would_cost(some_contexts: Path, tmp_path: Path) -> None:
    job = Job(
        annotations=some_contexts,
        teacher="openai",
        kinds=("detail",),
        judge="small",
        endpoint=Endpoint(model="m"),
        spending=Spending(input_price=1.0, output_price=2.0),
    )
    said = dry_run(job, tmp_path / "out.json")
    used = judging_usage(24, 24 * 150)
    assert used.completion_tokens == 7920, "2.2 tokens for each of a reply"
    cost = (used.prompt_tokens + 2 * used.completion_tokens) / 1e6
    assert said.endswith(
        f"; the judge on top: 24 requests, about {used.prompt_tokens:,} tokens to read and 7,920 "
        f"to write, ${cost:,.2f}"
    )
