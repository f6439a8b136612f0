"""The page of a finished set: everything in it, nothing from outside, boxes where they belong."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from laterna.analysis.coverage import Coverage, CoverageCounter
from laterna.errors import LaternaError
from laterna.records import Box, Finding, InstructionRecord, Proxy, Turn, Verdict
from laterna.report.synthesis_page import (
    AT_ONCE,
    IMAGE_SIDE,
    PROXY_LINES,
    Example,
    Reason,
    Specimen,
    SynthesisContent,
    draw_boxes,
    write_synthesis_page,
)

PROXY = Proxy(
    text='A <red> cup.\n\ncup: [0.1, 0.2, 0.9, 0.8]\nprinted text: "TEA"',
    channels=("caption", "", "box", "ocr"),
)
RECORD = InstructionRecord(
    id="7-conversation",
    images=("7.png",),
    turns=(
        Turn(role="user", text="<image>\nWhat colour is the cup?"),
        Turn(role="assistant", text="It is <b>red</b>.", loss=True),
        Turn(role="user", text="Is it bright?"),
        Turn(role="assistant", text="Very.", loss=True),
    ),
    kind="conversation",
)
FINDING = Finding(reason="absent object", sentence="A <dog> sits there.", detail="dog is not there")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "7.png"
    Image.new("RGB", (960, 480), "white").save(path)
    return path


def counted(*records: InstructionRecord) -> Coverage:
    counter = CoverageCounter()
    for one in records:
        counter.add(one, PROXY)
    return counter.result()


def content(image: Path | None, **changed: object) -> SynthesisContent:
    specimen = Specimen(
        record=RECORD,
        image=image,
        boxes=(Box(category="cup", x1=0.1, y1=0.2, x2=0.9, y2=0.8),),
        proxy=PROXY,
        verdict=Verdict(findings=(FINDING,), checked=3, unchecked=2),
    )
    reason = Reason(
        name="absent object",
        meaning="it names what is not there",
        count=5,
        examples=(Example(record="9-detail", finding=FINDING),),
    )
    fields: dict[str, object] = {
        "title": "Instructions in <a> & b",
        "coverage": counted(RECORD),
        "annotated": True,
        "unknown_proxies": (("image not annotated", 2),),
        "checked": 10,
        "found": (reason,),
        "rejects": (),
        "cost": (("requests", "158,000"),),
        "specimens": (specimen,),
    }
    return SynthesisContent(**(fields | changed))  # type: ignore[arg-type]


def written(tmp_path: Path, shown: SynthesisContent) -> str:
    path = tmp_path / "page.html"
    write_synthesis_page(path, shown)
    return path.read_text(encoding="utf-8")


def row(page: str, name: str) -> list[str]:
    """The cells of a row of the coverage table, as text."""
    match = re.search(rf'<tr><th scope="row"[^>]*>{name}</th>(.*?)</tr>', page, re.DOTALL)
    assert match is not None
    cells = re.findall(r"<td[^>]*>(.*?)</td>", match[1], re.DOTALL)
    return [re.sub(r"<[^>]+>", "", cell).strip() for cell in cells]


def test_the_page_shows_the_figures(image: Path, tmp_path: Path) -> None:
    page = written(tmp_path, content(image))
    assert row(page, "colour") == ["1", "50.0 %", "", "0", "1", "0", "0"]
    assert row(page, "lighting") == ["1", "50.0 %", "", "0", "0", "1", "0"]
    assert row(page, "count") == ["0", "0.0 %", "", "0", "0", "0", "0"]
    assert "158,000" in page
    assert "2: image not annotated." in page
    assert "<strong>absent object</strong>: 5" in page
    assert "(50.0 %)" in page
    assert "✗ rejected; 3 claims checked, 2 could not be" in page
    assert page.count("<svg") == 2


def test_proxy_reply_and_verdict_stand_side_by_side(image: Path, tmp_path: Path) -> None:
    page = written(tmp_path, content(image))
    lines = re.findall(r'<li><span class="channel">(.*?)</span> <span>(.*?)</span></li>', page)
    assert lines == [
        ("caption", "A &lt;red&gt; cup."),
        ("box", "cup: [0.1, 0.2, 0.9, 0.8]"),
        ("printed text", "printed text: &#34;TEA&#34;"),
    ]
    assert "<p>It is &lt;b&gt;red&lt;/b&gt;.</p>" in page
    assert "A &lt;dog&gt; sits there." in page
    assert "<dog>" not in page
    assert "&lt;image&gt;" not in page


def test_the_page_needs_nothing_from_outside(image: Path, tmp_path: Path) -> None:
    page = written(tmp_path, content(image))
    assert page == written(tmp_path, content(image))
    sources = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    drawn = [source for source in sources if source.startswith("data:image/jpeg;base64,")]
    assert sources == drawn
    assert "<script" not in page
    assert "url(http" not in page
    with Image.open(io.BytesIO(base64.b64decode(drawn[0].partition(",")[2]))) as shown:
        assert shown.size == (IMAGE_SIDE, IMAGE_SIDE // 2)


def test_a_long_proxy_is_folded_and_a_very_long_one_cut_with_its_count(tmp_path: Path) -> None:
    lines = [f"cup: [0.0, 0.0, 0.1, 0.{number:03}]" for number in range(1, 81)]
    long = Proxy(text="\n".join(["", *lines]), channels=("", *["box"] * 80))
    specimen = Specimen(record=RECORD, image=None, boxes=(), proxy=long, verdict=None)
    page = written(tmp_path, content(None, specimens=(specimen,)))
    before, _, folded = page.partition("<details")
    folded, _, after = folded.partition("</details>")
    assert [line in before for line in lines] == [True] * AT_ONCE + [False] * (80 - AT_ONCE)
    assert [line in folded for line in lines] == [
        AT_ONCE <= number < PROXY_LINES for number in range(80)
    ]
    assert f"<summary>{80 - AT_ONCE} more lines</summary>" in folded
    assert f"{80 - PROXY_LINES} more lines</li>" in folded
    assert "cup: [" not in after


def test_what_was_not_given_is_said(tmp_path: Path) -> None:
    bare = Specimen(record=RECORD, image=None, boxes=(), proxy=None, verdict=None)
    shown = content(
        None,
        annotated=False,
        unknown_proxies=(),
        found=(),
        rejects=None,
        cost=(),
        specimens=(bare,),
    )
    page = written(tmp_path, shown)
    assert row(page, "colour") == ["1", "50.0 %", "", "0"]
    assert "No annotations were given" in page
    assert "7.png: file not given" in page
    assert "Not known." in page
    assert "Not checked." in page
    assert "Replies that were not used" not in page
    assert "Cost" not in page


def test_a_set_without_questions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match="holds no questions"):
        write_synthesis_page(tmp_path / "page.html", content(None, coverage=counted()))
    assert list(tmp_path.iterdir()) == []


def test_boxes_are_drawn_where_they_are_in_a_colour_a_category() -> None:
    image = Image.new("RGB", (101, 101), "white")
    draw_boxes(
        image,
        (
            Box(category="cup", x1=0.1, y1=0.3, x2=0.5, y2=0.6),
            Box(category="dog", x1=0.6, y1=0.3, x2=0.9, y2=0.6),
            Box(category="cup", x1=0.1, y1=0.7, x2=0.5, y2=0.9),
        ),
    )
    first, second = (228, 87, 46), (31, 95, 139)
    assert image.getpixel((10, 45)) == first
    assert image.getpixel((50, 45)) == first
    assert image.getpixel((30, 60)) == first
    assert image.getpixel((60, 45)) == second
    assert image.getpixel((10, 80)) == first
    assert image.getpixel((30, 45)) == (255, 255, 255)


def test_a_name_that_would_lie_on_another_is_left_out_unless_it_is_the_first() -> None:
    image = Image.new("RGB", (100, 100), "white")
    boxes = (
        Box(category="cup", x1=0.1, y1=0.3, x2=0.9, y2=0.9),
        Box(category="dog", x1=0.12, y1=0.32, x2=0.5, y2=0.6),
        Box(category="cup", x1=0.14, y1=0.34, x2=0.3, y2=0.5),
    )
    draw_boxes(image, boxes)
    first, second = (228, 87, 46), (31, 95, 139)
    assert image.getpixel((10, 17)) == first, "the large cup is named"
    assert image.getpixel((13, 30)) == second, "the dog, which has no other name, lies on it"
    assert image.getpixel((14, 45)) == first, "the small cup is drawn"
    assert image.getpixel((13, 20)) == second, "and not named once more"
