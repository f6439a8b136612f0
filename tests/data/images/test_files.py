"""Images by name from folders, zip files and tar shards."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from laterna.data import fingerprints
from laterna.data.images import files as image_files
from laterna.data.images import files as tar_listing
from laterna.data.images.files import OutsideImageError, open_images
from laterna.data.images.opening import MissingImageError, load_image
from laterna.errors import LaternaError


def png(colour: str) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(sink, "PNG")
    return sink.getvalue()


IMAGES = {"a/red.png": png("red"), "blue.png": png("blue")}


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture(params=["folder", "zip", "tar", "shards"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same two images in each kind of place; no file's name says what it is."""
    if request.param == "folder":
        for name, content in IMAGES.items():
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return str(tmp_path / "images")
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "images", "w") as archive:
            for name, content in IMAGES.items():
                archive.writestr(name, content)
        return str(tmp_path / "images")
    if request.param == "tar":
        with tarfile.open(tmp_path / "images", "w") as tar:
            for name, content in IMAGES.items():
                add(tar, f"./{name}", content)
        return str(tmp_path / "images")
    for number, (name, content) in enumerate(IMAGES.items()):
        with tarfile.open(tmp_path / f"{number:05}", "w") as tar:
            add(tar, name, content)
            add(tar, f"{number}.json", b"{}")
    return str(tmp_path / "0000*")


def test_a_image_is_found_by_its_name(where: str) -> None:
    images = open_images(where)
    for name in ("blue.png", "a/red.png", "blue.png"):
        found = images.find(name)
        assert (found.read_bytes() if isinstance(found, Path) else found) == IMAGES[name]


def test_a_missing_image_is_named(where: str) -> None:
    with pytest.raises(MissingImageError, match=r"green\.png: no such image"):
        found = open_images(where).find("green.png")
        load_image(Path(str(found)))


