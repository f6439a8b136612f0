from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from laterna.errors import LaternaError
from laterna.records import Box, Kind, Scene
from laterna.scenes.annotations import read_annotations
from laterna.synthesis.proxy import build_proxy, proxy_digest, read_proxy, write_proxy

PUBLISHED = {
    "000000024996": b"""\
A bathroom with a glass door and a sink.
A blue lined bathroom with an open glass door.
A nice bathroom with a sink, toilet, and tiled shower.
A bathroom that is clean and shiny in the day.
a bathroom with a sink and a mirror and a window

toilet: [0.842, 0.934, 0.95, 1.0]
sink: [0.506, 0.724, 0.683, 0.834]""",
    "000000192817": b"""\
A view from a window high up in the sky.
A bunch of mountains seen from a plane window.
The window from a plane overlooking the ground.
The view of a mountain area from an airplane window.
An aerial view of mountains and lakes from an airplane window.""",
    "000000455772": b"""\
A person in a field jumping to catch a Frisbee.
A guy jumping to catch a frisbee in mid-air.
A person that is trying to get a frisbee.
Nice reach, but the Frisbee flies on, victorious.
A man playing frisbee in a grassy yard.

car: [0.148, 0.339, 0.201, 0.476]
car: [0.376, 0.396, 0.424, 0.476]
person: [0.547, 0.122, 0.698, 0.904]
frisbee: [0.479, 0.154, 0.555, 0.231]
car: [0.001, 0.299, 0.085, 0.394]""",
}
"""Three real contexts in LLaVA's form (REFERENCE.md, section 1), byte for byte."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_contexts_byte_for_byte(contexts_file: Path, name: str) -> None:
    scenes = {scene.id: scene for scene in read_annotations(contexts_file).scenes}
    proxy = write_proxy(scenes[name].captions, scenes[name].boxes)
    assert proxy.encode() == PUBLISHED[name]
    assert read_proxy(proxy) == (scenes[name].captions, scenes[name].boxes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_each_kind_is_shown_of_real_contexts(contexts_file: Path, name: str) -> None:
    """REFERENCE.md, section 1: captions alone for conversation, boxes besides for the others."""
    scene = {scene.id: scene for scene in read_annotations(contexts_file).scenes}[name]
    whole = PUBLISHED[name].decode()
    boxes = ("", *["box"] * len(scene.boxes)) if scene.boxes else ()
    shown: dict[Kind, str] = {"detail": whole, "reasoning": whole, "negative": whole}
    for kind, text in shown.items():
        proxy = build_proxy(scene, kind)
        assert proxy.text.encode() == text.encode()
        assert proxy.channels == ("caption",) * 5 + boxes
    proxy = build_proxy(scene, "conversation")
    assert proxy.text.encode() == PUBLISHED[name].partition(b"\n\n")[0]
    assert proxy.channels == ("caption",) * 5
    with_boxes = build_proxy(scene, "conversation", conversation_boxes=True)
    assert with_boxes == build_proxy(scene, "detail")


def cup_scene(*captions: str) -> Scene:
    box = Box(category="cup", x1=0.25, y1=0.0, x2=0.75, y2=1.0)
    return Scene(id="1", image="cup.png", width=80, height=40, captions=captions, boxes=(box,))


def test_enrichments_follow_the_boxes_and_scribe_reads_past_them(tmp_path: Path) -> None:
    Image.new("RGB", (80, 40), (20, 20, 120)).save(tmp_path / "cup.png")
    asked = ("lighting", "colours", "texture")
    proxy = build_proxy(cup_scene("A cup."), "detail", enrichments=asked, images=tmp_path)
    assert proxy.text == (
        "A cup.\n\ncup: [0.25, 0.0, 0.75, 1.0]\nlighting: dim\ndominant colours: blue\n"
        "texture of cup [0.25, 0.0, 0.75, 1.0]: smooth"
    )
    assert proxy.channels == ("caption", "", "box", *asked)
    assert len(proxy.channels) == len(proxy.text.split("\n"))
    assert read_proxy(proxy.text) == (("A cup.",), cup_scene().boxes)
    bare = build_proxy(
        cup_scene("A cup."), "conversation", enrichments=("lighting",), images=tmp_path
    )
    assert bare.text == "A cup.\n\nlighting: dim"
    assert bare.channels == ("caption", "", "lighting")
    assert read_proxy(bare.text) == (("A cup.",), ())


def test_scenes_without_captions_or_without_anything() -> None:
    proxy = build_proxy(cup_scene(" ", ""), "detail")
    assert proxy.text == "\ncup: [0.25, 0.0, 0.75, 1.0]"
    assert proxy.channels == ("", "box")
    assert read_proxy(proxy.text) == ((), cup_scene().boxes)
    assert build_proxy(cup_scene("", "A cup."), "conversation").text == "A cup."
    nothing = build_proxy(cup_scene(), "conversation")
    assert (nothing.text, nothing.channels) == ("", ())


def test_every_real_context_is_read_back(contexts_file: Path) -> None:
    scenes = read_annotations(contexts_file).scenes
    assert len(scenes) == 40
    for scene in scenes:
        captions, boxes = read_proxy(write_proxy(scene.captions, scene.boxes))
        assert captions == tuple(caption.strip() for caption in scene.captions)
        assert boxes == scene.boxes


def test_captions_alone() -> None:
    assert write_proxy(("A dog.", " A cat. ")) == "A dog.\nA cat."
    assert read_proxy("A dog.\nA cat.") == (("A dog.", "A cat."), ())


def test_corners_are_rounded_to_three_decimals_and_no_more_are_written() -> None:
    box = Box(category="wine glass", x1=0.0, y1=1 / 3, x2=0.5, y2=0.99996)
    proxy = write_proxy(("A glass.",), (box,))
    assert proxy == "A glass.\n\nwine glass: [0.0, 0.333, 0.5, 1.0]"
    assert read_proxy(proxy)[1] == (Box(category="wine glass", x1=0.0, y1=0.333, x2=0.5, y2=1.0),)


def test_a_caption_stays_one_line_whatever_it_holds() -> None:
    captions = ("A dog\non grass.", "A\u2028cat.\n", "a  wide gap")
    proxy = write_proxy(captions, (Box(category="dog", x1=0, y1=0, x2=1, y2=1),))
    assert read_proxy(proxy)[0] == ("A dog on grass.", "A cat.", "a  wide gap")


def test_a_line_that_is_no_box_is_refused() -> None:
    with pytest.raises(LaternaError, match=r"not a box line of a text proxy: 'dog: 0\.1'"):
        read_proxy("A dog.\n\ndog: 0.1")


def test_digest() -> None:
    assert proxy_digest("A dög.") == hashlib.sha256("A dög.".encode()).hexdigest()
