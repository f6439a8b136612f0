"""docs/path.md says what the code does now; otherwise `python tools/write_path_page.py` is due."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from laterna.synthesis.parsing import parse_reply
from laterna.synthesis.proxy import proxy_digest
from laterna.world.toys import LIGHTINGS, SIGN_WORDS, TEXTURES
from write_path_page import (
    IMAGE,
    MEASURED,
    PAGE,
    SCENE,
    TOLERANCE,
    WorldSteps,
    render_page,
    walk_world,
)

README = PAGE.parent.parent / "README.md"
REWRITE = "run `python tools/write_path_page.py` and look at what changed"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("path")


@pytest.fixture(scope="module")
def written(folder: Path) -> str:
    return render_page(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldSteps:
    return walk_world(tmp_path_factory.mktemp("world"))


def disagreements(shown: str, written: str) -> list[tuple[str, str]]:
    """Lines that differ in anything but measured words, or in measured numbers by too much."""
    pairs = [
        (ours, theirs)
        for ours, theirs in zip(shown.splitlines(), written.splitlines(), strict=False)
        if MEASURED.sub("≈", ours) != MEASURED.sub("≈", theirs)
        or numbers(ours) != pytest.approx(numbers(theirs), abs=TOLERANCE)
    ]
    lengths = len(shown.splitlines()), len(written.splitlines())
    return pairs if lengths[0] == lengths[1] else [*pairs, (f"{lengths[0]} lines", str(lengths[1]))]


def numbers(text: str) -> list[float]:
    values = [match["value"] for match in MEASURED.finditer(text)]
    return [float(value) for value in values if not value.startswith("`")]


def links(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", text)
    targets = [target for pair in found for target in pair if target]
    return [target for target in targets if "://" not in target]


def test_the_page_says_what_the_code_does(written: str) -> None:
    assert disagreements(PAGE.read_text(encoding="utf-8"), written) == [], REWRITE


def test_the_image_is_the_one_that_the_code_draws(written: str, folder: Path) -> None:
    drawn = folder / "world" / "images" / f"{SCENE:06d}.png"
    with Image.open(IMAGE) as ours, Image.open(drawn) as theirs:
        assert ours.size == theirs.size == (112, 112)
        difference = np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)
    # A level, for the noise's last digit is the processor's.
    assert np.abs(difference).max() <= 1, REWRITE


def test_every_link_leads_to_a_file() -> None:
    targets = links(PAGE)
    assert len(targets) > 25
    assert [target for target in targets if not (PAGE.parent / target).is_file()] == []


def test_the_readme_links_to_the_page() -> None:
    assert "docs/path.md" in links(README)


def test_a_changed_word_or_number_is_noticed_and_measured_words_are_not() -> None:
    page = "the loss is ≈ 2.14 of 24 tokens\nit says ≈ `No`"
    assert disagreements(page, page.replace("2.14", "2.15").replace("No", "Yes")) == []
    assert len(disagreements(page, page.replace("2.14", "2.17"))) == 1
    assert len(disagreements(page, page.replace("24", "25"))) == 1
    assert len(disagreements(page, page.replace("says", "said"))) == 1
    assert disagreements(page, page + "\nmore") == [("2 lines", "3")]


def test_the_proxy_text_tells_no_blind_spot(world: WorldSteps) -> None:
    assert world.truth.sign == "ZOO"
    hidden = {word.lower() for word in (*TEXTURES, *LIGHTINGS, *SIGN_WORDS)}
    assert hidden.isdisjoint(re.findall(r"[a-z]+", world.proxy.lower()))


def test_the_record_is_made_of_the_reply_that_is_shown(world: WorldSteps) -> None:
    assert world.record.provenance is not None
    assert world.record.provenance.proxy_digest == proxy_digest(world.proxy)
    answers = [turn.text for turn in world.record.turns if turn.loss]
    assert answers == [exchange.answer for exchange in parse_reply(world.reply.text)]


@pytest.mark.parametrize(
    ("side", "tokens", "words"),
    [
        (112, 64, "112 px in patches of 14 px, which gives 64 tokens"),
        (224, 256, "16 × 16 = 256 tokens at 224 px"),
        (336, 576, "24 × 24 = 576 at 336 px"),
    ],
)
def test_the_page_pairs_image_sizes_with_their_tokens(
    written: str, side: int, tokens: int, words: str
) -> None:
    assert (side // 14) ** 2 == tokens
    assert words in written
