"""Write docs/path.md and its image: one image followed along the path by the real functions.

`python tools/write_path_page.py` rewrites both files. The words are in `path_page.md.jinja`, the
values come from the package; tests/test_path_page.py holds the page to what the code does now.
"""

from __future__ import annotations

import asyncio
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from torch import Tensor

from laterna.data.batches import collate
from laterna.data.chat import Rendered, load_template, render
from laterna.data.images.files import ImageFolder
from laterna.data.images.tokens import count_images
from laterna.data.masking import IMAGE_SENTINEL, render_record, tokenize_rendered
from laterna.data.packing import plan_packs
from laterna.data.sources import read_records
from laterna.evaluation.metrics.exact_match import normalize
from laterna.evaluation.run import ask
from laterna.evaluation.tasks.base import IMAGE_FOLDER
from laterna.evaluation.tasks.world import TRUTH_FILE, WORLD, read_truth, world_questions
from laterna.files import write_atomically
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Decoding, Prompt, generate_answers
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import StageName, load_recipe
from laterna.records import (
    DEFAULT_IMAGE_TOKEN,
    IMAGE_TOKEN_INDEX,
    Answer,
    Batch,
    InstructionRecord,
    Message,
    Reply,
    Sample,
    Scene,
    Truth,
)
from laterna.scenes.annotations import read_annotations
from laterna.scenes.survey import survey
from laterna.synthesis.parsing import parse_reply
from laterna.synthesis.prompts import build_messages
from laterna.synthesis.proxy import proxy_digest, write_proxy
from laterna.synthesis.run import KINDS, synthesize
from laterna.synthesis.teachers import make_teacher
from laterna.training.dataloader import fill_pixels
from laterna.training.objective import Objective, count_targets
from laterna.training.stages import PartSummary, apply_stage
from laterna.world.dataset import write_world

TOOLS = Path(__file__).resolve().parent
PAGE = TOOLS.parent / "docs" / "path.md"
IMAGE = PAGE.with_name("path_image.png")
MEASURED = re.compile(r"≈ (?P<value>-?\d+\.\d+|`[^`]*`)")
"""How the page marks what hangs on the base models' weights and on the processor's arithmetic."""
TOLERANCE = 0.02

SEED = 0
WORLD_IMAGES = 60
"""Enough for every category to stand in some image, so that scribe knows what may be absent."""
SCENE = 26
"""A sign, a horse, and two bananas: something to count, and something that is never told."""
QUESTION_KIND = "count"
STAGES: tuple[StageName, ...] = ("align", "instruct")

Json = dict[str, object]
Entries = dict[str, list[Json]]


class WorldSteps(NamedTuple):
    """From the truth to the instruction record: steps 0 to 5."""

    folder: Path
    truth: Truth
    coco: Entries
    """File to its entries about the scene."""
    scene: Scene
    proxy: str
    messages: tuple[Message, ...]
    reply: Reply
    row: Json
    """The conversation in LLaVA's JSON."""
    record: InstructionRecord
    caption: InstructionRecord


class TextSteps(NamedTuple):
    """A record as the language model reads it: steps 6 to 8."""

    rendered: Rendered
    sample: Sample
    batch: Batch


class ModelSteps(NamedTuple):
    """What one forward pass makes, and its losses: step 9."""

    features_bnd: Tensor
    tokens_bmd: Tensor
    embeds_rtd: Tensor
    logits_sv: Tensor
    loss: float
    caption_loss: float


# --- the walk: calls of the package, in path order -----------------------------------------------


def walk_world(folder: Path) -> WorldSteps:
    """Draw the world into `folder` and follow one scene to its instruction records."""
    world, made = folder / "world", folder / "instructions.json"
    write_world(world, images=WORLD_IMAGES, seed=SEED)
    scenes = read_annotations(world).scenes
    scene = next(scene for scene in scenes if scene.id == str(SCENE))
    proxy = write_proxy(scene.captions, scene.boxes)
    messages = build_messages("conversation", proxy)
    teacher = make_teacher("scribe", "conversation", survey(scenes), SEED)
    # Boxes for conversations too, as the demo has it.
    synthesize(world, made, teacher="scribe", kinds=KINDS, seed=SEED, conversation_boxes=True)
    records = {record.id: record for record in read_records(made)}
    record = records[f"{scene.id}-conversation"]
    rows = msgspec.json.decode(made.read_bytes(), type=list[Json])
    return WorldSteps(
        folder=world,
        truth=read_truth(world / TRUTH_FILE)[SCENE],
        coco=_coco_entries(world),
        scene=scene,
        proxy=proxy,
        messages=messages,
        reply=asyncio.run(teacher.complete(messages)),
        row=next(row for row in rows if row["id"] == record.id),
        record=record,
        caption=records[f"{scene.id}-caption-0"],
    )


