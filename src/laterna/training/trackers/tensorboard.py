"""TensorBoard: event files beside the checkpoint, in `<out>.tensorboard`."""

from __future__ import annotations

from typing import Any

from laterna.training.telemetry import TrackedRun
from laterna.training.throughput import StepFigures, named_figures


class TensorBoardTracker:
    """Writes event files by torch's `SummaryWriter`.

    A resumed run writes where it continues, and TensorBoard then drops later steps of older files.
    """

    def __init__(self, run: TrackedRun) -> None:
        # Imported here: it is an extra.
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter
        folder = run.out.with_name(f"{run.out.name}.tensorboard")
        self._writer = writer(str(folder), purge_step=run.done + 1)

    def step(self, figures: StepFigures) -> None:
        """Add a step's figures to the charts."""
        for name, value in named_figures(figures).items():
            self._writer.add_scalar(name, value, figures.step)
        for number, one in enumerate(figures.validation.answers if figures.validation else ()):
            text = f"{one.prompt}\n\n{one.answer}\n\n(in the data: {one.truth})"
            self._writer.add_text(f"validation/answer_{number}", text, figures.step)

    def close(self) -> None:
        """Write what is left to the files."""
        self._writer.close()
