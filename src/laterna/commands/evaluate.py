"""`laterna evaluate`: a checkpoint is asked questions with known answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from tyro.conf import Positional

from laterna.commands.base import Command, Reads, Writes, show_some
from laterna.files import write_atomically, write_lines
from laterna.recipe import Number, Seed


class Evaluate(Command, frozen=True, kw_only=True):
    """Ask a checkpoint questions with known answers; score it beside the same with no picture."""

    checkpoint: Positional[Path]
    """Checkpoint folder."""
    data: Path
    """Dataset folder that the task asks about."""
    task: str = "world"
    """What is asked: `world`, the tabletop world's questions by kind, or `boxes`, what the boxes
    of any COCO-format dataset decide."""
    limit: Number = 0
    """Questions at most; 0: all."""
    seed: Seed = 0
    """Seed of the choice and wording of the questions."""
    out: Path | None = None
    """JSON file for the figures; left out: only printed."""
    answers: Path | None = None
    """JSON lines file for every question with its answer; left out: they are only counted."""
    controls: bool = True
    """Also ask everything about a blank picture."""
    before: Path | None = None
    """Checkpoint of stage 1, asked the same questions beside."""

    def reads(self) -> Iterator[Reads]:
        """Name the checkpoints and the dataset."""
        from laterna.evaluation.tasks import find_task

        find_task(self.task)
        paths = (self.checkpoint, self.before, self.data)
        yield from (Reads(path, kind="folder") for path in paths if path is not None)

    def writes(self) -> Iterator[Writes]:
        """Name the figures and the answers."""
        yield from (Writes(path) for path in (self.answers, self.out) if path is not None)

    def run(self) -> str:
        """Call `laterna.evaluation.run` and show the table."""
        from rich.console import Console

        from laterna.evaluation.run import evaluate, figures, score_table
        from laterna.model.checkpoint import load_checkpoint

        evaluation = evaluate(
            load_checkpoint(self.checkpoint),
            self.task,
            self.data,
            limit=self.limit,
            seed=self.seed,
            blank=self.controls,
            before_instruct=load_checkpoint(self.before) if self.before else None,
        )
        Console().print(score_table(evaluation))
        show_some("not asked", [skipped.message for skipped in evaluation.skipped])
        found = figures(evaluation)
        counts = [f"; {count} not asked: {reason}" for reason, count in found.skipped.items()]
        made = f"evaluated {self.checkpoint}: {found.overall:.3f} of {found.questions} right"
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