def walk_data(
    record: InstructionRecord, template: str, assistant: VisionLanguageModel, images: Path
) -> TextSteps:
    """Render, tokenize and batch a record with the chat template of that name."""
    tokenizer = assistant.tokenizer
    position = assistant.recipe.image_position if assistant.recipe else "keep"
    rendered = render_record(record, tokenizer, load_template(template, tokenizer, position))
    sample = tokenize_rendered(rendered, record, tokenizer)
    sample = count_images(sample, assistant.image_tokens, images)
    packs = plan_packs([sample], pack_length=0)
    fill = fill_pixels(assistant.prepare, ImageFolder(images))
    return TextSteps(rendered, sample, fill(collate(packs)))


def walk_model(assistant: VisionLanguageModel, batch: Batch, caption: Batch) -> ModelSteps:
    """Send a batch through the assistant part by part; `caption` gives its loss alone."""
    assert batch.pixels_bchw is not None
    features_bnd = assistant.vision(batch.pixels_bchw)
    return ModelSteps(
        features_bnd=features_bnd,
        tokens_bmd=assistant.connector(features_bnd),
        embeds_rtd=assistant.embed(batch),
        logits_sv=assistant.target_logits(batch)[0],
        loss=mean_loss(assistant, batch),
        caption_loss=mean_loss(assistant, caption),
    )


def mean_loss(assistant: VisionLanguageModel, batch: Batch) -> float:
    """Return the loss of a step that is this batch alone."""
    return float(Objective(assistant)(batch).detach()) / count_targets([batch])


def walk_answer(world: WorldSteps, assistant: VisionLanguageModel) -> tuple[str, Answer]:
    """Ask one of the evaluation's questions about the scene; return prompt and answer."""
    questions = world_questions(world.folder, limit=0, seed=SEED)
    question = next(
        each
        for each in questions
        if (each.images, each.kind) == ((world.scene.image,), QUESTION_KIND)
    )
    seen: list[Prompt] = []

    def answer(
        model: VisionLanguageModel, prompts: Sequence[Prompt], decoding: Decoding
    ) -> list[str]:
        seen.extend(prompts)
        return generate_answers(model, prompts, decoding)

    images = world.folder / IMAGE_FOLDER
    (given,) = ask(Assistant(assistant), [question], images, answer=answer, progress=False).answers
    ((turns, _),) = seen
    prompt = render(turns, assistant.tokenizer, assistant.template, continue_as_assistant=True)
    return prompt.text, given


def render_page(folder: Path) -> str:
    """Walk the whole path, with `folder` for its files, and return the page."""
    world = walk_world(folder)
    recipe = load_recipe("nano")
    assistant = build_from_recipe(recipe)
    images = world.folder / IMAGE_FOLDER
    text = walk_data(world.record, recipe.instruct.template, assistant, images)
    caption = walk_data(world.caption, recipe.align.template, assistant, images)
    prompt, answer = walk_answer(world, assistant)
    stages = [apply_stage(assistant, recipe, name).parts for name in STAGES]
    passed = walk_model(assistant, text.batch, caption.batch)
    vocabulary = passed.logits_sv.shape[1]
    truth = answer.question.references[0]
    return _page_template().render(
        seed=SEED,
        tolerance=TOLERANCE,
        image=IMAGE.name,
        world=world,
        digest=proxy_digest(world.proxy),
        examples=sum(message.role == "assistant" for message in world.messages),
        exchanges=parse_reply(world.reply.text),
        recipe=recipe,
        text=text,
        caption=caption,
        sample=text.sample,
        image_token=IMAGE_TOKEN_INDEX,
        opening=list(_opening(text.sample, assistant)),
        batch=text.batch,
        image_tokens=text.sample.image_tokens[0],
        passed=passed,
        first_values=passed.features_bnd[0, 0, :4].tolist(),
        vocabulary=vocabulary,
        uniform_loss=math.log(vocabulary),
        stage_parts=list(zip(*stages, strict=True)),
        prompt=prompt,
        answer=answer,
        max_new_tokens=WORLD.max_new_tokens,
        loose=f"{truth.capitalize()}.",
        longer=f"The answer is {truth}.",
    )


