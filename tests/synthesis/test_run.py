from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from laterna.errors import LaternaError
from laterna.records import Kind, Message, Reply
from laterna.scenes.annotations import read_annotations
from laterna.scenes.vocabulary import CATEGORIES
from laterna.synthesis import run, teachers
from laterna.synthesis.prompts import detail_questions
from laterna.synthesis.proxy import proxy_digest
from laterna.synthesis.run import CAPTION_QUESTION, synthesize
from laterna.synthesis.settings import Endpoint, Job
from laterna.synthesis.teachers.base import NoAnswer

CONTEXT = {
    "id": 5,
    "image": "five.jpg",
    "captions": ["A red dog and a blue cup.\n"],
    "instances": [
        {"category": "dog", "bbox": [0.1, 0.1, 0.2, 0.2]},
        {"category": "cup", "bbox": [0.8, 0.8, 0.9, 0.9]},
    ],
}
KITE = {
    "id": 6,
    "image": "six.jpg",
    "captions": ["A kite."],
    "instances": [{"category": "kite", "bbox": [0.1, 0.1, 0.2, 0.2]}],
}
"""Gives the first image something to be without."""
SUNNY = {"id": "x", "image": "x.jpg", "captions": ["A sunny day."], "instances": []}
PLURALS = {"person": "people", "mouse": "mice", "knife": "knives", "sheep": "sheep"}
SYNONYMS = {
    "person": "man men woman women boy girl child children baby guy kid lady player skier rider",
    "airplane": "plane jet planes jets",
    "couch": "sofa",
    "dining table": "table desk tables",
    "motorcycle": "motorbike",
    "tv": "television",
    "bicycle": "bike bikes",
    "boat": "boats ship",
    "cell phone": "phone phones",
}
"""The test's own reading of captions, on purpose apart from the package's."""


