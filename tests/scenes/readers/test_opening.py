from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from laterna.errors import LaternaError
from laterna.scenes.readers.files import open_source


def test_gzip_is_told_by_the_content(tmp_path: Path) -> None:
    packed, plain = tmp_path / "plain.json", tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(b"one\ntwo\n"))
    plain.write_bytes(b"one\ntwo\n")
    for path in (packed, plain):
        with open_source(path) as file:
            assert list(file) == [b"one\n", b"two\n"]


@pytest.mark.parametrize("damage", ["cut", "checksum", "body"])
def test_broken_gzip_is_named(tmp_path: Path, damage: str) -> None:
    content = bytearray(gzip.compress(b"some annotations" * 100))
    if damage == "cut":
        del content[-12:]
    else:
        content[-8 if damage == "checksum" else 12] ^= 0xFF
    path = tmp_path / "a.json.gz"
    path.write_bytes(content)
    with pytest.raises(LaternaError, match=r"a\.json\.gz: broken gzip"), open_source(path) as file:
        file.read()
