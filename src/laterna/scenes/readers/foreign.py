"""Says what an annotation file is that no reader here reads, and how to make one of it."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import msgspec

from laterna.errors import LaternaError
from laterna.files import some
from laterna.scenes.readers.files import Head, peek

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

_LOOKED_AT = 100
"""Files of a folder that are looked into."""


class _Form(msgspec.Struct, forbid_unknown_fields=True):
    advice: str
    """What it looks like, and what to do."""
    starts: tuple[str, ...] = ()
    keys: frozenset[str] = frozenset()
    columns: tuple[str, ...] = ()
    line: str = ""

    def fits(self, head: Head) -> bool:
        """Tell a file by how it begins, by keys that one of its objects has together, by names in
        its first line, or by a pattern of that line.
        """
        if self.line:
            return re.fullmatch(self.line, head.line) is not None
        if self.columns:
            return all(name in head.line.lower() for name in self.columns)
        start = head.content.lstrip().lower().decode("latin-1")
        told = any(self.keys <= keys for keys in head.keys.values())
        return start.startswith(self.starts) if self.starts else told


_FORMS = msgspec.toml.decode(
    resources.files(__package__).joinpath("foreign.toml").read_bytes(),
    type=dict[str, tuple[_Form, ...]],
)["forms"]
_TO_COCO = "export it as COCO (instances.json and captions.json)"


def foreign_form(path: Path) -> str:
    """Return what a file looks like that no reader reads, and what to do; "" where unknown."""
    head = peek(path)
    found = next((form.advice for form in _FORMS if form.fits(head)), "")
    return found.replace("<to COCO>", _TO_COCO)


def refuse(path: Path, known: str) -> LaternaError:
    """Return the error of a file or folder in no form that is `known`: what it is, what to do."""
    if path.is_dir():
        return _refuse_folder(path, known)
    head = peek(path)
    if not head.content.strip():
        return LaternaError(f"{path}: the file is empty")
    if advice := foreign_form(path):
        return LaternaError(f"{path}: looks like {advice}")
    shown = head.line[:60]
    keys = ", ".join(sorted(head.keys.get("", head.keys.get("item", frozenset()))))[:80]
    keys = "".join(sign if sign.isprintable() else "?" for sign in keys)
    seen = f"an object with {keys}" if keys else f"what begins {shown!r}"
    return LaternaError(f"{path}: in no known form ({seen}); known are: {known}")


def _refuse_folder(path: Path, known: str) -> LaternaError:
    """Name the first file of a foreign form, in the folder or one below; else what it holds."""
    folders = [
        path,
        *sorted(one for one in path.iterdir() if one.is_dir() and not one.is_symlink()),
    ]
    files = [
        file for folder in folders for file in sorted(folder.iterdir())[:1000] if file.is_file()
    ]
    others = [file for file in files if file.suffix.lower() not in _IMAGES]
    for file in others[:_LOOKED_AT]:
        if advice := foreign_form(file):
            return LaternaError(
                f"{path}: no form that can be read; {file.relative_to(path)} in it looks like "
                f"{advice}"
            )
    named = [str(file.relative_to(path)) for file in others]
    what = f"it holds {len(files) - len(others)} images and "
    what += f"{len(others)} other files: {some(named)}" if named else "nothing else"
    return LaternaError(f"{path}: a folder without annotations ({what}); known are: {known}")