def test_one_image_is_one_by_whatever_name(where: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    one = open_images(where)
    other = open_images(str(tmp_path / "link" / Path(where).name))
    assert one.identity("a/red.png") == other.identity("a/red.png") != one.identity("blue.png")
    assert one.identity("green.png") == other.identity("green.png")


def test_links_to_a_image_are_that_image(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.png").write_bytes(png("red"))
    (tmp_path / "other.png").symlink_to("a/b/c.png")
    expected = str((tmp_path / "a" / "b" / "c.png").resolve())
    for folder, name in (
        ("a/b", "c.png"),
        ("a", "b/c.png"),
        (".", "other.png"),
        ("a/b", "../b/c.png"),
    ):
        assert open_images(str(tmp_path / folder)).identity(name) == expected


def test_what_holds_no_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("words")
    with pytest.raises(LaternaError, match="words: neither a folder, nor a zip file, nor tar"):
        open_images(str(tmp_path / "words"))
    with pytest.raises(LaternaError, match="none: cannot be read: No such file"):
        open_images(str(tmp_path / "none"))
    with pytest.raises(LaternaError, match="no file has such a name"):
        open_images(str(tmp_path / "none*"))


def damaged(whole: bytes, how: str) -> bytes:
    if how == "directory":
        at = whole.rfind(b"PK\x01\x02")
        return whole[:at] + b"XXXX" + whole[at + 4 :]
    if how == "front":
        return whole[60:]
    return whole[:41] + b"\xff" * 9 + whole[50:]


@pytest.mark.parametrize("how", ["directory", "front", "member"])
def test_a_damaged_zip_file_is_named(how: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "whole.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("blue.png", bytes(range(256)) * 8)
        archive.writestr("red.png", bytes(range(256)) * 8)
    path = tmp_path / "a.zip"
    path.write_bytes(damaged((tmp_path / "whole.zip").read_bytes(), how))
    with pytest.raises(LaternaError, match=r"a\.zip: .*(cannot be unpacked|can be read): ."):
        open_images(str(path)).find("blue.png")


def test_a_member_that_would_fill_the_memory_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert image_files.MAX_BYTES == 715_827_880
    monkeypatch.setattr(image_files, "MAX_BYTES", 100)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large.png", b"\0" * 101)
        archive.writestr("fits.png", b"\0" * 100)
    images = open_images(str(tmp_path / "a.zip"))
    assert images.find("fits.png") == b"\0" * 100
    with pytest.raises(LaternaError, match=r"large\.png: unpacks to 101 bytes, too large"):
        images.find("large.png")


def test_a_tar_file_that_is_as_it_was_is_not_walked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "RACY_NS", -1)
    path, memory = tmp_path / "a.tar", tmp_path / "memory"
    with tarfile.open(path, "w") as tar:
        add(tar, "./blue.png", png("blue"))
    assert open_images(str(path), memory).find("blue.png") == png("blue")
    real = tarfile.open
    with monkeypatch.context() as patch:
        patch.setattr(tar_listing.tarfile, "open", lambda *_: pytest.fail("walked again"))
        patch.setattr(tarfile, "is_tarfile", lambda _: True)
        assert open_images(str(path), memory).find("blue.png") == png("blue")
    with real(path, "w") as tar:
        add(tar, "more/red.png", png("red"))
        add(tar, "blue.png", png("yellow"))
    changed = open_images(str(path), memory)
    assert (changed.find("more/red.png"), changed.find("blue.png")) == (png("red"), png("yellow"))
    (listing,) = memory.iterdir()
    listing.write_bytes(b"torn")
    assert open_images(str(path), memory).find("blue.png") == png("yellow")


def test_a_tar_file_just_written_is_not_remembered(tmp_path: Path) -> None:
    """Within a tick of its file system's clock it could be written again and look the same."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "blue.png", png("blue"))
    open_images(str(tmp_path / "a.tar"), tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


def test_a_name_twice_in_a_shard_is_an_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a.png", png("red"))
        add(tar, "./a.png", png("blue"))
    with pytest.raises(LaternaError, match=r"a\.tar: a\.png is in it twice; which is meant\?"):
        open_images(str(tmp_path / "a.tar"))


def test_a_name_in_two_shards_is_an_error(tmp_path: Path) -> None:
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}", "w") as tar:
            add(tar, "a.png", png("red"))
    with pytest.raises(LaternaError, match=r"1: a\.png is in .*0 too; which is meant\?"):
        open_images(str(tmp_path / "*"))


@pytest.fixture
def images_and_others(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "in.png").write_bytes(png("red"))
    (tmp_path / "out.png").write_bytes(png("blue"))
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    (folder / "within.png").symlink_to("a/in.png")
    (folder / "above").symlink_to(tmp_path)
    return folder


@pytest.mark.parametrize(
    "name", ["../out.png", "a/../../out.png", "link.png", "above/out.png", "{}/out.png", ".."]
)
def test_names_that_lead_outside_are_refused_unless_allowed(
    name: str, images_and_others: Path
) -> None:
    name = name.format(images_and_others.parent)
    with pytest.raises(OutsideImageError, match="set `allow_outside = true` beside `images`"):
        open_images(str(images_and_others)).find(name)
    found = open_images(str(images_and_others), allow_outside=True).find(name)
    assert found == images_and_others / name


@pytest.mark.parametrize("name", ["a/in.png", "./a/in.png", "a/../a/in.png", "within.png", "none"])
def test_names_that_stay_inside_are_found(name: str, images_and_others: Path) -> None:
    found = open_images(str(images_and_others)).find(name)
    assert found == images_and_others / name
    whole = str(images_and_others / name)
    assert open_images(str(images_and_others)).find(whole) == images_and_others / name
    assert open_images("/").find(whole) == images_and_others / name


@pytest.mark.parametrize("how", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_unpacked_once(how: str, tmp_path: Path) -> None:
    path, memory = tmp_path / "a.tar", tmp_path / "memory"
    with tarfile.open(path, how) as tar:  # type: ignore[call-overload]
        for name, content in IMAGES.items():
            add(tar, f"./{name}", content)
    for _ in range(2):
        assert open_images(str(path), memory).find("./blue.png") == IMAGES["blue.png"]
        assert len(list(memory.glob("*.tar"))) == 1
    with pytest.raises(LaternaError, match="unpack the compressed tar file first"):
        open_images(str(path))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(LaternaError, match=r"a\.tar: (cannot be unpacked|neither a folder)"):
        open_images(str(path), memory)
    assert len(list(memory.iterdir())) == len(list(memory.glob("*.tar"))) + len(
        list(memory.glob("*.json"))
    )


def test_a_name_in_an_archive_needs_no_dot(where: str) -> None:
    images = open_images(where)
    for name in ("./blue.png", ".//blue.png", "a/./red.png"):
        found = images.find(name)
        content = found.read_bytes() if isinstance(found, Path) else found
        assert content == IMAGES["a/red.png" if "red" in name else "blue.png"]
        assert images.identity("./blue.png") == images.identity("blue.png")
