"""Tokens in the terminal: what is learned, what is read, what is an image."""

from __future__ import annotations

from laterna.records import IMAGE_TOKEN_INDEX, Sample
from laterna.report.tokens import STYLES, token_view


def sample(ids: tuple[int, ...], targets: tuple[bool, ...]) -> Sample:
    return Sample(id="s", input_ids=ids, targets=targets, image_slots=())


def test_parts_are_marked_styled_and_counted() -> None:
    view = token_view(
        sample((1, IMAGE_TOKEN_INDEX, 2, 3, 4), (False, False, False, True, True)),
        lambda ids: "".join(f"<{token}>" for token in ids),
    )
    assert view.plain == "s: 5 tokens, 2 learned, 2 read, 1 image\n<1>▣<2>⟦<3><4>⟧"
    styles = {view.plain[span.start : span.end]: span.style for span in view.spans}
    assert styles["▣"] in STYLES["image"]
    assert styles["<2>"] in STYLES["prompt"]
    assert styles["<3>"] in STYLES["target"]
    assert styles["<3>"] != styles["<4>"]


def test_tokens_that_share_a_character_are_shown_together() -> None:
    ids = tuple("é!".encode())
    view = token_view(
        sample(ids, (False,) * 3), lambda part: bytes(part).decode("utf-8", errors="replace")
    )
    assert view.plain.endswith("\né!")
    cut = token_view(
        sample(ids[:1], (False,)), lambda part: bytes(part).decode("utf-8", errors="replace")
    )
    assert cut.plain.endswith("\n\N{REPLACEMENT CHARACTER}")
