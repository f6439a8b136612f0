"""What the teacher of a finished record was shown, found again from the annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import msgspec

from laterna.records import InstructionRecord, Kind, Proxy, Scene
from laterna.synthesis.enrichment import ImageError
from laterna.synthesis.proxy import build_proxy, proxy_digest

_OWN_CHANNELS = ("caption", "box", "")
"""Channels that come from the annotations; every other is measured from the pixels."""


class ProxyLookup:
    """Gives the proxy that a record was written from; `unknown` counts by reason where it cannot.

    An image is found by its whole name, or by its file name alone where only one scene has that.
    A record with provenance must have been written from exactly the proxy that is found. A record
    without is taken to be of LLaVA's form: boxes for every kind but conversation, and for all where
    the kind is not given.
    """

    def __init__(self, scenes: Iterable[Scene], images: Path | None = None) -> None:
        """Keep the scenes packed; `images` is needed for records of an enriched proxy."""
        # Packed, COCO's 118,000 scenes need a tenth of the memory of as many objects.
        self._scenes = {scene.image: msgspec.msgpack.encode(scene) for scene in scenes}
        names = Counter(PurePosixPath(image).name for image in self._scenes)
        self._by_name = {
            name: image for image in self._scenes if names[name := PurePosixPath(image).name] == 1
        }
        self._images = images
        self.unknown: Counter[str] = Counter()

    def scene(self, record: InstructionRecord) -> Scene | None:
        """Return the scene of a record's one image; None where the annotations lack it."""
        if len(record.images) != 1:
            return None
        (image,) = record.images
        known = self._scenes.get(image)
        if known is None:
            known = self._scenes.get(self._by_name.get(PurePosixPath(image).name, ""))
        return None if known is None else msgspec.msgpack.decode(known, type=Scene)

    def __call__(self, record: InstructionRecord) -> Proxy | None:
        """Return the proxy of a record; None, counted, where it cannot be known."""
        scene = self.scene(record)
        if scene is None:
            one = len(record.images) == 1
            self.unknown["image not annotated" if one else "not about one image"] += 1
            return None
        enrichments = _enrichments(record)
        if enrichments and self._images is None:
            self.unknown["enriched from its picture, and no picture folder given"] += 1
            return None
        # A record without a kind may have been written from all channels.
        kind: Kind = "detail" if record.kind in (None, "caption") else record.kind
        for boxes in _box_choices(record):
            try:
                proxy = build_proxy(
                    scene,
                    kind,
                    conversation_boxes=boxes,
                    enrichments=enrichments,
                    images=self._images,
                )
            except ImageError:
                self.unknown["picture cannot be measured"] += 1
                return None
            made = record.provenance
            if made is None or made.proxy_digest == proxy_digest(proxy.text):
                return proxy
        self.unknown["written from other words than these annotations give"] += 1
        return None


def _enrichments(record: InstructionRecord) -> tuple[str, ...]:
    """Return the channels of a record's proxy that were measured from its image."""
    channels = record.provenance.channels if record.provenance else ()
    return tuple(dict.fromkeys(name for name in channels if name not in _OWN_CHANNELS))


def _box_choices(record: InstructionRecord) -> Iterator[bool]:
    """Yield whether a conversation may have been shown boxes."""
    made = record.provenance
    if made is not None and made.channels:
        yield "box" in made.channels
        return
    yield False
    if made is not None:
        yield True
