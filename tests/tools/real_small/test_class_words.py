"""The words of ImageNet's classes."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING

import pytest

from laterna.errors import LaternaError
from real_small import class_words

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for timm's package: three classes, in another order than their descriptions."""
    folder = tmp_path / class_words.FOLDER
    folder.mkdir(parents=True)
    (folder / "imagenet_synsets.txt").write_text("n2\nn1\n")
    (folder / "imagenet_synset_to_lemma.txt").write_text("n1\tcup\nn2\ttabby, tabby cat\nn3\tx\n")
    (folder / "imagenet_synset_to_definition.txt").write_text(
        "n1\ta small open container used for drinking\nn2\ta cat with a grey coat\nn3\ty\n"
    )
    package = tmp_path / "timm-0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: timm\nVersion: 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_names_and_descriptions_in_the_classifiers_order(timm: Path) -> None:
    assert class_words.imagenet_words() == [
        ["tabby", "tabby", "cat", "cat", "grey", "coat"],
        ["cup", "small", "open", "container", "drinking"],
    ]


def test_the_thousand_of_timms_own_package() -> None:
    try:
        distribution("timm")
    except PackageNotFoundError:
        pytest.skip("timm is not installed")
    words = class_words.imagenet_words()
    assert len(words) == 1000
    assert words[0][0] == "tench"
    assert words[281][:2] == ["tabby", "tabby"]
    assert "bathroom" in words[999] or "toilet" in words[999]


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(class_words, "distribution", missing)
    with pytest.raises(LaternaError, match="pip install --no-deps timm"):
        class_words.imagenet_words()
