"""Says what an annotation file is that no reader here reads, and how to make one of it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import msgspec

from laterna.errors import LaternaError
from laterna.scenes.readers.files import Head, peek

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class _Form(msgspec.Struct, forbid_unknown_fields=True):
    advice: str
    """What it looks like, and what to do."""
    starts: tuple[str, ...] = ()
    keys: frozenset[str] = frozenset()

    def fits(self, head: Head) -> bool:
        """Tell a file by how it begins, or by keys that one of its objects has together."""
        start = head.content.lstrip().lower().decode("latin-1")
        told = any(self.keys <= keys for keys in head.keys.values())
        return start.startswith(self.starts) if self.starts else told


_FORMS = msgspec.toml.decode(
    resources.files(__package__).joinpath("foreign.toml").read_bytes(),
    type=dict[str, tuple[_Form, ...]],
)["forms"]
_TO_COCO = "export it as COCO (instances.json and captions.json)"


def refuse(path: Path, known: str) -> LaternaError:
    """Return the error of a file or folder in no form that is `known`: what it is, what to do."""
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.is_file()][:1000]
        pictures = sum(file.suffix.lower() in _PICTURES for file in files)
        what = f"it holds {pictures} pictures and {len(files) - pictures} other files"
        return LaternaError(f"{path}: a folder without annotations ({what}); known are: {known}")
    head = peek(path)
    if not head.content.strip():
        return LaternaError(f"{path}: the file is empty")
    for form in _FORMS:
        if form.fits(head):
            advice = form.advice.replace("<to COCO>", _TO_COCO)
            return LaternaError(f"{path}: looks like {advice}")
    shown = head.line[:60]
    keys = ", ".join(sorted(head.keys.get("", head.keys.get("item", frozenset()))))[:80]
    keys = "".join(sign if sign.isprintable() else "?" for sign in keys)
    seen = f"an object with {keys}" if keys else f"what begins {shown!r}"
    return LaternaError(f"{path}: in no known form ({seen}); known are: {known}")
