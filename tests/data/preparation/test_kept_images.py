"""Where the images of prepared records lie, which is what sets of features are known by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laterna.data.preparation.checking import EMBEDDED, KeptImages

if TYPE_CHECKING:
    from pathlib import Path


def test_records_about_the_same_folder_show_the_same_images(tmp_path: Path) -> None:
    """So that the second stage finds the features that the first one computed."""
    images = tmp_path / "images"
    images.mkdir()
    first, second = (KeptImages(tmp_path / name, str(images)) for name in ("align", "instruct"))
    assert first.where == second.where


def test_images_that_stood_in_rows_are_told_apart(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    kept = tmp_path / "align" / EMBEDDED
    kept.mkdir(parents=True)
    (kept / "digest").write_bytes(b"an image")
    first, second = (KeptImages(tmp_path / name, str(images)) for name in ("align", "instruct"))
    assert first.where != second.where
    assert KeptImages(tmp_path / "align", "").where != KeptImages(tmp_path / "other", "").where
