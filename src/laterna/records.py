"""The records that travel Laterna's path, in path order. Read this file first.

    Truth -> COCO annotations (only for the embedded world)              world/
    annotations -> Scene -> proxy text -> Reply -> InstructionRecord     synthesis/
    InstructionRecord -> Sample -> Pack -> Batch                         data/
    Batch -> features -> logits -> loss -> checkpoint                    model/, training/
    checkpoint -> Question, Answer -> Score                              evaluation/

Every arrow carries one of these frozen records; nothing else crosses a folder's border.

Shape legend, used by the names of tensors in the whole package:
    b images · c channels · h, w pixels · n patches an image · m tokens an image after the
    connector · d width · r rows of a batch · t tokens of a row · s target tokens · v vocabulary
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, dataclass_transform

import msgspec

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal["system", "user", "assistant"]
Kind = Literal["caption", "conversation", "detail", "reasoning", "negative", "refusal"]

DEFAULT_IMAGE_TOKEN = "<image>"
"""Where an image stands in the text of a user turn, as LLaVA's files write it."""

IMAGE_TOKEN_INDEX = -200
"""The id that stands for a whole image in `Sample.input_ids` (LLaVA's IMAGE_TOKEN_INDEX).

It lies outside every vocabulary, so no text, whatever it says, can be taken for an image.
"""


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records: immutable, named fields only, unknown fields fail on reading."""


# --- world: what is truly in a drawn image ------------------------------------------------


class Toy(Record):
    """One toy on the table of the embedded world, with every attribute known."""

    category: str
    colour: str
    texture: str
    size: str
    box: Box


class Truth(Record):
    """Everything that is true of one image of the embedded world (a line of `truth.jsonl`)."""

    id: str
    image: str
    lighting: str
    sign: str | None
    """The printed word, or None where there is no sign."""
    sign_box: Box | None
    toys: tuple[Toy, ...]


# --- synthesis: annotated images become instructions --------------------------------------


class Box(Record):
    """One annotated object; corners in 0..1 of the image's own width and height."""

    category: str
    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def centre(self) -> tuple[float, float]:
        """The middle (x, y), in 0..1 of the image's width and height."""
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2


class Scene(Record):
    """One annotated image: all that a text-only teacher may be told about it."""

    id: str
    image: str
    """File name, relative to the dataset's image folder."""
    width: int | None
    """In pixels; None where the source gives only relative boxes."""
    height: int | None
    captions: tuple[str, ...]
    boxes: tuple[Box, ...]


class Proxy(Record):
    """An image as a text-only teacher sees it."""

    text: str
    channels: tuple[str, ...]
    """Where each line of `text` comes from, the empty one included: `caption`, `box`, `ocr`,
    `lighting`, `colours`, `texture`, or "" for the empty line."""


class Message(Record):
    """One chat message as it is sent to a teacher."""

    role: Role
    content: str


class Usage(Record):
    """Tokens that a teacher's endpoint says it read and wrote."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0
    """Calls of these whose tokens are counted by estimate, since the endpoint did not say."""


class Reply(Record):
    """What a teacher answered."""

    text: str
    finish_reason: str
    usage: Usage = Usage()
    seconds: float = 0.0
    """From sending the request to its answer, without any wait to be sent; 0: not measured."""
    body: bytes = b""
    """The answer as it came, which the ledger keeps; empty for a teacher that works here."""


class Finding(Record):
    """One reason to reject a reply."""

    reason: str
    """A key of `synthesis.checks.REASONS`."""
    sentence: str
    """The offending words of the reply."""
    detail: str = ""
    """What was wrong with them, for a person (and for the repair request)."""


class Verdict(Record):
    """What the checks found in one reply; it is accepted when nothing was found."""

    findings: tuple[Finding, ...] = ()
    checked: int = 0
    """Claims that could be checked against the proxy."""
    unchecked: int = 0
    """Claims that could not."""

    @property
    def accepted(self) -> bool:
        """Whether the reply may become training data."""
        return not self.findings


class Turn(Record):
    """One turn of a chat; `loss` says whether the language model learns to write it."""

    role: Role
    text: str
    loss: bool = False


class Provenance(Record):
    """Where an instruction came from: enough to find the words that the teacher saw."""

    teacher: str
    proxy_digest: str
    """SHA-256 of the proxy text, hexadecimal."""
    channels: tuple[str, ...] = ()
    """The channel of each line of the proxy text (`Proxy.channels`)."""
    ledger_key: str | None = None
    """Key of the request in the ledger; None for teachers that need none."""


class InstructionRecord(Record):
    """One training chat about zero or more images.

    User turns hold one `<image>` mark for each of `images`, in order.
    """

    id: str
    images: tuple[str, ...]
    """File names, relative to the image folder."""
    turns: tuple[Turn, ...]
    kind: Kind | None = None
    """None where the source does not say."""
    provenance: Provenance | None = None


# --- data: instructions become batches ------------------------------------------------------


class Sample(Record):
    """One tokenized chat; an image is one `IMAGE_TOKEN_INDEX`, whatever the connector makes of it.

    Raises ValueError where image tokens are given, but not one a slot.
    """

    id: str
    input_ids: tuple[int, ...]
    targets: tuple[bool, ...]
    """As long as `input_ids`: True where the token is learned."""
    image_slots: tuple[int, ...]
    """Positions in `input_ids` that hold `IMAGE_TOKEN_INDEX`, one an image."""
    images: tuple[str, ...] = ()
    image_tokens: tuple[int, ...] = ()
    """Tokens that each image takes in the row, one a slot; preparation fills them in, from the
    images' width and height (`data.images.tokens`). Empty while they are not known."""

    def __post_init__(self) -> None:
        if self.image_tokens and len(self.image_tokens) != len(self.image_slots):
            raise ValueError(
                f"sample {self.id}: {len(self.image_tokens)} image token counts for "
                f"{len(self.image_slots)} image slots"
            )

    @property
    def length(self) -> int:
        """Tokens with the images expanded. Raises ValueError while those are not counted."""
        return self.length_of(len(self.input_ids))

    def length_of(self, ids: int) -> int:
        """Return the tokens, images expanded, that the first `ids` of `input_ids` take.

        Raises ValueError while the images' tokens are not counted.
        """
        if len(self.image_tokens) != len(self.image_slots):
            raise ValueError(f"sample {self.id}: the tokens of its images are not counted")
        pairs = zip(self.image_slots, self.image_tokens, strict=True)
        return ids + sum(tokens - 1 for slot, tokens in pairs if slot < ids)


