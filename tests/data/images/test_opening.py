"""Images: what a person sees in a file, and a name for what is wrong with one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from laterna.data.images import opening
from laterna.data.images.opening import (
    MissingImageError,
    check_image,
    image_size,
    load_image,
)
from laterna.errors import LaternaError

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def halves(width: int, height: int) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    ImageDraw.Draw(image).rectangle((width // 2, 0, width, height), fill=BLUE)
    return image


def test_orientation_is_what_a_person_sees(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter to the right
    halves(40, 20).save(tmp_path / "a.png", exif=exif)
    image = load_image(tmp_path / "a.png")
    assert image.size == (20, 40)
    assert image.getpixel((5, 5)) == RED
    assert image.getpixel((5, 35)) == BLUE


@pytest.mark.parametrize("form", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(9))
def test_a_size_read_alone_is_that_of_the_opened_image(
    form: str, orientation: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{form}"
    halves(40, 20).save(path, exif=exif)
    turned = orientation in (5, 6, 7, 8)
    assert image_size(path) == load_image(path).size == ((20, 40) if turned else (40, 20))
    with pytest.raises(MissingImageError, match=r"gone\.png: no such image"):
        image_size(tmp_path / "gone.png")


def test_transparency_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert load_image(tmp_path / "clear.png").getpixel((1, 1)) == WHITE
    Image.new("LA", (4, 4), (0, 128)).save(tmp_path / "half.png")
    assert load_image(tmp_path / "half.png").getpixel((1, 1)) == (127, 127, 127)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 255, 0, 255, 0, 0])
    palette.save(tmp_path / "palette.png")
    assert load_image(tmp_path / "palette.png").getpixel((1, 1)) == RED
    palette.save(tmp_path / "hole.png", transparency=1)
    assert load_image(tmp_path / "hole.png").getpixel((1, 1)) == WHITE


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    seen = np.asarray(load_image(tmp_path / "deep.png"))
    assert seen.tolist() == [[[0] * 3, [1] * 3, [128] * 3, [255] * 3]]


def test_the_level_that_is_clear_in_sixteen_bits_is_white(tmp_path: Path) -> None:
    levels = np.array([[1000, 1001]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "hole.png", transparency=1000)
    seen = np.asarray(load_image(tmp_path / "hole.png"))
    assert seen.tolist() == [[[255] * 3, [4] * 3]]


@pytest.mark.parametrize("form", ["gif", "png", "webp", "tiff"])
def test_of_several_frames_the_first_is_taken(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{form}"
    options = {"lossless": True} if form == "webp" else {}
    first, second = Image.new("RGB", (8, 6), RED), Image.new("RGB", (8, 6), BLUE)
    first.save(path, save_all=True, append_images=[second], **options)
    assert load_image(path).getpixel((1, 1)) == RED
    assert image_size(path) == (8, 6)


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (3, 3), 7).save(tmp_path / "grey.png")
    assert load_image(tmp_path / "grey.png").getpixel((1, 1)) == (7, 7, 7)
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    red, green, blue = load_image(tmp_path / "print.jpg").getpixel((1, 1))
    assert red > 250
    assert max(green, blue) < 5
    Image.new("1", (1, 1), 1).save(tmp_path / "dot.png")
    assert load_image(tmp_path / "dot.png").getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("read", [load_image, check_image])
@pytest.mark.parametrize("form", ["jpg", "png", "webp"])
def test_a_file_cut_short_is_named(read, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"whole.{form}"
    Image.effect_noise((200, 160), 90).convert("RGB").save(path)
    read(path)
    cut = tmp_path / f"cut.{form}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(LaternaError, match=rf"cut\.{form}: cannot be read as an image"):
        read(cut)


@pytest.mark.parametrize("read", [load_image, check_image])
def test_a_file_that_is_no_image_is_named(read, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("words")
    with pytest.raises(LaternaError, match=r"a\.png: cannot be read as an image"):
        read(tmp_path / "a.png")
    with pytest.raises(MissingImageError, match=r"b\.png: no such image"):
        read(tmp_path / "b.png")
    with pytest.raises(LaternaError, match=r"not a file, but a folder, a pipe, a socket or a"):
        read(tmp_path)


@pytest.mark.parametrize("read", [load_image, check_image])
def test_a_bomb_is_refused_before_it_is_opened(
    read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (10_001, 1)).save(tmp_path / "long.png")
    with pytest.raises(LaternaError, match=r"long\.png: 10001×1 pixels is too large"):
        read(tmp_path / "long.png")
    monkeypatch.setattr(opening, "MAX_PIXELS", 99)
    halves(10, 10).save(tmp_path / "many.png")
    with pytest.raises(LaternaError, match=r"many\.png: 10×10 pixels is too large"):
        read(tmp_path / "many.png")


@pytest.mark.parametrize("read", [load_image, check_image, image_size])
def test_pipes_sockets_and_devices_are_never_opened(read, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero")):
            with pytest.raises(LaternaError, match=f"{path}: not a file, but a folder, a pipe"):
                read(path)


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    content = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "a.png").write_bytes(content)
    for source in (tmp_path / "a.png", content):
        with pytest.raises(LaternaError, match=r"a\.png: .* a pointer of Git LFS, not the image"):
            load_image(source, "a.png")