def write_contexts(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "contexts.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def read(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
    return rows


def test_records_of_one_context(tmp_path: Path) -> None:
    out = tmp_path / "records.json"
    kinds: tuple[Kind, ...] = ("caption", "conversation", "detail", "reasoning")
    summary = synthesize(write_contexts(tmp_path, CONTEXT, KITE), out, kinds=kinds)
    assert summary.records == {"caption": 2, "conversation": 2, "detail": 2, "reasoning": 2}
    assert summary.line() == (
        "2 images -> 2 caption, 2 conversation, 2 detail, 2 reasoning records in " + str(out)
    )
    rows = {row["kind"]: row for row in read(out) if row["image"] == "five.jpg"}
    assert rows["caption"]["conversations"] == [
        {"from": "human", "value": f"<image>\n{CAPTION_QUESTION}"},
        {"from": "gpt", "value": "A red dog and a blue cup."},
    ]
    captions = "A red dog and a blue cup."
    boxes = "\n\ndog: [0.1, 0.1, 0.2, 0.2]\ncup: [0.8, 0.8, 0.9, 0.9]"
    shown = (
        ("conversation", captions, ["caption"]),
        ("detail", captions + boxes, ["caption", "", "box", "box"]),
    )
    for kind, proxy, channels in shown:
        assert rows[kind]["id"] == f"5-{kind}"
        assert rows[kind]["image"] == "five.jpg"
        assert rows[kind]["provenance"] == {
            "teacher": "scribe",
            "proxy_digest": proxy_digest(proxy),
            "channels": channels,
            "ledger_key": None,
        }
    asked = rows["detail"]["conversations"][0]["value"].replace("<image>", "").strip()
    assert asked in detail_questions()


def test_boxes_can_be_shown_to_the_teacher_of_conversations(tmp_path: Path) -> None:
    file, out = write_contexts(tmp_path, CONTEXT, KITE), tmp_path / "records.json"
    synthesize(file, out, kinds=("conversation",), conversation_boxes=True)
    assert "colour" in out.read_text()
    synthesize(file, out, kinds=("conversation",))
    assert "colour" not in out.read_text()


def test_images_without_captions_are_told_by_their_boxes(tmp_path: Path) -> None:
    file = write_contexts(tmp_path, CONTEXT | {"captions": []}, KITE | {"captions": []})
    out = tmp_path / "records.json"
    job = Job(annotations=file, captionless=True)
    summary = run.run_job(job, out)
    assert summary.records == {"conversation": 0, "detail": 2, "reasoning": 2}
    assert {problem.reason for problem in summary.problems} == {"nothing to show the teacher"}
    assert "a dog and a cup" in out.read_text()
    shown = msgspec.structs.replace(job, conversation_boxes=True)
    assert run.run_job(shown, out).records == {"conversation": 2, "detail": 2, "reasoning": 2}
    assert run.dry_run(
        msgspec.structs.replace(job, teacher="openai", endpoint=Endpoint(model="m")), out
    ).startswith("nothing asked; to ask: 4 requests (2 detail, 2 reasoning)")
    with pytest.raises(LaternaError, match=r"no usable image in it \(image without captions\)"):
        run.run_job(msgspec.structs.replace(job, captionless=False), out)


def test_the_image_stands_once_before_or_after_the_first_question(tmp_path: Path) -> None:
    rows = [CONTEXT | {"id": number, "captions": [f"Dog {number}."]} for number in range(30)]
    out = tmp_path / "records.json"
    synthesize(write_contexts(tmp_path, *rows), out, conversation_boxes=True)
    before = 0
    for row in read(out):
        first, *rest = (turn["value"] for turn in row["conversations"])
        assert first.count("<image>") == 1
        assert first.startswith("<image>\n") != first.endswith("\n<image>")
        assert not any("<image>" in text for text in rest)
        before += first.startswith("<image>\n")
    assert 25 < before < 65, "of 90"


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    file = write_contexts(tmp_path, CONTEXT)
    outs = [tmp_path / name for name in "abc"]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        synthesize(file, out, seed=seed)
    assert outs[0].read_bytes() == outs[1].read_bytes() != outs[2].read_bytes()


class _Parrot:
    """A teacher that always says the same."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def complete(self, messages: list[Message]) -> Reply:
        return Reply(text=self.text, finish_reason="stop")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "nothing certain to say"),
        ("No form at all.", "unparsable"),
        ("Question:\nWhat?\n===\nAnswer:\nA kite.", "absent object"),
    ],
)
def test_a_bad_reply_is_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    monkeypatch.setitem(teachers.TEACHERS, "parrot", lambda kind, categories, seed: _Parrot(text))
    out = tmp_path / "records.json"
    kinds: tuple[Kind, ...] = ("caption", "reasoning")
    summary = synthesize(write_contexts(tmp_path, CONTEXT), out, teacher="parrot", kinds=kinds)
    assert [(p.reason, p.where) for p in summary.problems] == [(reason, "image 5, reasoning")]
    assert summary.records == {"caption": 1, "reasoning": 0}
    assert summary.line().endswith(f"; left out: 1 {reason}")
    with pytest.raises(LaternaError, match=r"contexts\.jsonl: no record could be made of it"):
        synthesize(write_contexts(tmp_path, CONTEXT), out, teacher="parrot", kinds=("reasoning",))


def test_a_reason_of_which_nothing_was_said_has_no_colon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mute:
        async def complete(self, messages: Sequence[Message]) -> Reply:
            raise NoAnswer("no answer: batch completed", "")

    monkeypatch.setitem(teachers.TEACHERS, "mute", lambda kind, categories, seed: Mute())
    with pytest.raises(LaternaError) as raised:
        synthesize(
            write_contexts(tmp_path, CONTEXT),
            tmp_path / "o.json",
            teacher="mute",
            kinds=("detail",),
        )
    assert str(raised.value).endswith("made of it (1 no answer: batch completed)")


def test_answers_are_judged_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run together, "One orange the" would name a fruit that is not there."""
    pairs = [("How many dogs?", "One"), ("Its colour?", "Orange"), ("Where?", "The dog is here.")]
    text = "\n===\n".join(f"Question:\n{q}\n===\nAnswer:\n{a}" for q, a in pairs)
    monkeypatch.setitem(teachers.TEACHERS, "parrot", lambda kind, categories, seed: _Parrot(text))
    file = write_contexts(tmp_path, CONTEXT)
    summary = synthesize(file, tmp_path / "o.json", teacher="parrot", kinds=("conversation",))
    assert summary.problems == ()


def test_problems_of_annotations_and_of_replies_are_listed_together(tmp_path: Path) -> None:
    bad_box = CONTEXT | {"instances": [{"category": "dog", "bbox": [0.1, 0.1, 0.1, 0.2]}]}
    file = write_contexts(tmp_path, bad_box, SUNNY)
    summary = synthesize(file, tmp_path / "out.json", kinds=("detail",))
    assert [problem.reason for problem in summary.problems] == [
        "box of zero area",
        "nothing certain to say",
    ]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kinds": ("essay",)}, r"unknown kind of record \['essay'\]; known are: caption, conv"),
        ({"kinds": ()}, "no kind of record asked for; known are: caption, conv"),
        (
            {"teacher": "gpt-5"},
            "unknown teacher 'gpt-5'; known are: scribe, openai, batch, local, replay",
        ),
        ({"seed": -1}, "seed -1: give a whole number of at least 0"),
    ],
)
def test_what_the_user_can_mend_is_said(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    file = write_contexts(tmp_path, CONTEXT)
    with pytest.raises(LaternaError, match=complaint):
        synthesize(file, tmp_path / "out.json", **changes)
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_never_replaced_by_the_records(tmp_path: Path) -> None:
    file = write_contexts(tmp_path, CONTEXT)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("precious")
    with pytest.raises(LaternaError, match="is a folder; name the file to write"):
        synthesize(file, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter").read_text() == "precious"


def names_in(text: str) -> set[str]:
    """COCO's own category names in a text, singular or plural, the longest first."""
    rest, found = text.lower(), set()
    for name in sorted(CATEGORIES, key=len, reverse=True):
        pattern = rf"\b({name}(s|es)?|{PLURALS.get(name, name)})\b"
        if name == "orange":
            pattern = r"\b(oranges|an orange(?= [oi]n| and the|,|\.|$))\b"
        if re.search(pattern, rest):
            found.add(name)
            rest = re.sub(pattern, "#", rest)
    return found


def assert_grounded(annotations: Path, out: Path) -> set[str]:
    """Read answers and sources by the test's own eyes; return all that the answers named."""
    scenes = {scene.image: scene for scene in read_annotations(annotations).scenes}
    named: set[str] = set()
    for row in read(out):
        scene = scenes[row["image"]]
        told = " ".join(scene.captions).lower()
        held = {box.category for box in scene.boxes} | names_in(told)
        words = set(re.findall(r"[a-z]+", told))
        held |= {name for name, others in SYNONYMS.items() if words & set(others.split())}
        for turn in row["conversations"]:
            if turn["from"] == "gpt":
                assert names_in(turn["value"]) <= held, (row["id"], turn["value"])
                named |= names_in(turn["value"])
    return named


@pytest.mark.parametrize(("boxes", "conversations"), [(False, 38), (True, 40)])
def test_no_answer_names_what_the_real_contexts_do_not_hold(
    contexts_file: Path, tmp_path: Path, boxes: bool, conversations: int
) -> None:
    out = tmp_path / "records.json"
    summary = synthesize(contexts_file, out, teacher="scribe", conversation_boxes=boxes)
    assert summary.scenes == 40
    assert summary.records == {"conversation": conversations, "detail": 40, "reasoning": 39}
    left_out = 40 - conversations + 1
    assert [p.reason for p in summary.problems] == ["nothing certain to say"] * left_out
    assert len(assert_grounded(contexts_file, out)) > 25


def test_no_answer_names_what_the_real_coco_folder_does_not_hold(
    coco_mini: Path, tmp_path: Path
) -> None:
    out = tmp_path / "records.json"
    summary = synthesize(coco_mini, out, kinds=run.INSTRUCTION_KINDS, conversation_boxes=True)
    assert summary.scenes == 80
    assert summary.records == {"conversation": 80, "detail": 80, "reasoning": 80}
    assert len(assert_grounded(coco_mini, out)) > 60


def test_a_foreign_answer_to_an_english_question_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is taken off around an answer is counted."""
    spanish = "Un perro y un gato juegan juntos sobre la hierba verde cerca de una valla."
    said = {
        "5": "Sure! Here is the conversation:\n\n**Q:** What is it?\n**A:** A dog and a cup.",
        "6": f"Question:\nWhat is there to be seen, and where is it?\n===\nAnswer:\n{spanish}",
    }

    class Fixed:
        def __init__(self, *_: object) -> None: ...

        async def complete(self, messages: list[Message]) -> Reply:
            name = "5" if "cup" in messages[-1].content else "6"
            return Reply(text=said[name], finish_reason="stop")

    monkeypatch.setitem(teachers.TEACHERS, "scribe", Fixed)  # type: ignore[arg-type]
    out = tmp_path / "o.json"
    summary = synthesize(write_contexts(tmp_path, CONTEXT, KITE), out, kinds=("conversation",))
    assert summary.records == {"conversation": 1}
    assert summary.rejected == {"foreign language": 1}
    assert summary.stripped == {"preambles": 1}
    assert "taken off around answers: 1 preambles" in summary.line()
    (row,) = read(out)
    assert row["conversations"][1]["value"] == "A dog and a cup."
