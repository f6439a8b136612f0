"""The checks on 45 real replies of GPT-4, whole and spoiled, and on scribe's replies."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from laterna.errors import LaternaError
from laterna.records import Kind, Reply, Scene
from laterna.scenes.annotations import read_annotations
from laterna.scenes.survey import survey
from laterna.synthesis.checks import check
from laterna.synthesis.checks.files import CheckedReply, check_files
from laterna.synthesis.parsing import Exchange, write_reply
from laterna.synthesis.prompts import build_messages
from laterna.synthesis.proxy import write_proxy
from laterna.synthesis.teachers.scribe import Scribe

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared" / "data"
KINDS: dict[str, Kind] = {"conv": "conversation", "detail": "detail", "complex": "reasoning"}
REASON = {
    "absent object": "absent object",
    "changed count": "wrong count",
    "swapped side": "wrong position",
    "leak": "source leak",
}
READ_AND_FOUND_RIGHT = {
    ("000000473210", "reasoning"): "given away",
    ("000000441147", "reasoning"): "source leak",
}
"""Rejections that a person read: the question retells a caption; "they are described as
antique". Two more place both of two things wrongly, in words that the patterns do not read."""


class Published(msgspec.Struct):
    id: str
    instruction: str
    output: str
    type: str


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    path = SHARED / "gpt4_contexts.jsonl"
    if not path.exists():
        pytest.skip("the real replies are not beside the repository (../shared/data)")
    return {scene.id: scene for scene in read_annotations(path).scenes}


