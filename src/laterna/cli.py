"""The command line: one subcommand a step, nothing else; those of synthesis are in `commands`.

A command is a struct of arguments, whose docstrings are its help, with a `run` that hands them to
the step and returns the closing line: what was made and where. What a step needs is imported
when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import tyro
from tyro.conf import DisallowNone, Fixed, Positional, PositionalMetavarFromFieldName, Suppress, arg

from laterna.commands.base import Command, show_some
from laterna.commands.check import Check
from laterna.commands.exporting import Export
from laterna.commands.importing import Import
from laterna.commands.inspect import Inspect
from laterna.commands.plan import Plan, TunedPlan
from laterna.commands.prepare import Prepare
from laterna.commands.report import Report
from laterna.commands.synthesize import Synthesize
from laterna.errors import told
from laterna.files import write_atomically, write_lines
from laterna.recipe import Recipe, StageName, load_recipe

if TYPE_CHECKING:
    from rich.table import Table

    from laterna.lab.blind_spots import BlindSpot

RUNS = Path("runs")
"""Where commands write unless told otherwise."""
DESCRIPTION = "From boxes and captions to your own visual assistant, one subcommand a step."


class Demo(Command, frozen=True, kw_only=True):
    """Walk the whole path on the embedded world: draw, synthesise, train, evaluate, report."""

    out: Path = RUNS / "demo"
    """Folder for everything the demo makes; run again, it picks up at the last finished step."""
    seed: int = 0
    """Seed of the world, of the synthesis and of the training."""
    quick: bool = False
    """A smaller world and shorter stages: shows that the path works, not how well."""

    def run(self) -> str:
        """Call `laterna.demo`."""
        from laterna.demo import run_demo

        return f"made the demo's report: {run_demo(self.out, self.seed, self.quick)}"


class World(Command, frozen=True, kw_only=True):
    """Draw the embedded tabletop world as a COCO-format dataset."""

    folder: Positional[Path]
    """Folder to write: images/, instances.json, captions.json, truth.jsonl."""
    pictures: int = 2000
    """Number of pictures."""
    seed: int = 0
    """Seed of the world; the same seed draws the same pictures."""
    start: int = 0
    """Number of the first picture; ranges of one seed that do not overlap share no picture."""

    def run(self) -> str:
        """Call `laterna.world.dataset`."""
        from laterna.world.dataset import write_world

        summary = write_world(self.folder, pictures=self.pictures, seed=self.seed, start=self.start)
        return summary.line()


class Train(Command, frozen=True, kw_only=True):
    """Train an assistant in two stages: align the connector, then tune on instructions.

    RECIPE comes first; `laterna train RECIPE --help` lists every setting that may follow it,
    such as `--instruct.connector.lr 1e-4`.
    """

    recipe: Positional[str]
    """TOML file, or name of a shipped recipe."""
    stage: Literal["align", "instruct", "both"] = "both"
    """Which stage to train; `both`: the second starts from the checkpoint of the first."""
    out: Path | None = None
    """Folder for the checkpoints OUT/align and OUT/instruct; left out: runs/NAME."""
    start: Path | None = None
    """What the first stage trained here starts from: a checkpoint, or a connector alone as a
    safetensors file or LLaVA's `mm_projector.bin`; left out: the recipe's parts, and for `instruct`
    alone the checkpoint OUT/align where there is one."""

    def settings_to_train(self) -> Recipe:
        """Return the recipe as it is in its file."""
        return load_recipe(self.recipe)

    def run(self) -> str:
        """Call `laterna.training.run`, once a stage."""
        settings = self.settings_to_train()
        from laterna.model.checkpoint import MANIFEST
        from laterna.training.run import train

        out = self.out or RUNS / settings.name
        checkpoint = self.start
        first = out / "align"
        if self.stage == "instruct" and checkpoint is None and (first / MANIFEST).is_file():
            checkpoint = first
            sys.stderr.write(f"starting from {first}\n")
        stages: tuple[StageName, ...] = ("align", "instruct")
        for stage in stages:
            if self.stage in (stage, "both"):
                checkpoint = train(settings, stage=stage, out=out / stage, start=checkpoint)
        return f"made the checkpoint {checkpoint}; talk to it: laterna chat {checkpoint}"


class TunedTrain(Train, frozen=True, kw_only=True):
    """Train an assistant by this recipe; every setting below can be changed."""

    recipe: Suppress[Fixed[str]]
    settings: Annotated[Recipe, arg(name="")]

    def settings_to_train(self) -> Recipe:
        """Return the recipe with what the command line changed in it."""
        return self.settings


class Evaluate(Command, frozen=True, kw_only=True):
    """Ask a checkpoint questions with known answers; score it beside the same with no picture."""

    model: Positional[str]
    """Checkpoint, llava-hf folder, original LLaVA folder, or a hub id of either."""
    data: Path
    """Dataset folder that the task asks about."""
    task: str = "world"
    """What is asked: `world`, the tabletop world's questions by kind, or `boxes`, what the boxes
    of any COCO-format dataset decide."""
    limit: int = 0
    """Questions at most; 0: all."""
    seed: int = 0
    """Seed of the choice and wording of the questions."""
    out: Path | None = None
    """JSON file for the figures; left out: only printed."""
    answers: Path | None = None
    """JSON lines file for every question with its answer; left out: they are only counted."""
    controls: bool = True
    """Also ask everything about a blank picture."""
    before: Path | None = None
    """Checkpoint of stage 1, asked the same questions beside."""
    device: str | None = None
    """`cpu`, `cuda`, …. Default: an accelerator where there is one, else the CPU."""
    dtype: str | None = None
    """float32, bfloat16 or float16. Default: bfloat16 on an accelerator, float32 on a CPU."""

    def run(self) -> str:
        """Call `laterna.evaluation.run` and show the table."""
        from rich.console import Console

        from laterna.evaluation.run import evaluate, figures, score_table
        from laterna.evaluation.tasks import find_task
        from laterna.inference.assistant import load

        find_task(self.task)  # before a model is read
        evaluation = evaluate(
            load(self.model, device=self.device, dtype=self.dtype),
            self.task,
            self.data,
            limit=self.limit,
            seed=self.seed,
            blank=self.controls,
            before_instruct=load(self.before, device=self.device, dtype=self.dtype)
            if self.before
            else None,
        )
        Console().print(score_table(evaluation))
        show_some("not asked", [skipped.message for skipped in evaluation.skipped])
        found = figures(evaluation)
        counts = [f"; {count} not asked: {reason}" for reason, count in found.skipped.items()]
        made = f"evaluated {self.model}: {found.overall:.3f} of {found.questions} right"
        made += "".join(counts)
        if self.answers is not None:
            with write_atomically(self.answers) as aside:
                write_lines(aside, evaluation.answers)
            made += f"; made {self.answers}"
        if self.out is None:
            return made
        with write_atomically(self.out) as aside:
            aside.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
        return f"{made}; made {self.out}"


class Lab(Command, frozen=True, kw_only=True):
    """Run an experiment on a checkpoint."""

    experiment: Positional[Literal["blind-spots"]]
    """`blind-spots`: how well it answers about what the text proxy leaves out."""
    model: Positional[str]
    """Checkpoint, llava-hf folder, original LLaVA folder, or a hub id of either."""
    data: Path
    """Dataset folder of the tabletop world."""
    limit: int = 0
    """Pictures at most; 0: all."""
    seed: int = 0
    """Seed of the choice of pictures, of the questions and of the probe."""
    device: str | None = None
    """`cpu`, `cuda`, …. Default: an accelerator where there is one, else the CPU."""
    dtype: str | None = None
    """float32, bfloat16 or float16. Default: bfloat16 on an accelerator, float32 on a CPU."""

    def run(self) -> str:
        """Call `laterna.lab` and show the table."""
        from rich.console import Console

        from laterna.inference.assistant import load
        from laterna.lab.blind_spots import blind_spots

        spots = blind_spots(
            load(self.model, device=self.device, dtype=self.dtype),
            self.data,
            limit=self.limit,
            seed=self.seed,
        )
        Console().print(_blind_spot_table(spots))
        return f"measured {len(spots)} blind spots of {self.model} on {self.data}"


class Chat(Command, frozen=True, kw_only=True):
    """Talk with an assistant about an image in the terminal."""

    model: Positional[str]
    """Checkpoint, llava-hf folder, original LLaVA folder, or a hub id of either."""
    picture: Path | None = None
    """Picture to talk about; left out: none."""
    prompt: str | None = None
    """Answer this alone and end; left out: a conversation."""
    max_new_tokens: int = 256
    """Longest answer, in tokens."""
    temperature: float = 0.0
    """0: the likeliest token each time; above: drawn."""
    top_p: float = 1.0
    """Tokens are drawn among the likeliest that together have this probability."""
    seed: int | None = None
    """Seed of what is drawn. Default: another one each time."""
    device: str | None = None
    """`cpu`, `cuda`, …. Default: an accelerator where there is one, else the CPU."""
    dtype: str | None = None
    """float32, bfloat16 or float16. Default: bfloat16 on an accelerator, float32 on a CPU."""

    def run(self) -> str:
        """Call `laterna.serving.terminal`."""
        from functools import partial

        from laterna.inference.assistant import load
        from laterna.serving.terminal import chat

        stream = partial(
            load(self.model, device=self.device, dtype=self.dtype).stream_prompt,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
        )
        chat(stream, self.picture, self.prompt)
        return ""


COMMANDS: dict[str, Callable[..., Command]] = {
    "demo": Demo,
    "world": World,
    "synthesize": Synthesize,
    "check": Check,
    "inspect": Inspect,
    "prepare": Prepare,
    "plan": Plan,
    "train": Train,
    "evaluate": Evaluate,
    "lab": Lab,
    "report": Report,
    "chat": Chat,
    "import": Import,
    "export": Export,
}
TUNED: dict[str, type[TunedPlan] | type[TunedTrain]] = {"plan": TunedPlan, "train": TunedTrain}
"""Commands whose recipe's settings may be changed behind it."""


