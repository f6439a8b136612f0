"""How records fill the rows and micro-batches of a step, before one is seen."""

from __future__ import annotations

import math

from laterna.errors import LaternaError
from laterna.planner.assumptions import Lengths
from laterna.planner.rehearsal import Load
from laterna.recipe import StageSettings


def fill_step(
    settings: StageSettings, lengths: Lengths, picture_tokens: int, *, gpus: int
) -> tuple[Load, int]:
    """Return the largest micro-batch on one GPU, and how many a step takes.

    Typical records fill it, and they are padded to the longest record, or as far as
    `micro_tokens` allows. Where pictures are shared, all records about one stand in a row behind
    it, as far as a row may be long; the longest row has one of the longest records.

    Raises LaternaError where more is learned than there is, or a record is longer than the stage
    takes.
    """
    tokens = picture_tokens + lengths.text
    if not 0 < lengths.targets <= lengths.text <= lengths.longest:
        raise LaternaError(
            f"{lengths.targets} target tokens of {lengths.text} text tokens, the longest "
            f"{lengths.longest}: each is at most the next"
        )
    if tokens > settings.max_tokens:
        raise LaternaError(
            f"a record of {tokens} tokens, {picture_tokens} of them the picture's, is longer than "
            f"max_tokens = {settings.max_tokens}: it would be dropped; raise max_tokens"
        )
    together = records_together(settings, lengths, picture_tokens)
    text = together * lengths.text
    tokens = picture_tokens + text
    families = math.ceil(settings.batch_records / (gpus * together))
    packed = max(1, min(settings.row_tokens // tokens, families))
    rows = math.ceil(families / packed)
    at_once = min(rows, max(1, settings.micro_tokens // (packed * tokens)))
    longest = min(picture_tokens + lengths.longest, settings.max_tokens)
    longer = longest - picture_tokens - lengths.text
    # Several rows are filled up; a step's only row is as long as its records.
    widest = packed * tokens + longer
    if rows > 1:
        widest = max(tokens + longer, settings.row_tokens)
    width = max(packed * tokens, min(widest, settings.micro_tokens // at_once))
    load = Load(
        rows=at_once,
        pictures=packed,
        text=width - packed * picture_tokens,
        targets=packed * together * lengths.targets,
        records=together,
    )
    return load, math.ceil(rows / at_once)


def records_together(settings: StageSettings, lengths: Lengths, picture_tokens: int) -> int:
    """Return how many records stand behind one picture: as many as there are about it, as far as
    a row may be long.
    """
    if not settings.share_pictures:
        return 1
    room = (settings.row_tokens or settings.micro_tokens) - picture_tokens
    return max(1, min(lengths.per_picture, room // lengths.text))
