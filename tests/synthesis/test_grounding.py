from __future__ import annotations

from laterna.records import Box, Scene
from laterna.synthesis.coco import CATEGORIES
from laterna.synthesis.grounding import unsupported_objects
from laterna.synthesis.object_words import ObjectWords

WORDS = ObjectWords(CATEGORIES)
SCENE = Scene(
    id="1",
    picture="1.jpg",
    width=None,
    height=None,
    captions=("A woman walks her puppy.",),
    boxes=(Box(category="handbag", x1=0, y1=0, x2=0.5, y2=0.5),),
)


def test_boxes_and_captions_support_what_is_said() -> None:
    assert unsupported_objects("A person, a dog and a purse.", SCENE, WORDS) == ()
    assert unsupported_objects("A sunny day.", SCENE, WORDS) == ()


def test_what_neither_holds_is_named_in_order() -> None:
    said = "Two dogs, a kite and some cars; a CAR is red."
    assert unsupported_objects(said, SCENE, WORDS) == ("car", "kite")
