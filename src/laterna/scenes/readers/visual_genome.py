"""Reads Visual Genome: `objects.json`, with the images' sizes from `image_data.json`.

Its region descriptions are left: they speak of parts of an image, captions of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from laterna.errors import LaternaError
from laterna.scenes.readers import base
from laterna.scenes.readers.files import peek, read_json


def looks_like(path: Path) -> bool:
    """Tell a list of images with `objects`, or a folder with an `objects.json` of that form."""
    keys = peek(_file(path)).keys
    item, things = keys.get("item", frozenset()), keys.get("item.objects.item", frozenset())
    # version 1.0 calls the image's number `id`
    return "objects" in item and ("image_id" in item or {"x", "y", "w", "h"} <= things)


def read(source: base.Source) -> base.Found:
    """Return the scenes in the file's order; raises LaternaError when it is no list."""
    path = _file(source.path)
    images = read_json(path)
    if not isinstance(images, list):
        raise LaternaError(f"{path}: not a list of images like Visual Genome's objects.json")
    sizes = path.with_name("image_data.json")
    data = base.entries(read_json(sizes)) if sizes.is_file() else []
    known = {base.text_of(image.get("image_id") or image.get("id")): image for image in data}
    folder = path.parent
    return base.Found(
        path,
        scenes=_scenes(images, known, source),
        folders=(folder, folder / "images", folder / "VG_100K", folder / "VG_100K_2"),
    )


def _file(path: Path) -> Path:
    return path / "objects.json" if path.is_dir() else path


def _scenes(
    images: list[object], known: dict[str, Mapping[str, object]], source: base.Source
) -> Iterator[base.RawScene]:
    for _, entry in base.objects_in(images, f"{source.path}: entry", source.problems):
        number = base.text_of(entry.get("image_id") or entry.get("id"))
        image = known.get(number, {})
        yield base.RawScene(
            id=number,
            image=_name(number, image.get("url") or entry.get("image_url")),
            where=f"image {number}",
            width=image.get("width"),
            height=image.get("height"),
            boxes=(_box(thing, number) for thing in base.entries(entry.get("objects"))),
        )


def _name(number: str, url: object) -> str:
    """Return `VG_100K_2/1.jpg` of an image's address, as LLaVA's sets name it, or `1.jpg`."""
    parts = PurePosixPath(base.text_of(url).partition("?")[0]).parts[-2:]
    if len(parts) == 2 and parts[0].startswith("VG_100K"):
        return "/".join(parts)
    return f"{number}.jpg" if number else ""


def _box(thing: Mapping[str, object], image: str) -> base.RawBox:
    names = thing.get("names") or [thing.get("name")]
    category = base.category_name(names[0] if isinstance(names, list) and names else names)
    found = base.corners_of_size([thing.get(name) for name in ("x", "y", "w", "h")])
    where = f"image {image}, object {base.text_of(thing.get('object_id') or thing.get('id'))}"
    return base.RawBox(where, category, found)
