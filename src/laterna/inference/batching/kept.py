"""What is kept so that nothing is computed twice: images by content, answered rows by what they
begin with.

Shapes: b tiles · c channels · h, w pixels, or h heads · m tokens an image · t tokens · d width.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from laterna.model.vlm import VisionLanguageModel
from laterna.records import Tiling

States = list[tuple[Tensor, Tensor]]
"""Keys and values (h, t, d) of one row's tokens, by layer."""
Ids = NDArray[np.int64]
"""What stands in each position of a row: a token's id, or of an image's a number below 0."""


class SeenImage:
    """One image: prepared, and later its tokens (m, d) in the place of its pixels."""

    def __init__(
        self, number: int, positions: int, pixels_bchw: Tensor, tilings: Sequence[Tiling]
    ) -> None:
        self.number = number
        """Below 0, and of this image alone: it stands for it among the ids of a row."""
        self.positions = positions
        self.pixels_bchw: Tensor | None = pixels_bchw
        self.tilings = tilings
        self.tokens_md: Tensor | None = None


class ImageStore:
    """The images seen lately, up to `limit` bytes of tokens; the longest unused go first.

    May be asked by any thread; one alone encodes.
    """

    def __init__(self, model: VisionLanguageModel, limit: int) -> None:
        self.asked = self.hits = 0
        self._model = model
        self._limit = limit
        self._bytes = 0
        self._numbers = itertools.count(-2, -1)
        self._lock = threading.Lock()
        self._seen: OrderedDict[bytes, tuple[SeenImage, int]] = OrderedDict()

    def take(self, image: Image.Image) -> SeenImage:
        """Return an image by its content, prepared for encoding if it is new."""
        form = f"{image.mode} {image.size}".encode()
        key = hashlib.blake2b(form + image.tobytes()).digest()
        with self._lock:
            self.asked += 1
            if key in self._seen:
                self.hits += 1
                self._seen.move_to_end(key)
                return self._seen[key][0]
        made = self._prepared(image)
        table = self._model.language.get_input_embeddings().weight
        size = made.positions * table.shape[1] * table.element_size()
        with self._lock:
            if key not in self._seen:  # another thread may have been faster
                self._seen[key] = made, size
                self._bytes += size
            taken = self._seen[key][0]
            while self._bytes > self._limit:
                self._bytes -= self._seen.popitem(last=False)[1][1]
        return taken

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._seen.clear()
            self._bytes = 0

    def _prepared(self, image: Image.Image) -> SeenImage:
        model = self._model
        return SeenImage(
            next(self._numbers),
            model.image_tokens(*image.size),
            model.prepare([image]),
            model.prepare.tilings([image.size]),
        )

    def encode(self, images: Iterable[SeenImage], batch: int) -> None:
        """Encode those of the images that are not yet, in batches of `batch` tiles at most."""
        new = {one.number: one for one in images if one.tokens_md is None}
        for some in _batches(list(new.values()), batch):
            pixels_bchw = torch.cat(
                [one.pixels_bchw for one in some if one.pixels_bchw is not None]
            )
            features_bnd = self._model.vision(pixels_bchw.to(self._model.device))
            tilings = [tiling for one in some for tiling in one.tilings]
            tokens = self._model.connect(features_bnd, tilings)
            for one, tokens_md in zip(some, tokens, strict=True):
                # A copy, or the whole batch would live as long as one image of it.
                one.tokens_md, one.pixels_bchw = tokens_md.clone(), None


def _batches(images: list[SeenImage], most: int) -> Iterator[list[SeenImage]]:
    batch: list[SeenImage] = []
    tiles = 0
    for image in images:
        count = 0 if image.pixels_bchw is None else len(image.pixels_bchw)
        if batch and tiles + count > most:
            yield batch
            batch, tiles = [], 0
        batch.append(image)
        tiles += count
    if batch:
        yield batch


def common(one: Ids, other: Ids, at_least: int = 0) -> int:
    """Return how many positions two rows have in common from the start; 0 where it is fewer than
    or as many as `at_least`, which is quickly seen.
    """
    length = min(len(one), len(other))
    if length <= at_least or one[at_least] != other[at_least]:
        return 0
    differ = one[:length] != other[:length]
    found = int(differ.argmax()) if differ.any() else length
    return found if found > at_least else 0


class PrefixStore:
    """Rows of the cache that were answered, for what begins with the same positions.

    Holds at most `limit` bytes and `most` rows; those that were not used for longest go first.
    """

    def __init__(self, limit: int, most: int = 64) -> None:
        self.bytes = 0
        self._limit, self._most = limit, most
        self._kept: OrderedDict[bytes, tuple[Ids, States, int]] = OrderedDict()

    def longest(self, ids: Ids, at_least: int = 0) -> tuple[int, States]:
        """Return how much of a row is known, and where that is read from; 0 and nothing if not
        more than `at_least`.
        """
        best, found = at_least, b""
        for key, (known, _, _) in self._kept.items():
            shared = common(ids, known, best)
            if shared:
                best, found = shared, key
        if not found:
            return 0, []
        self._kept.move_to_end(found)
        return best, self._kept[found][1]

    def keep(self, ids: Ids, states: States) -> None:
        """Keep a row, in the place of those that it goes on from."""
        size = sum(keys.nbytes + values.nbytes for keys, values in states)
        if size > self._limit:
            return
        whole = ids.tobytes()
        for key in [key for key in self._kept if whole.startswith(key)]:
            self._drop(key)
        self._kept[whole] = (ids, states, size)
        self.bytes += size
        while self.bytes > self._limit or len(self._kept) > self._most:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self.bytes = 0

    def _drop(self, key: bytes) -> None:
        self.bytes -= self._kept.pop(key)[2]