# --- how values are shown ------------------------------------------------------------------------


def _page_template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TOOLS),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= FILTERS
    return environment.get_template("path_page.md.jinja")


def _coco_entries(world: Path) -> Entries:
    """Return the scene's entries in the dataset's files, the categories that it has among them."""
    images = msgspec.json.decode((world / "instances.json").read_bytes(), type=Entries)
    captions = msgspec.json.decode((world / "captions.json").read_bytes(), type=Entries)
    boxes = [row for row in images["annotations"] if row["image_id"] == SCENE]
    named = {row["category_id"] for row in boxes}
    return {
        "instances.json, images": [row for row in images["images"] if row["id"] == SCENE],
        "instances.json, annotations": boxes,
        "instances.json, categories": [row for row in images["categories"] if row["id"] in named],
        "captions.json, annotations": [
            row for row in captions["annotations"] if row["image_id"] == SCENE
        ],
    }


def _opening(
    sample: Sample, assistant: VisionLanguageModel
) -> Iterator[tuple[int, int, str, bool]]:
    """Yield place, id, piece and whether it is learned, up to the end of the first answer."""
    last = list(zip(sample.targets, sample.targets[1:], strict=False)).index((True, False))
    for place, token in enumerate(sample.input_ids[: last + 1]):
        mark = token == IMAGE_TOKEN_INDEX
        piece = (
            DEFAULT_IMAGE_TOKEN if mark else _newlines_shown(assistant.tokenizer.decode([token]))
        )
        yield place, token, piece, sample.targets[place]


def _file(path: str) -> str:
    """Return a link to a file of the package, by the name that it has there."""
    return f"[`{path}`](../src/laterna/{path})"


def _json(value: object) -> str:
    """Return a record as JSON, a line a field and a line an item of its lists."""
    fields: Json = msgspec.to_builtins(value)
    lines = []
    for name, field in fields.items():
        shown = _json_line(field)
        if isinstance(field, list | tuple) and field:
            items = ",\n".join(f"    {_json_line(item)}" for item in field)
            shown = f"[\n{items}\n  ]"
        lines.append(f'  "{name}": {shown}')
    return "{\n" + ",\n".join(lines) + "\n}"


def _json_line(value: object) -> str:
    """Return a value as JSON on one line, numbers rounded to 3 decimals."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=0).decode()
    return re.sub(r"\d+\.\d{4,}", lambda number: str(round(float(number[0]), 3)), text)


def _marked(rendered: Rendered) -> str:
    """Return a rendered chat with its learned spans in brackets, a line after each."""
    text = rendered.text
    for start, end in reversed(rendered.spans):
        text = f"{text[:start]}⟦{text[start:end]}⟧{text[end:]}"
    return _newlines_shown(text).replace("⟧", "⟧\n").rstrip("\n")


def _newlines_shown(text: str) -> str:
    return text.replace(IMAGE_SENTINEL, DEFAULT_IMAGE_TOKEN).replace("\n", "⏎")


def _shape(tensor: Tensor) -> str:
    return " × ".join(str(size) for size in tensor.shape)


def _measured(value: float | str) -> str:
    return f"≈ {value:.2f}" if isinstance(value, float) else f"≈ `{value}`"


def _trains(part: PartSummary) -> str:
    if not part.trained:
        return f"frozen ({part.frozen:,} weights)"
    return f"{part.trained:,} weights, peak learning rate {part.lr:g}"


FILTERS: dict[str, Callable[..., str]] = {
    "file": _file,
    "json": _json,
    "json_line": _json_line,
    "marked": _marked,
    "measured": _measured,
    "normalize": normalize,
    "readable": _newlines_shown,
    "shape": _shape,
    "trains": _trains,
}


def main() -> None:
    """Rewrite page and image, each whole or not at all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = render_page(folder)
        image = folder / "world" / IMAGE_FOLDER / f"{SCENE:06d}.png"
        with write_atomically(IMAGE) as aside:
            shutil.copyfile(image, aside)
    with write_atomically(PAGE) as aside:
        aside.write_text(page, encoding="utf-8")
    print(f"wrote {PAGE} and {IMAGE}")


if __name__ == "__main__":
    main()
