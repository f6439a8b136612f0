"""The proxy of a finished record is found again, or the reason why not is counted."""

from __future__ import annotations

from laterna.analysis.proxy_lookup import ProxyLookup
from laterna.records import Box, InstructionRecord, Kind, Provenance, Scene, Turn
from laterna.synthesis.proxy import proxy_digest, write_proxy

CUP = Box(category="cup", x1=0.1, y1=0.2, x2=0.3, y2=0.4)
SCENE = Scene(id="7", image="train/7.jpg", width=10, height=10, captions=("A cup.",), boxes=(CUP,))
BARE, BOXED = "A cup.", "A cup.\n\ncup: [0.1, 0.2, 0.3, 0.4]"


def record(
    kind: Kind | None,
    image: str | None = "train/7.jpg",
    text: str | None = None,
    channels: tuple[str, ...] = (),
) -> InstructionRecord:
    made = text and Provenance(teacher="t", proxy_digest=proxy_digest(text), channels=channels)
    return InstructionRecord(
        id="r",
        images=(image,) if image else (),
        turns=(Turn(role="user", text="?"),),
        kind=kind,
        provenance=made or None,
    )


def shown_text(asked: InstructionRecord) -> str | None:
    found = ProxyLookup([SCENE])(asked)
    return found and found.text


def test_the_scene_is_in_the_form_of_these_tests() -> None:
    assert (write_proxy(SCENE.captions), write_proxy(SCENE.captions, SCENE.boxes)) == (BARE, BOXED)


def test_without_provenance_it_is_llavas_form() -> None:
    assert shown_text(record("conversation")) == BARE
    assert shown_text(record("reasoning")) == BOXED
    assert shown_text(record(None)) == BOXED
    assert shown_text(record("caption")) == BOXED


def test_with_provenance_it_is_the_very_words() -> None:
    assert shown_text(record("conversation", text=BARE)) == BARE
    assert shown_text(record("conversation", text=BOXED)) == BOXED
    channels = ("caption", "", "box")
    assert shown_text(record("conversation", text=BOXED, channels=channels)) == BOXED


def test_a_file_name_is_enough_where_it_is_the_only_one() -> None:
    assert shown_text(record(None, image="coco/7.jpg")) == BOXED
    twin = Scene(id="8", image="val/7.jpg", width=1, height=1, captions=("B",), boxes=())
    shown = ProxyLookup([SCENE, twin])
    assert shown(record(None, image="coco/7.jpg")) is None
    assert shown(record(None)) is not None
    assert shown.scene(record(None, image="val/7.jpg")) == twin


def test_what_cannot_be_known_is_counted_by_reason() -> None:
    shown = ProxyLookup([SCENE])
    unknown = [
        record(None, image="8.jpg"),
        record(None, image=None),
        record("detail", text="Other words."),
        record("detail", text="x", channels=("caption", "", "ocr")),
    ]
    assert [shown(asked) for asked in unknown] == [None] * 4
    assert shown.unknown == {
        "image not annotated": 1,
        "not about one image": 1,
        "written from other words than these annotations give": 1,
        "enriched from its picture, and no picture folder given": 1,
    }
