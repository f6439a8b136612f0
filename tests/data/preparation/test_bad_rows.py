"""One bad row never ends a preparation, and none is lost without a word: read + refused = rows."""

from __future__ import annotations

import base64
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from laterna.data.chat import load_template
from laterna.data.preparation.checking import Checker, Job
from laterna.data.sources import open_source
from laterna.errors import LaternaError
from laterna.recipe import ImagePosition, SourceSettings, StageSettings

Tokenizers = dict[str, PreTrainedTokenizerFast]
OUTSIDE = "image outside the image folder"
UNREAD = "image cannot be read"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("p0.jpg", "p1.jpg", "sub/p2.png"):
        Image.effect_noise((24, 16), 60).convert("RGB").save(folder / name)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "link.jpg").symlink_to("p0.jpg")
    (folder / "lfs.jpg").write_text("version https://git-lfs.github.com/spec/v1\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    return folder


def row_of(name: str, image: object = "p0.jpg", **keys: object) -> dict[str, Any]:
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cup."}]
    return {"id": name, "image": image, "conversations": said} | keys


def source_of(folder: Path, rows: object, **settings: object) -> SourceSettings:
    path = folder / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return SourceSettings(data=str(path), **settings)  # type: ignore[arg-type]


IMAGES: dict[str, str | None] = {
    "p0.jpg": None,
    "./sub/../p0.jpg": None,
    "link.jpg": None,
    "none.jpg": "image missing",
    ".": UNREAD,
    "sub": UNREAD,
    "pipe.jpg": UNREAD,
    "lfs.jpg": UNREAD,
    "zero.jpg": OUTSIDE,
    "../outside.png": OUTSIDE,
    "/etc/passwd": OUTSIDE,
    "n" * 300 + ".jpg": UNREAD,
    "n" * 5000: "image name too long",
    "a\0b": "a reserved character in the text",
    "https://a.org/p.jpg": "image on the web",
}


def test_every_kind_of_image_name_is_read_or_refused_by_reason(
    maker: Any, images: Path, tmp_path: Path
) -> None:
    rows = [row_of(str(number), name) for number, name in enumerate(IMAGES)]
    result = maker.prepare(source_of(tmp_path, rows, images=str(images)))
    assert [sample.images[0] for sample in result.samples] == [
        name for name, reason in IMAGES.items() if reason is None
    ]
    reasons = [reason for reason in IMAGES.values() if reason is not None]
    assert result.dropped == {reason: reasons.count(reason) for reason in result.dropped}
    assert sum(result.dropped.values()) == len(reasons)
    assert "set `allow_outside = true` beside `images`" in result.examples[OUTSIDE]
    assert all(len(message) < 340 for message in result.examples.values())


def test_a_damaged_image_in_a_row_is_named_by_its_record(
    maker: Any, images: Path, tmp_path: Path
) -> None:
    whole = (images / "sub/p2.png").read_bytes()
    embedded = {"good": whole, "cut": whole[:-40], "noise": b"\x89PNG\r\n\x1a\n" + bytes(60)}
    rows = [
        row_of(name, "data:image/png;base64," + base64.b64encode(content).decode())
        for name, content in embedded.items()
    ]
    result = maker.prepare(source_of(tmp_path, rows))
    assert [sample.id for sample in result.samples] == ["good"]
    assert result.dropped == {UNREAD: 2}
    start = "record cut: the image in this row: cannot be read as an image: "
    assert result.examples[UNREAD].startswith(start)
    assert str(tmp_path) not in result.examples[UNREAD]


def test_images_outside_are_read_where_that_is_allowed(
    maker: Any, images: Path, tmp_path: Path
) -> None:
    whole = str(tmp_path / "outside.png")
    rows = [row_of("a", "../outside.png"), row_of("b", whole), row_of("c", "zero.jpg")]
    refused = maker.prepare(source_of(tmp_path, [row_of("d"), *rows], images=str(images)))
    assert refused.dropped == {OUTSIDE: 3}
    stage = StageSettings(data=str(tmp_path / "rows.json"), images=str(images), allow_outside=True)
    result = maker.prepare(*stage.mixture())
    assert [sample.id for sample in result.samples] == ["d", "a", "b"]
    assert result.dropped == {UNREAD: 1}
    assert Path(result.images.find(whole)) == Path(whole)


def test_a_name_is_not_looked_up_where_no_images_are_named(maker: Any, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    whole = str(tmp_path / "outside.png")
    result = maker.prepare(source_of(tmp_path, [row_of("a", whole)]))
    with pytest.raises(LaternaError, match="no `images` say where the images are"):
        result.images.find(whole)


def test_a_turn_that_is_not_to_be_learned_is_read_and_not_learned(
    maker: Any, tmp_path: Path
) -> None:
    said = [
        {"role": "user", "content": "What is 1+1?"},
        {"role": "assistant", "content": "THREE, badly.", "weight": 0},
        {"role": "user", "content": "Try again."},
        {"role": "assistant", "content": "Two.", "weight": 1},
    ]
    never = [said[0], {"role": "assistant", "content": "Two.", "train": False}]
    result = maker.prepare(source_of(tmp_path, [{"messages": said}, {"messages": never}]))
    (sample,) = result.samples
    pairs = list(zip(sample.input_ids, sample.targets, strict=True))
    assert "THREE, badly." in maker.tokenizer.decode(sample.input_ids)
    assert maker.tokenizer.decode([one for one, wanted in pairs if wanted]) == "Two.<|im_end|>"
    assert result.dropped == {"no target tokens": 1}


@pytest.mark.parametrize("position", ["keep", "first"])
def test_plain_teaches_one_image_and_one_answer_and_nothing_else(
    maker: Any, images: Path, tmp_path: Path, position: ImagePosition
) -> None:
    human, gpt = row_of("a")["conversations"]
    hello = [{"from": "human", "value": "Hello."}, {"from": "gpt", "value": "Hi."}]
    rows = [
        row_of("good"),
        row_of("two", conversations=[human, gpt, *hello]),
        row_of("words", None, conversations=hello),
        row_of("system", system="Be brief."),
        row_of("late", conversations=[*hello, human, gpt]),
        row_of(
            "pair", ["p0.jpg", "p1.jpg"], conversations=[human | {"value": "<image><image>"}, gpt]
        ),
    ]
    plain = load_template("plain", maker.tokenizer, position)
    source = source_of(tmp_path, rows, images=str(images))
    result = maker.prepare(source, template=plain)
    assert [sample.id for sample in result.samples] == ["good"]
    assert result.dropped == {"not one image and one answer, as the template plain needs": 5}
    assert len(maker.prepare(source).samples) == len(rows)


JUNK: list[object] = [
    None, True, 0, -1, 1.5, 10**30, float("nan"), float("inf"), "", " ", "\0", "\ud800", "\ufeff",
    "<image>", "<video>", "<img>p0.jpg</img>", "<img>", "<image_00>", "x" * 9000, "[", "[1]", "{}",
    '[{"from": 1}]', "data:image/png;base64,AAAA", "/9j/" + "A" * 80, "https://a.org/b.png", "/",
    "../outside.png", ".", "..", "pipe.jpg", "zero.jpg", "lfs.jpg", "n" * 300, "a/" * 3000,
    "<|im_end|>", "\U000f1a70", [], [[]], [None], {}, {"url": None}, {"bytes": "?"},
    {"bytes": None, "path": "p1.jpg"}, {"<image_00>": "p0.jpg"}, [["a", "b"]],
    [{"role": "assistant"}], {"from": "gpt", "value": "Hi."}, {"type": "image"},
    [{"type": "text", "text": "Hi."}], [{"type": "image_url", "image_url": {}}],
]  # fmt: skip
DEEP = "brackets"
"""Stands for more of them than can be read."""
KEYS = [
    "id", "image", "images", "image_path", "conversations", "messages", "texts", "system", "video",
    "history", "tools", "kind", "provenance", "from", "value", "role", "content", "weight", "train",
    "loss", "type", "text", "url", "question", "answer", "answers", "instruction", "output",
    "turns", "images", "user", "assistant", "tool_calls", "<image_00>",
]  # fmt: skip
SEEDS: dict[str, list[dict[str, Any]]] = {
    "conversations": [row_of("a"), row_of("b", ["p0.jpg", "p1.jpg"]), row_of("c", None)],
    "messages": [
        {
            "images": ["p0.jpg"],
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": "A cup.", "weight": 1},
            ],
        }
    ],
    "texts": [{"images": ["p0.jpg"], "texts": [{"user": "What?", "assistant": "A cup."}]}],
    "vqa": [{"image": "p0.jpg", "question": "What?", "answers": ["A cup.", "A dog."]}],
    "alpaca": [{"instruction": "Add.", "input": "1, 2", "output": "3", "history": [["a", "b"]]}],
    "records": [
        {
            "id": "a",
            "images": ["p0.jpg"],
            "turns": [
                {"role": "user", "text": "<image>"},
                {"role": "assistant", "text": "A cup.", "loss": True},
            ],
        }
    ],
}


def mutated(value: object, draw: random.Random) -> object:
    """One change at a place drawn by lot: put in, taken out, doubled, nested or replaced."""
    if isinstance(value, dict) and value and draw.random() < 0.95:
        key = draw.choice([*value])
        change = draw.randrange(6)
        if change == 0:
            return value | {draw.choice(KEYS): draw.choice(JUNK)}
        if change == 1:
            return {one: value[one] for one in value if one != key}
        return value | {key: mutated(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.95:
        place = draw.randrange(len(value))
        change = draw.randrange(6)
        if change == 0:
            return [*value[:place], draw.choice(JUNK), *value[place:]]
        if change == 1:
            return value[:place] + value[place + 1 :]
        if change == 2:
            return [*value, value[place]]
        return [*value[:place], mutated(value[place], draw), *value[place + 1 :]]
    return DEEP if draw.random() < 0.05 else draw.choice(JUNK)


SPLINTERS = [b"", b"\xff", b"\xed\xa0\x80", b"\0", b"//", b"NaN"] + [b"%c" % c for c in b'"{}],\\']


def broken(text: bytes, draw: random.Random) -> bytes:
    """A text with a few bytes changed, none of them a line's end."""
    found = bytearray(text)
    for _ in range(draw.randrange(1, 4)):
        place = draw.randrange(len(found) + 1)
        found[place : place + draw.randrange(3)] = draw.choice(
            [
                b"",
                b"\xff",
                b'"',
                b"{",
                b"}",
                b"]",
                b",",
                b"\\",
                b"\0",
                b"//",
                b"NaN",
                b"\xed\xa0\x80",
            ]
        )
    return bytes(found)


def row_text(form: str, number: int) -> bytes:
    draw = random.Random(f"{form} {number}")
    row: object = draw.choice(SEEDS[form])
    for _ in range(draw.randrange(1, 3)):
        row = mutated(row, draw)
    text = json.dumps(row).encode().replace(f'"{DEEP}"'.encode(), b"[" * 1200 + b"]" * 1200)
    return broken(text, draw) if draw.random() < 0.2 else text


@pytest.mark.parametrize(
    "count", [pytest.param(60, id="360"), pytest.param(340, id="2040", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("layout", ["lines", "list"])
def test_no_mutated_row_ends_a_preparation_or_is_lost(
    count: int, layout: str, images: Path, tmp_path: Path, tokenizers: Tokenizers
) -> None:
    tokenizer = tokenizers["byte_level"]
    for form, seeds in SEEDS.items():
        texts = [row_text(form, number) for number in range(count)]
        path = tmp_path / f"{form}.json"
        first = json.dumps(seeds[0]).encode()
        if layout == "lines":
            path.write_bytes(b"\n".join([first, *texts]))
        else:  # one whole row between two that may not be cut apart again
            texts = [text for text in texts if _is_json(text)]
            path.write_bytes(b"[" + b",\n".join([first, *texts]) + b"]")
        source = open_source(SourceSettings(data=str(path)))
        assert source.form == form
        job = Job(
            form=form,
            template=str(tokenizer.chat_template),
            prepared=str(tmp_path / "prepared" / form),
            images=str(images),
        )
        checker = Checker(job, tokenizer)
        done = [checker.check(chunk) for chunk in source.chunks()]
        kept = [one for found, _ in done for one in found]
        dropped = [one for _, found in done for one in found]
        lines = sum(not text.strip().startswith(b"//") and bool(text) for text in [first, *texts])
        assert len(kept) + len(dropped) == lines
        assert kept and dropped and all(one.reason and len(one.message) < 340 for one in dropped)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def test_what_cannot_be_used_is_told_with_every_reason(maker: Any, tmp_path: Path) -> None:
    rows = [row_of("a", video="v.mp4"), row_of("b", conversations=[]), 3]
    with pytest.raises(LaternaError) as error:
        maker.prepare(source_of(tmp_path, rows))
    assert str(error.value) == (
        "no record can be trained on (1 × asks about a video; 1 × no turns; 1 × not a row of the "
        "form conversations); the first: record a (line 1): the key `video` says that this row "
        "asks about a video"
    )