def parse(args: Sequence[str]) -> Command:
    """Read a command line; help and wrong usage print and raise SystemExit.

    `train RECIPE` and `plan RECIPE` are read over the recipe's own values, so that each is a
    default to override.
    """
    config = (PositionalMetavarFromFieldName, DisallowNone)
    if len(args) > 1 and args[0] in TUNED and not args[1].startswith("-"):
        tuned, source = TUNED[args[0]], args[1]
        told: Command = tyro.cli(
            tuned,
            prog=f"laterna {args[0]} {source}",
            default=tuned(recipe=source, settings=load_recipe(source)),
            args=args[2:],
            config=config,
        )
        return told
    command: Command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="laterna", description=DESCRIPTION, args=args, config=config
    )
    return command


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status: 0, 2 for what the user can mend, 130, 141."""
    # Read by torch when it is first imported: its threads spin a little while they wait, and then
    # sleep. Long spinning is far slower on a machine that does anything else, none on an idle one.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        return told(lambda: _run(sys.argv[1:] if args is None else args))
    except BrokenPipeError:
        # The reader of our output has gone; nothing more may be written, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt:
        print("\nlaterna: interrupted", file=sys.stderr)
        return 130


def _run(args: Sequence[str]) -> None:
    try:
        line = parse(args).run()
        if line:
            print(line)
    finally:
        sys.stdout.flush()


def _blind_spot_table(spots: Sequence[BlindSpot]) -> Table:
    """Show what the assistant and a probe of its encoder know of each property."""
    from rich.table import Table

    table = Table("property", "asked", "probe", "probe, labels shuffled", "chance", "questions")
    for spot in spots:
        shares = (spot.asked, spot.probe, spot.shuffled, spot.chance)
        table.add_row(spot.name, *(f"{share:.3f}" for share in shares), str(spot.questions))
    return table