@pytest.fixture(scope="module")
def published(scenes: dict[str, Scene]) -> list[Published]:
    lines = (SHARED / "gpt4_replies.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Published) for line in lines]


@pytest.fixture(scope="module")
def corruptions() -> ModuleType:
    """The script beside this file; tests are no package."""
    path = Path(__file__).with_name("corruptions.py")
    spec = importlib.util.spec_from_file_location("corruptions", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["corruptions"] = module
    spec.loader.exec_module(module)
    return module


def reply_of(one: Published, answer: str) -> Reply:
    text = answer if one.type == "detail" else write_reply([Exchange(one.instruction, answer)])
    return Reply(text=text, finish_reason="stop")


def test_at_most_a_tenth_of_real_replies_is_rejected_and_rightly(
    scenes: dict[str, Scene], published: list[Published]
) -> None:
    rejected = {}
    for one in published:
        verdict = check(scenes[one.id], reply_of(one, one.output), KINDS[one.type])
        if not verdict.accepted:
            rejected[one.id, KINDS[one.type]] = verdict.findings[0].reason
    assert len(published) == 45
    assert rejected == READ_AND_FOUND_RIGHT


def test_nine_in_ten_faults_that_boxes_decide_are_found(
    scenes: dict[str, Scene], published: list[Published], corruptions: ModuleType
) -> None:
    decidable: Counter[tuple[str, str]] = Counter()
    found: Counter[tuple[str, str]] = Counter()
    for one in published:
        scene = scenes[one.id]
        rng = np.random.default_rng([7, int(one.id), len(one.output)])
        spoiled = corruptions.corruptions(one.output, scene, rng)
        spoiled += corruptions.own_corruptions(one.id, one.type, one.output)
        for fault in spoiled:
            if not fault.decidable:
                continue
            verdict = check(scene, reply_of(one, fault.text), KINDS[one.type])
            decidable[fault.kind, fault.way] += 1
            found[fault.kind, fault.way] += any(
                finding.reason == REASON[fault.kind]
                and (fault.fault in finding.sentence or finding.sentence in fault.fault)
                for finding in verdict.findings
            )
    assert decidable["changed count", "own"] == 19
    assert decidable["swapped side", "own"] == 3
    for kind in REASON:
        share = found[kind, "inserted"] / decidable[kind, "inserted"]
        assert share >= 0.9, (kind, found, decidable)
    assert found["changed count", "own"] >= 18
    assert found["swapped side", "own"] == 3


def test_what_people_say_of_photographs_is_rarely_called_wrong() -> None:
    if not (SHARED / "coco_mini").exists():
        pytest.skip("coco_mini is not beside the repository (../shared/data)")
    wrong, captions = Counter[str](), 0
    for scene in read_annotations(SHARED / "coco_mini").scenes:
        for at, caption in enumerate(scene.captions):
            others = (*scene.captions[:at], *scene.captions[at + 1 :])
            known = msgspec.structs.replace(scene, captions=others)
            verdict = check(known, Reply(text=caption, finish_reason="stop"), "detail")
            wrong.update(finding.reason for finding in verdict.findings)
            captions += 1
    assert captions == 400
    # each names what neither a box nor another caption holds
    assert wrong.keys() <= {"absent object", "wrong colour"}
    assert wrong.total() <= 0.02 * captions


@pytest.mark.parametrize("kind", ["conversation", "detail", "reasoning"])
def test_scribe_is_accepted_on_real_images(kind: Kind) -> None:
    if not (SHARED / "coco_mini").exists():
        pytest.skip("coco_mini is not beside the repository (../shared/data)")
    found = read_annotations(SHARED / "coco_mini").scenes
    scribe = Scribe(kind, survey(found), seed=0)
    rejected, accepted = [], 0
    for scene in found:
        messages = build_messages(kind, write_proxy(scene.captions, scene.boxes))
        reply = asyncio.run(scribe.complete(messages))
        if not reply.text:
            continue
        verdict = check(scene, reply, kind)
        rejected += [(scene.id, finding) for finding in verdict.findings]
        accepted += verdict.accepted
    assert rejected == []
    assert accepted >= 75


def test_files_are_checked_line_by_line(tmp_path: Path) -> None:
    contexts, replies, out = (tmp_path / name for name in ("c.jsonl", "r.jsonl", "out.jsonl"))
    contexts.write_text(
        '{"id": "1", "image": "1.jpg", "captions": ["A dog."],'
        ' "instances": [{"category": "dog", "bbox": [0.1, 0.1, 0.4, 0.9]}]}\n'
    )
    long = "A dog sits on the left " + "and looks around with patience " * 5 + "there."
    lines = [
        {"id": "1", "kind": "detail", "text": long},
        {"id": 1, "kind": "detail", "text": long, "finish_reason": "length"},
        {"id": "1", "image": "x", "instruction": "What is it?", "output": "A cat.", "type": "conv"},
        {"id": "9", "kind": "detail", "text": "A dog."},
    ]
    replies.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    summary = check_files(contexts, replies, out)
    written = [
        msgspec.json.decode(line, type=CheckedReply) for line in out.read_bytes().splitlines()
    ]
    assert [[finding.reason for finding in line.findings] for line in written] == [
        [],
        ["truncated", "near-duplicate"],
        ["absent object"],
    ]
    assert [line.kind for line in written] == ["detail", "detail", "conversation"]
    assert (summary.replies, summary.accepted) == (3, 1)
    assert summary.reasons == {"truncated": 1, "absent object": 1}
    assert summary.problems == (f"{replies} line 4: no context of id 9",)
    assert summary.line().startswith("checked 3 replies: 1 accepted, 2 rejected (1 truncated,")


@pytest.mark.parametrize(
    "line", ["nonsense", '{"id": "1"}', '{"id":"1","instruction":"a","output":"b","type":"poem"}']
)
def test_a_file_in_no_known_form_says_where(tmp_path: Path, line: str) -> None:
    contexts, replies = tmp_path / "c.jsonl", tmp_path / "r.jsonl"
    contexts.write_text('{"id": "1", "image": "1.jpg", "captions": ["A dog."], "instances": []}\n')
    replies.write_text(line + "\n")
    with pytest.raises(LaternaError, match="line 1"):
        check_files(contexts, replies, tmp_path / "out.jsonl")