class Pack(Record):
    """Samples that share one row of a batch without seeing each other."""

    samples: tuple[Sample, ...]
    shared: tuple[int, ...] = ()
    """Shared images: for each sample, how many of its first ids are those of the sample before
    it that has 0 here, and stand in the row once, there. Empty: every sample stands whole."""

    @property
    def length(self) -> int:
        """Tokens of the row, padding left out."""
        whole = sum(sample.length for sample in self.samples)
        pairs = zip(self.samples, self.shared, strict=False)  # none are shared in most packs
        return whole - sum(sample.length_of(ids) for sample, ids in pairs)


class SharedPrefix(Record):
    """Which tokens attend to which in rows whose samples share images, and which follow which.

    A token attends to those before it in its own segment, and in the segment that its own attends
    to: a sample's own tokens attend to what it shares with its siblings, but not to a sibling's.
    """

    segment_ids_rt: Tensor
    """The segment of each token, counted along the row."""
    attends_to_rt: Tensor
    """The other segment that it attends to; its own where there is none."""
    predicted_from_rt: Tensor
    """The place of the token whose state it is predicted from."""


class Tiling(Record):
    """How AnyRes cuts one image into the encoder's squares: whole, and on a grid."""

    rows: int
    columns: int
    width: int
    """Of the image as seen, in pixels: what of the grid is border follows from it."""
    height: int

    @property
    def tiles(self) -> int:
        """Squares in all: the whole view first, then the grid's, row by row."""
        return 1 + self.rows * self.columns


class Batch(Record):
    """Rows ready for the model, right-padded to the longest.

    `position_ids_rt` restart at 0 with every sample (and with the padding), which is what keeps
    the samples of a row from attending to each other. `loss_mask_rt` marks the tokens to be
    predicted, `image_mask_rt` the places that connector outputs fill, in reading order the
    `images`. One of `pixels_bchw` and `features_bnd` is given when there are images; with
    `tilings`, one an image, their rows are tiles.
    """

    ids: tuple[str, ...]
    input_ids_rt: Tensor
    position_ids_rt: Tensor
    loss_mask_rt: Tensor
    image_mask_rt: Tensor
    images: tuple[str, ...] = ()
    image_tokens: tuple[int, ...] = ()
    """Positions of each image in the row, with which its tokens are compared."""
    pixels_bchw: Tensor | None = None
    features_bnd: Tensor | None = None
    tilings: tuple[Tiling, ...] = ()
    """How each image is tiled; empty where every image is one square."""
    sharing: SharedPrefix | None = None
    """Where samples share images; their restarted positions do not tell siblings apart."""


# --- evaluation: checkpoints become answers and scores --------------------------------------


class Question(Record):
    """One question with known answers, about any number of images."""

    id: str
    images: tuple[str, ...]
    """File names, relative to the image folder; they stand before the text, in this order."""
    kind: str
    text: str
    """What is said to the assistant, whole."""
    references: tuple[str, ...]
    """What is right: one text, or what several people answered; the metric says how they count."""
    fields: dict[str, str] = {}
    """What else the task or its metric needs, such as the choices or the group of a question."""


class Answer(Record):
    """What an assistant said to a question, and how the metric values it."""

    question: Question
    text: str
    score: float
    """0 to 1; not a number where the metric is defined over all answers alone."""
    probability: float | None = None
    """0 to 1, of the whole answer by the model's own account; None where it was not measured."""
    review: str | None = None
    """What a judge said of it, which is scored in its place; None where no judge is asked."""


class Score(Record):
    """The mean score of a number of answers, for one kind or over all."""

    name: str
    sum: float
    """Of the answers' scores: where these are 0 and 1, how many are right."""
    total: int

    @property
    def mean(self) -> float:
        """Mean score, 0..1; not a number over no answers."""
        return self.sum / self.total if self.total else float("nan")
