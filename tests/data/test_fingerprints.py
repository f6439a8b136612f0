"""Digests that are remembered: what is read again, and what is not."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from laterna.data import fingerprints
from laterna.data.fingerprints import Fingerprints


def again(known: Fingerprints, path: Path) -> str:
    """As another start asks, which remembers in the same folder."""
    return Fingerprints(known.folder).of(str(path))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read; all are old enough to be remembered."""
    names: list[str] = []
    real = fingerprints.sha256_of

    def told(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(fingerprints, "sha256_of", told)
    monkeypatch.setattr(fingerprints, "RACY_NS", -1)
    return names


def test_a_file_that_is_as_it_was_is_read_once(tmp_path: Path, read: list[str]) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(b"[1]")
    for _ in range(3):  # each time by another that remembers in the same folder
        found = Fingerprints(tmp_path / "known").of(str(path))
        assert found == sha256(b"[1]").hexdigest()
    assert read == ["data.json"]


def test_other_bytes_are_noticed_whatever_the_time_that_the_file_claims(
    tmp_path: Path, read: list[str]
) -> None:
    path = tmp_path / "data.json"
    known = Fingerprints(tmp_path / "known")
    path.write_bytes(b"[1]")
    was = path.stat()
    again(known, path)
    path.write_bytes(b"[2]")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    assert again(known, path) == sha256(b"[2]").hexdigest()
    assert read == ["data.json", "data.json"]


def test_a_file_just_written_is_not_remembered_yet(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "RACY_NS", 10**12)
    path = tmp_path / "data.json"
    path.write_bytes(b"[1]")
    known = Fingerprints(tmp_path / "known")
    assert again(known, path) == again(known, path)
    assert read == ["data.json", "data.json"]


def test_of_a_folder_only_what_changed_is_read_again(tmp_path: Path, read: list[str]) -> None:
    folder = tmp_path / "set"
    (folder / "more").mkdir(parents=True)
    (folder / "a").write_bytes(b"1")
    (folder / "more" / "b").write_bytes(b"2")
    known = Fingerprints(tmp_path / "known")
    first = again(known, folder)
    lines = [f"{name} {sha256(text).hexdigest()}" for name, text in (("a", b"1"), ("more/b", b"2"))]
    assert first == sha256("\n".join(lines).encode()).hexdigest()
    assert again(known, folder) == first
    (folder / "more" / "b").write_bytes(b"3")
    (folder / "c").write_bytes(b"")
    assert again(known, folder) != first
    assert read == ["a", "b", "c", "b"]


def test_a_folder_that_is_as_it_was_is_listed_and_nothing_more(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    (folder / "more").mkdir(parents=True)
    (folder / "more-of-it").mkdir()
    for name in ("more/b", "more-of-it/a", "z"):
        (folder / name).write_text(name)
    (folder / "linked").symlink_to(folder / "z")
    (folder / "linked_folder").symlink_to(folder / "more")
    (folder / "broken").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe")
    known = Fingerprints(tmp_path / "known")
    first = again(known, folder)
    # In the order of paths, part by part: by letters `more-of-it/a` would come before `more/b`.
    wanted = [("linked", "z"), ("more/b",) * 2, ("more-of-it/a",) * 2, ("z", "z")]
    lines = [f"{name} {sha256(text.encode()).hexdigest()}" for name, text in wanted]
    assert first == sha256("\n".join(lines).encode()).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "sha256_of", lambda _: pytest.fail("a file was read"))
        assert again(known, folder) == first
    (folder / "z").touch()  # its bytes are the same, its times are not
    assert again(known, folder) == first
    was = (folder / "more" / "b").stat()
    (folder / "more" / "b").write_text("MORE/B")
    os.utime(folder / "more" / "b", ns=(was.st_atime_ns, was.st_mtime_ns))
    assert again(known, folder) != first


def test_of_a_folder_just_written_to_nothing_is_remembered(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "RACY_NS", 10**12)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").write_text("1")
    known = Fingerprints(tmp_path / "known")
    assert again(known, tmp_path / "set") == again(known, tmp_path / "set")
    assert read == ["a", "a"]


def test_what_is_damaged_is_found_again(tmp_path: Path, read: list[str]) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(b"[1]")
    known = Fingerprints(tmp_path / "known")
    again(known, path)
    (remembered,) = known.folder.iterdir()
    remembered.write_text('{"": {"stamp": [1, 2]')
    assert again(known, path) == sha256(b"[1]").hexdigest()
    assert read == ["data.json", "data.json"]
