from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from laterna.data import fingerprints
from laterna.data.fingerprints import Stamp
from laterna.data.images.files import ImageFolder
from laterna.data.images.opening import load_image
from laterna.errors import LaternaError
from laterna.model.vision.feature_cache import FeatureStore, cached_features
from laterna.model.vlm import VisionLanguageModel

NAMES = [f"{number}.png" for number in range(70)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(random.integers(0, 255, (20, 28, 3), dtype=np.uint8)).save(folder / name)
    return folder


def cached(
    assistant: VisionLanguageModel,
    folder: Path,
    names: list[str],
    max_gb: float = 1.0,
    announce: Callable[[str], None] = lambda said: None,
) -> tuple[FeatureStore, list[int]]:
    """Also the images computed, as progress told them."""
    told: list[int] = []
    store = cached_features(
        assistant.vision,
        assistant.prepare,
        names,
        ImageFolder(folder),
        folder.parent / "cache",
        lambda done, total: told.append(done),
        max_gb=max_gb,
        announce=announce,
    )
    return store, told


def test_cached_features_are_those_computed_directly(
    tiny_assistant: VisionLanguageModel, images: Path
) -> None:
    store, told = cached(tiny_assistant, images, NAMES)
    assert told == [64, 70]
    asked = [NAMES[69], NAMES[3], NAMES[3]]
    pixels = tiny_assistant.prepare([load_image(images / name) for name in asked])
    with torch.no_grad():
        direct = tiny_assistant.vision(pixels)
    torch.testing.assert_close(store.get(asked), direct, atol=1e-6, rtol=0)


def test_a_second_call_computes_nothing_whatever_the_order(
    tiny_assistant: VisionLanguageModel, images: Path
) -> None:
    first, _ = cached(tiny_assistant, images, NAMES)
    again, told = cached(tiny_assistant, images, NAMES[::-1])
    assert told == []
    assert torch.equal(again.get(NAMES[:5]), first.get(NAMES[:5]))
    left = sorted(path.name for path in (images.parent / "cache").rglob("*") if path.is_file())
    kept = ["features.npy", "images.arrow", "manifest.json", "rows.sha256"]
    assert left == [".laterna-made.json", *kept]


def test_another_image_under_the_same_name_is_computed_anew(
    tiny_assistant: VisionLanguageModel, images: Path
) -> None:
    names = NAMES[:3]
    before = cached(tiny_assistant, images, names)[0].get(names)
    Image.new("RGB", (28, 28), "green").save(images / names[1])
    with pytest.raises(LaternaError, match=r"1\.png: is another image"):
        cached(tiny_assistant, images, names)[0].get(names)
    store, told = cached(tiny_assistant, images, names)
    assert told == [3]
    same = [torch.equal(*pair) for pair in zip(store.get(names), before, strict=True)]
    assert same == [True, False, True]


class ToldFolder(ImageFolder):
    """Tells which images are looked at, and which are read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.looked: list[str] = []
        self.read: list[str] = []

    def stamp(self, name: str) -> Stamp:
        self.looked.append(name)
        return super().stamp(name)

    def find(self, name: str) -> Path:
        self.read.append(name)
        return super().find(name)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let images be old enough to be known by their times as soon as they are written."""
    monkeypatch.setattr(fingerprints, "RACY_NS", -1)


def again(assistant: VisionLanguageModel, folder: ToldFolder, names: list[str]) -> FeatureStore:
    """As another process would ask for them, counting from 0."""
    folder.looked.clear()
    folder.read.clear()
    cache = folder.folder.parent / "cache"
    nothing = lambda done, total: None  # noqa: E731
    return cached_features(
        assistant.vision,
        assistant.prepare,
        names,
        folder,
        cache,
        nothing,
        max_gb=1,
        announce=lambda said: None,
    )


@pytest.mark.usefixtures("settled")
def test_a_second_start_looks_at_no_image_until_it_is_used(
    tiny_assistant: VisionLanguageModel, images: Path
) -> None:
    folder = ToldFolder(images)
    first = again(tiny_assistant, folder, NAMES).get(NAMES)
    store = again(tiny_assistant, folder, NAMES)
    assert (folder.looked, folder.read) == ([], [])
    assert torch.equal(store.get([NAMES[4], NAMES[7], NAMES[4]]), first[[4, 7, 4]])
    assert (folder.looked, folder.read) == ([NAMES[4], NAMES[7]], [])
    again(tiny_assistant, folder, NAMES[:9])  # other data: looked at, read once to be encoded
    assert (sorted(set(folder.looked)), folder.read) == (sorted(NAMES[:9]), NAMES[:9])


@pytest.mark.usefixtures("settled")
def test_a_image_that_was_only_touched_keeps_its_features(
    tiny_assistant: VisionLanguageModel, images: Path
) -> None:
    folder = ToldFolder(images)
    first = again(tiny_assistant, folder, NAMES[:3]).get(NAMES[:3])
    os.utime(images / NAMES[1])
    store = again(tiny_assistant, folder, NAMES[:3])
    assert torch.equal(store.get(NAMES[:3]), first)
    assert folder.read == [NAMES[1]]


@pytest.mark.usefixtures("settled")
def test_a_image_changed_since_is_named_when_it_is_used_and_computed_at_the_next_start(
    tiny_assistant: VisionLanguageModel, images: Path
) -> None:
    folder = ToldFolder(images)
    first = again(tiny_assistant, folder, NAMES[:3]).get(NAMES[:3])
    was = (images / NAMES[1]).stat()
    pixels = np.asarray(Image.open(images / NAMES[1]))
    Image.fromarray(255 - pixels).save(images / NAMES[1])
    os.utime(images / NAMES[1], ns=(was.st_atime_ns, was.st_mtime_ns))
    store = again(tiny_assistant, folder, NAMES[:3])
    assert torch.equal(store.get(NAMES[:1]), first[:1])
    with pytest.raises(LaternaError, match=r"^1\.png: is another image than the one whose"):
        store.get(NAMES[1:2])
    same = [
        torch.equal(*pair)
        for pair in zip(again(tiny_assistant, folder, NAMES[:3]).get(NAMES[:3]), first, strict=True)
    ]
    assert same == [True, False, True]


def test_other_weights_or_settings_are_computed_anew(
    tiny_assistant: VisionLanguageModel, images: Path
) -> None:
    cached(tiny_assistant, images, NAMES[:2])
    with torch.no_grad():
        tiny_assistant.vision.model.encoder.layers[1].mlp.fc2.bias[0] += 1e-3
    assert cached(tiny_assistant, images, NAMES[:2])[1] == [2]
    tiny_assistant.vision.class_token = True
    tiny_assistant.vision.patches += 1
    store, told = cached(tiny_assistant, images, NAMES[:2])
    assert told == [2]
    assert store.get(NAMES[:2]).shape == (2, 5, 24)


def test_equal_images_are_computed_once(tiny_assistant: VisionLanguageModel, images: Path) -> None:
    (images / "copy.png").write_bytes((images / NAMES[0]).read_bytes())
    store, told = cached(tiny_assistant, images, [NAMES[0], "copy.png"])
    assert told == [1]
    assert torch.equal(*store.get([NAMES[0], "copy.png"]))


def test_an_interrupted_computation_leaves_nothing_under_its_name(
    tiny_assistant: VisionLanguageModel, images: Path
) -> None:
    (images / NAMES[1]).write_bytes(b"not an image")
    with pytest.raises(LaternaError, match=r"1\.png"):
        cached(tiny_assistant, images, NAMES[:2])
    assert list((images.parent / "cache").iterdir()) == []


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
@pytest.mark.parametrize("name", ["rows.sha256", "images.arrow", "manifest.json"])
def test_a_damaged_set_is_named_and_made_again(
    tiny_assistant: VisionLanguageModel,
    images: Path,
    name: str,
    how: str,
    damage: Callable[[Path, str], None],
) -> None:
    first, _ = cached(tiny_assistant, images, NAMES[:5])
    wanted = first.get(NAMES[:5]).clone()
    (path,) = (images.parent / "cache").rglob(name)
    damage(path, how)
    if (name, how) == ("manifest.json", "cut"):  # of a line break that no reader needs
        damage(path, how)
    told: list[str] = []
    again, computed = cached(tiny_assistant, images, NAMES[:5], announce=told.append)
    assert computed == [5]
    assert str(path.parent) in told[0]
    assert name in told[0] or (name, how) == ("manifest.json", "gone")
    assert told[0].endswith("; the features are computed again")
    assert torch.equal(again.get(NAMES[:5]), wanted)
    assert cached(tiny_assistant, images, NAMES[:5])[1] == []


@pytest.mark.parametrize("place", [3, 200, -1])
def test_features_that_are_not_as_they_were_written_are_told_when_they_are_read(
    tiny_assistant: VisionLanguageModel, images: Path, place: int
) -> None:
    first, _ = cached(tiny_assistant, images, NAMES[:5])
    wanted = first.get(NAMES[:5]).clone()
    (path,) = (images.parent / "cache").rglob("features.npy")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    store, computed = cached(tiny_assistant, images, NAMES[:5])
    assert computed == [], "a start does not read the features"
    with pytest.raises(LaternaError, match=r"features\.npy: its checksum differs; run the same"):
        store.get(NAMES[:5])
    again, computed = cached(tiny_assistant, images, NAMES[:5])
    assert computed == [5]
    assert torch.equal(again.get(NAMES[:5]), wanted)


@pytest.mark.parametrize("how", ["cut", "gone"])
def test_features_of_another_size_are_named_and_made_again(
    tiny_assistant: VisionLanguageModel,
    images: Path,
    how: str,
    damage: Callable[[Path, str], None],
) -> None:
    cached(tiny_assistant, images, NAMES[:5])
    (path,) = (images.parent / "cache").rglob("features.npy")
    damage(path, how)
    told: list[str] = []
    assert cached(tiny_assistant, images, NAMES[:5], announce=told.append)[1] == [5]
    assert told[0].startswith(f"{path}: missing, or its size differs from what was written; the")


def test_missing_images_are_named(tiny_assistant: VisionLanguageModel, images: Path) -> None:
    with pytest.raises(LaternaError, match=r"none\.png: cannot read the image: No such file"):
        cached(tiny_assistant, images, ["none.png"])
    store, _ = cached(tiny_assistant, images, NAMES[:1])
    with pytest.raises(LaternaError, match=r"2\.png: not among the cached features"):
        store.get([NAMES[2]])


def test_a_set_says_how_large_it_will_be_once(
    tiny_assistant: VisionLanguageModel, images: Path
) -> None:
    told: list[str] = []
    names = [*NAMES[:5], NAMES[0]]
    store, _ = cached(tiny_assistant, images, names, announce=told.append)
    cached(tiny_assistant, images, names, announce=told.append)
    assert store.get(NAMES[:5]).numel() * 4 == 5 * 4 * 24 * 4 == 1920
    place = images.parent / "cache"
    assert told == [f"{place}: the features of 5 images take 1,920 bytes (0.000 GB)"]


def test_a_set_larger_than_the_limit_is_refused_and_leaves_nothing(
    tiny_assistant: VisionLanguageModel, images: Path
) -> None:
    cached(tiny_assistant, images, NAMES[:5], max_gb=2e-6)
    six = r"features of 6 images take 2,304 bytes \(0\.000 GB\), more than run\.max_feature_gb = "
    with pytest.raises(LaternaError, match=six + r"2e-06 allows; set that higher, or set feat"):
        cached(tiny_assistant, images, NAMES[:6], max_gb=2e-6)
    assert len(list((images.parent / "cache").iterdir())) == 1
    store, told = cached(tiny_assistant, images, NAMES[:5], max_gb=0)
    assert (len(store.get(NAMES[:5])), told) == (5, []), "what is there is used, whatever its size"


def test_a_set_larger_than_the_disk_is_refused(
    tiny_assistant: VisionLanguageModel, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=383))
    with pytest.raises(
        LaternaError, match=r"384 bytes \(0\.000 GB\), but its disk has 0\.000 GB free; make"
    ):
        cached(tiny_assistant, images, NAMES[:1])
    assert list((images.parent / "cache").iterdir()) == []
