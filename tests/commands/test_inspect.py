"""`laterna inspect`: what it prints, and the page that it writes."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from laterna.cli import main
from laterna.report.tokens import NAMES

ROW = {
    "id": 1,
    "image": "1.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nHow many cats are there?"},
        {"from": "gpt", "value": "There is one cat."},
    ],
}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    path = tmp_path / "set.json"
    path.write_text(json.dumps([ROW]), encoding="utf-8")
    return path


def cells(out: str) -> list[list[str]]:
    lines = (line.replace("┃", "│").split("│") for line in out.splitlines())
    return [[cell.strip() for cell in line if cell.strip()] for line in lines]


def test_it_prints_kinds_coverage_and_lengths(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(finished)]) == 0
    out = capsys.readouterr().out
    rows = cells(out)
    assert ["not said", "1"] in rows
    assert ["property", "questions", "share", "declined"] in rows
    assert ["count", "1", "100.0 %", "0"] in rows
    assert ["colour", "0", "0.0 %", "0"] in rows
    assert ["4", "1", "█" * 30] in rows
    assert out.splitlines()[-1] == "inspected 1 records, 1 questions"


def test_it_writes_the_page(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = {
        "id": "1",
        "image": "1.jpg",
        "captions": ["A cat."],
        "instances": [{"category": "cat", "bbox": [0.1, 0.1, 0.9, 0.9]}],
    }
    contexts, page = tmp_path / "contexts.jsonl", tmp_path / "page.html"
    contexts.write_text(json.dumps(context), encoding="utf-8")
    args = ["inspect", str(finished), "--annotations", str(contexts), "--html", str(page)]
    assert main(args) == 0
    out = capsys.readouterr().out
    assert ["count", "1", "100.0 %", "0", "1", "0", "0"] in cells(out)
    assert out.splitlines()[-1] == f"inspected 1 records, 1 questions; made {page}"
    assert "What the teacher read" in page.read_text(encoding="utf-8")


def test_the_rejects_beside_the_set_are_found(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = {"reason": "wrong count", "sentence": "Two cats."}
    reject = {"id": "1", "kind": "detail", "ledger_key": None, "verdict": {"findings": [finding]}}
    finished.with_name("set.rejects.jsonl").write_text(json.dumps(reject), encoding="utf-8")
    assert main(["inspect", str(finished)]) == 0
    assert "replies not used: wrong count: 1" in capsys.readouterr().out.splitlines()


def test_it_marks_what_is_learned(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(finished), "--masks", "1"]) == 0
    out = capsys.readouterr().out
    assert "learned" in out
    assert "▣" in out
    learned = out[out.index("⟦") + 1 : out.index("⟧")]
    assert learned.startswith("There is one cat.") or learned.startswith(" There is one cat.")
    assert "How many cats" not in learned


SAID = {"from": "gpt", "value": "A cup, no <image>."}
FORMS: dict[str, tuple[object, list[tuple[str, str]]]] = {
    "sharegpt, several images": (
        {
            "conversations": [{"from": "user", "value": "<image>\n<image>\nTwo?"}, SAID],
            "images": ["a.png", "b.png"],
            "system": "Be <brief>.",
        },
        [
            ("prompt", "<s>Be <brief>. USER: "),
            ("image", "▣"),
            ("prompt", "\n"),
            ("image", "▣"),
            ("prompt", "\nTwo? ASSISTANT:"),
            ("target", " A cup, no <image>.</s>"),
        ],
    ),
    "llava, a mark amid the words, two turns": (
        {
            "image": "a.png",
            "conversations": [
                {"from": "system", "value": ""},
                {"from": "human", "value": "Is <image> é?"},
                SAID,
                {"from": "human", "value": "No?"},
                {"from": "gpt", "value": "Yes."},
            ],
        },
        [
            ("prompt", "<s> USER: Is "),  # LLaVA keeps the space of the empty system prompt
            ("image", "▣"),
            ("prompt", " é? ASSISTANT:"),
            ("target", " A cup, no <image>.</s>"),
            ("prompt", "USER: No? ASSISTANT:"),
            ("target", " Yes.</s>"),
        ],
    ),
    "messages, in parts": (
        {
            "messages": [
                {"role": "system", "content": ""},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Is "},
                        {"type": "image", "image": "a.png"},
                        {"type": "text", "text": " as "},
                        {"type": "image", "image": "b.png"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "日本"}]},
            ]
        },
        [
            ("prompt", "<s> USER: Is "),  # LLaVA keeps the space of the empty system prompt
            ("image", "▣"),
            ("prompt", " as \n"),
            ("image", "▣"),
            ("prompt", " ASSISTANT:"),
            ("target", " 日本</s>"),
        ],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_page_of_masks_colours_every_form(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row, expected = FORMS[name]
    source, page = tmp_path / "set.json", tmp_path / "page.html"
    source.write_text(json.dumps([row]), encoding="utf-8")
    asked = ["--masks", "3", "--template", "vicuna_v1", "--html", str(page)]
    assert main(["inspect", str(source), *asked]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith(f"▣ an image; made {page}")
    text = page.read_text(encoding="utf-8").partition("</header>")[2]
    runs = re.findall(r'<span class="(\w+)">(.*?)</span>', text, re.DOTALL)
    pieces = [(part, re.findall(r"<i>(.*?)</i>", run, re.DOTALL)) for part, run in runs]
    assert [(part, html.unescape("".join(shown))) for part, shown in pieces] == expected
    counts = {kind: sum(len(shown) for part, shown in pieces if part == kind) for kind in NAMES}
    assert counts["image"] == sum(part == "image" for part, _ in expected)
    assert f"{counts['image']} image</h2>" in text
    assert "<script" not in text and "<brief>" not in text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["none.json"], "none.json: cannot be read"),
        (["set.json", "--masks", "-1"], "--masks -1: give a whole number of at least 0"),
        (["set.json", "--masks", "1", "--checkpoint", "nowhere"], "nowhere: no such folder"),
        (["set.json", "--masks", "1", "--tokenizer", "package:x"], "package:x: no such packaged"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    args: list[str],
    words: str,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(finished.parent)
    assert main(["inspect", *args]) == 2
    assert words in capsys.readouterr().err
