"""Says what an annotation file is that no reader here reads, and how to make one of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from laterna.errors import LaternaError
from laterna.scenes.readers.files import Head, peek

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

_LOOKED_AT = 100
"""Files of a folder that are looked into."""


class _Form(NamedTuple):
    known_by: Callable[[Head], bool]
    advice: str
    """What it looks like, and what to do."""


def _starts(*starts: bytes) -> Callable[[Head], bool]:
    return lambda head: head.content.lstrip().lower().startswith(starts)


def _keys(*names: str) -> Callable[[Head], bool]:
    """Tell by keys that one of the file's objects has together."""
    return lambda head: any(set(names) <= keys for keys in head.keys.values())


def _columns(*names: str) -> Callable[[Head], bool]:
    """Tell a table by names in its first line."""
    return lambda head: all(name in head.line.lower() for name in names)


_TO_COCO = "export it as COCO (instances.json and captions.json)"
_FORMS = (
    _Form(_starts(b"version https://git-lfs"), "a pointer of Git LFS; fetch it with git lfs pull"),
    _Form(_starts(b"<!doctype html", b"<html"), "a web page; fetch the file itself again"),
    _Form(_starts(b"pk\x03\x04"), "a zip archive; unpack it and name the folder"),
    _Form(_starts(b"par1"), f"a Parquet table; {_TO_COCO} or write JSON lines of contexts"),
    _Form(_starts(b"\xff\xd8\xff", b"\x89png"), "a picture; name the annotations, not a picture"),
    _Form(_starts(b"%pdf"), f"a PDF; {_TO_COCO}"),
    _Form(_starts(b"\x80\x03", b"\x80\x04", b"\x80\x05"), f"a pickle, never opened; {_TO_COCO}"),
    _Form(
        _keys("image_id", "score"),
        "a COCO results list (detections), which names no pictures; name the annotations that it "
        "was made for",
    ),
    _Form(
        _keys("image_id", "caption"),
        "a list of captions without pictures' names (COCO's results); put it as `annotations` into "
        "an object with the `images` of its dataset",
    ),
    _Form(
        _keys("regions", "id"),
        "Visual Genome's region descriptions, which speak of parts of pictures; name objects.json",
    ),
    _Form(_keys("conversations"), "instruction records; give them to train or inspect instead"),
    _Form(_keys("messages"), "instruction records; give them to train or inspect instead"),
    _Form(
        _keys("sentences", "filename"),
        "Karpathy's splits; write a table `image,caption` of its sentences",
    ),
    _Form(_keys("shapes", "imagePath"), f"a labelme file; {_TO_COCO} (labelme2coco)"),
    _Form(_keys("_via_img_metadata"), f"a VIA project; {_TO_COCO} in VIA itself"),
    _Form(_keys("shape_attributes"), f"VIA's JSON; {_TO_COCO} in VIA itself"),
    _Form(_keys("image", "annotations"), f"CreateML's JSON; {_TO_COCO}"),
    _Form(_keys("name", "labels"), f"BDD100K's or Scalabel's JSON; {_TO_COCO} (to_coco)"),
    _Form(_keys("data_row"), f"Labelbox' JSON lines; {_TO_COCO}"),
    _Form(_keys("items", "categories"), f"Datumaro's JSON; {_TO_COCO} (datum convert -f coco)"),
    _Form(_keys("ref_id", "sent_ids"), f"referring expressions (RefCOCO); {_TO_COCO}"),
    _Form(_keys("classTitle"), f"Supervisely's JSON; {_TO_COCO}"),
    _Form(_keys("task_id", "params"), f"Scale's JSON; {_TO_COCO}"),
    _Form(_keys("filepath", "ground_truth"), f"FiftyOne's JSON; {_TO_COCO} (COCODetectionDataset)"),
    _Form(_keys("file_name", "objects"), f"an image folder's metadata.jsonl; {_TO_COCO}"),
    _Form(
        _keys("file_name", "text"),
        "an image folder's metadata.jsonl with captions; write a table `image,caption` of it",
    ),
    _Form(_columns("region_shape_attributes"), f"VIA's CSV; {_TO_COCO} in VIA itself"),
    _Form(
        _columns("xmin", "ymin", "xmax", "ymax", ","),
        f"a table of boxes (TensorFlow's, Roboflow's CSV); {_TO_COCO} or Pascal VOC",
    ),
    _Form(_starts(b"imagesource:"), f"DOTA's turned boxes; {_TO_COCO}"),
    _Form(_keys("image", "question"), "questions and answers; they are no annotations"),
)


def foreign_form(path: Path) -> str:
    """Return what a file looks like that no reader reads, and what to do; "" where unknown."""
    head = peek(path)
    return next((form.advice for form in _FORMS if form.known_by(head)), "")


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
    others = [file for file in files if file.suffix.lower() not in _PICTURES]
    for file in others[:_LOOKED_AT]:
        if advice := foreign_form(file):
            return LaternaError(
                f"{path}: no form that can be read; {file.relative_to(path)} in it looks like "
                f"{advice}"
            )
    what = f"it holds {len(files) - len(others)} pictures and {len(others)} other files"
    return LaternaError(f"{path}: a folder without annotations ({what}); known are: {known}")
