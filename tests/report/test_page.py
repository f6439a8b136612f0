"""The report: one file that needs nothing from outside, with everything in it and nothing live."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from laterna.errors import LaternaError
from laterna.evaluation.scores import score
from laterna.records import Answer, Question
from laterna.report.page import (
    Column,
    Curve,
    Example,
    ReportContent,
    choose_examples,
    curve_of,
    write_report,
)
from laterna.scenes.phrases import SHORT_ANSWER
from laterna.training.throughput import StepFigures, Validation


def answer(number: int, kind: str, text: str, truth: str, image: str | None = None) -> Answer:
    question = Question(
        id=f"{number:03d}-{kind}",
        images=(image or f"{number:03d}.png",),
        kind=kind,
        text=f"Question {number}?{SHORT_ANSWER}",
        references=(truth,),
    )
    return Answer(question=question, text=text, score=float(text == truth))


ANSWERS = [
    answer(0, "colour", "red", "red"),
    answer(1, "colour", "<script>alert(1)</script>", "blue"),
    answer(2, "count", "two", "two"),
    answer(3, "count", "", "three"),
]
CONTROLS = [answer(i, kind, "no", "yes") for i, kind in enumerate(["colour", "count", "count"])]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (600, 300), (60 * number, 120, 200)).save(folder / f"{number:03d}.png")
    return folder


def test_a_stage_s_figures_give_its_curve() -> None:
    look = Validation(loss=1.5, target_tokens=9, records=2, seconds=0.1)
    steps = [
        StepFigures(
            step=step,
            loss=3.0 - step,
            lr=0.1,
            grad_norm=1.0,
            target_tokens=9,
            tokens=20,
            images=2,
            seconds=0.5,
            validation=look if step == 2 else None,
        )
        for step in (1, 2)
    ]
    curve = curve_of("align", steps)
    assert (curve.losses, curve.validation) == ((2.0, 1.0), ((2, 1.5),))


def content(images: Path) -> ReportContent:
    return ReportContent(
        title="A run & its <figures>",
        summary="Drawn, taught and asked.",
        columns=(
            Column(name="assistant", note="As trained.", scores=score(ANSWERS)),
            Column(name="blank", note="One colour.", scores=score(CONTROLS[:1])),
        ),
        curves=(
            Curve(name="Stage 1", losses=(3.0, 2.0, 1.0)),
            Curve(name="Stage 2", losses=(2.0, 1.0)),
        ),
        examples=choose_examples(ANSWERS, images),
        skipped=("9.png: no such image",),
        settings=(("align.connector.lr", "0.001"),),
        seconds=(("draw", 4.24), ("train", 185.0)),
        versions=(("torch", "2.13.0"),),
        next_command="laterna chat runs/demo/assistant",
    )


class Page(HTMLParser):
    """Collects tags with their attributes, and the text of the body."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def page(tmp_path: Path, images: Path) -> Page:
    write_report(tmp_path / "report.html", content(images))
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_nothing_is_fetched_and_nothing_runs(page: Page) -> None:
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:image/jpeg;base64,", "#")) or not value, (tag, value)


def test_what_a_model_says_stays_text(page: Page) -> None:
    assert "<script>alert(1)</script>" in page.text
    assert "A run & its <figures>" in page.text


def test_the_table_sets_the_controls_beside_the_assistant(page: Page) -> None:
    table = page.text.partition("Questions answered right")[2].partition("As trained.")[0]
    assert "overall 50.0 % 2 of 4 0.0 % 0 of 1" in table
    assert "colour 50.0 % 1 of 2 0.0 % 0 of 1" in table
    assert "count 50.0 % 1 of 2 – 0 of 0" in table
    assert "Left out of the scores: 9.png: no such image" in page.text


def test_right_and_wrong_are_told_in_words(page: Page) -> None:
    assert len(re.findall("✓ right", page.text)) == 2
    assert "✗ wrong; truth: blue" in page.text
    assert "(nothing) ✗ wrong; truth: three" in page.text
    assert page.text.count(SHORT_ANSWER.strip()) == 1


def test_the_rest_of_the_run_is_there(page: Page) -> None:
    assert "Stage 1: 3 steps, first 3.000, last 1.000" in page.text
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 2
    assert "draw 4.2 s train 3 min 05 s" in page.text
    assert "align.connector.lr 0.001" in page.text
    assert "torch 2.13.0" in page.text
    assert "laterna chat runs/demo/assistant" in page.text


def test_images_lie_inside_the_page_as_small_jpegs(page: Page) -> None:
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 4
    data = base64.b64decode(sources[0].partition(",")[2])
    with Image.open(io.BytesIO(data)) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (336, 168))


def test_the_same_content_gives_the_same_bytes(tmp_path: Path, images: Path) -> None:
    write_report(tmp_path / "a.html", content(images))
    write_report(tmp_path / "b.html", content(images))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_missing_image_leaves_no_page(tmp_path: Path, images: Path) -> None:
    whole = content(images)
    (images / "002.png").unlink()
    with pytest.raises(LaternaError, match=r"002\.png: no such image"):
        write_report(tmp_path / "report.html", whole)
    assert not (tmp_path / "report.html").exists()


def test_an_empty_run_still_has_a_page(tmp_path: Path) -> None:
    bare = ReportContent(title="Bare", summary="Nothing.", columns=(), curves=(), examples=())
    write_report(tmp_path / "bare.html", bare)
    assert "Bare" in (tmp_path / "bare.html").read_text(encoding="utf-8")


def test_examples_take_kinds_in_turn_and_a_image_once() -> None:
    answers = [answer(i, "colour", "a", "b") for i in range(40)]
    answers += [answer(100 + i, "count", "a", "a", image=f"{i:03d}.png") for i in range(40)]
    chosen = choose_examples(answers, Path("images"), count=10, seed=1)
    assert [example.kind for example in chosen] == ["colour", "count"] * 5
    assert len({example.image for example in chosen}) == 10
    assert chosen == choose_examples(answers[::-1], Path("images"), count=10, seed=1)
    assert chosen != choose_examples(answers, Path("images"), count=10, seed=2)
    assert len(choose_examples(answers, Path("images"), count=99, seed=1)) == 40
    first = choose_examples(answers[:1], Path("images"))[0]
    assert first == Example(
        image=Path("images/000.png"),
        kind="colour",
        question="Question 0?",
        answer="a",
        truth="b",
        right=False,
    )
