"""Reads Label Studio's JSON export, whole (`annotations`, `result`) or its short form (JSON-MIN).

Boxes are in percent of the image; polygons and ellipses are read as the box around them; a text
area's answer is taken for a caption.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from laterna.errors import LaternaError
from laterna.scenes.readers import base
from laterna.scenes.readers.files import peek, read_json

Row = Mapping[str, object]
_SHAPE = "labels"
"""How the key of a shape's labels ends: `rectanglelabels`, `polygonlabels`, `brushlabels`, …"""
_IMAGE = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def looks_like(path: Path) -> bool:
    """Tell a list of tasks with `data` and `annotations`, or of images with labeled boxes."""
    head = peek(path) if path.is_file() else None
    if head is None:
        return False
    item = head.keys.get("item", frozenset()) | head.keys.get("", frozenset())
    whole = "data" in item and bool(item & {"annotations", "completions"})
    short = any(key.endswith(_SHAPE) for keys in head.keys.values() for key in keys)
    return whole or ("image" in item and short)


def read(source: base.Source) -> base.Found:
    """Return the scenes in the export's order; raises LaternaError when it is no list."""
    tasks = read_json(source.path)
    tasks = [tasks] if isinstance(tasks, dict) else tasks
    if not isinstance(tasks, list):
        raise LaternaError(f"{source.path}: not a list of tasks as Label Studio exports it")
    scenes = list(_scenes(tasks, source))
    folder = source.path.parent
    return base.Found(
        source.path,
        scenes=iter(scenes),
        captioned=any(scene.captions for scene in scenes),
        relative=True,
        folders=(folder, folder / "images"),
    )


def _scenes(tasks: list[object], source: base.Source) -> Iterator[base.RawScene]:
    for place, task in base.objects_in(tasks, f"{source.path}: entry", source.problems):
        data = task.get("data")
        name = _name(data if isinstance(data, dict) else task)
        results = list(_results(task))
        yield base.RawScene(
            id=base.text_of(task.get("id")) or name,
            image=name,
            where=f"task {base.text_of(task.get('id')) or place}",
            width=next((one.get("original_width") for one, _ in results), None),
            height=next((one.get("original_height") for one, _ in results), None),
            captions=[text for _, value in results for text in _texts(value.get("text"))],
            boxes=[
                _box(value, shape, f"task {base.text_of(task.get('id')) or place}, box {order}")
                for order, (_, value) in enumerate(results, start=1)
                if (shape := next((one for one in value if one.endswith(_SHAPE)), ""))
            ],
        )
        if not results and base.entries(task.get("predictions")):
            task_name = base.text_of(task.get("id")) or place
            where = f"{source.path}: task {task_name}"
            source.drop("predictions, which nobody has accepted", where)


def _name(data: Row) -> str:
    """Return an image's file name from its address, that of local storage included."""
    named = [data.get(key) for key in ("image", "img", "file_upload")]
    found = [_file_name(value) for value in named if value]
    others = (_file_name(value) for value in data.values())  # a project may call it as it likes
    return next(iter(found), "") or next(
        (one for one in others if one.lower().endswith(_IMAGE)), ""
    )


def _file_name(value: object) -> str:
    try:
        address = urlsplit(base.text_of(value))
    except ValueError:
        return ""
    local = parse_qs(address.query).get("d", [""])[0]
    return PurePosixPath(local or unquote(address.path)).name


def _results(task: Row) -> Iterator[tuple[Row, Row]]:
    """Yield what the first annotation that was not cancelled says, and the values in it."""
    for one in base.entries(task.get("label")):
        yield one, one
    done = base.entries(task.get("annotations") or task.get("completions"))
    for annotation in [one for one in done if not one.get("was_cancelled")][:1]:
        for result in base.entries(annotation.get("result")):
            value = result.get("value")
            if isinstance(value, dict):
                yield result, value


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _texts(value: object) -> list[object]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _box(value: Row, shape: str, where: str) -> base.RawBox:
    labels = value.get(shape)
    category = base.category_name(labels[0] if isinstance(labels, list) and labels else labels)
    if base.number(value.get("rotation") or 0) != 0:
        return base.RawBox(where, category, None, "box that is turned")
    found, fault = _percent(value, shape), ""
    if found is None and shape not in ("rectanglelabels", "polygonlabels", "ellipselabels"):
        fault = f"{shape} instead of a box"
    parts = None if found is None else [part / 100 for part in found]
    return base.RawBox(where, category, base.corners(parts), fault)


def _percent(value: Row, shape: str) -> base.Corners | None:
    """Return the corners of what is marked; None where they are not known."""
    if shape == "polygonlabels":
        points = [base.numbers(one, 2) for one in _list(value.get("points"))]
        return base.bounds([at for one in points if one for at in one]) if all(points) else None
    if shape == "ellipselabels":
        middle = base.numbers([value.get(key) for key in ("x", "y", "radiusX", "radiusY")])
        if middle is None:
            return None
        x, y, across, down = middle
        return x - across, y - down, x + across, y + down
    if shape != "rectanglelabels":
        return None
    return base.corners_of_size([value.get(name) for name in ("x", "y", "width", "height")])
