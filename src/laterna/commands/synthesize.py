"""`laterna synthesize`: annotated pictures become instruction records."""

from __future__ import annotations

from pathlib import Path

from laterna.commands.base import Command, show_some
from laterna.records import Kind


class Synthesize(Command, frozen=True, kw_only=True):
    """Turn annotated pictures into instruction records in LLaVA's training JSON."""

    annotations: Path
    """COCO instances file, folder of a COCO-format dataset, or JSON lines of contexts."""
    out: Path
    """JSON file to write."""
    captions: Path | None = None
    """COCO captions file; left out: the one beside the annotations."""
    teacher: str = "scribe"
    """Who composes the records; `scribe` works offline from the text proxy alone."""
    kinds: tuple[Kind, ...] = ("conversation", "detail", "reasoning")
    """Kinds of records to make; `caption` needs no teacher and is what stage 1 learns."""
    conversation_boxes: bool = False
    """Show the boxes to the teacher of conversations too, who cannot count without them; LLaVA
    does not."""
    seed: int = 0
    """Seed of the teacher's choices."""

    def run(self) -> str:
        """Call `laterna.synthesis.run`."""
        from laterna.synthesis.run import synthesize

        summary = synthesize(
            self.annotations,
            self.out,
            captions=self.captions,
            teacher=self.teacher,
            kinds=self.kinds,
            seed=self.seed,
            conversation_boxes=self.conversation_boxes,
        )
        show_some(
            "left out", [f"{problem.where}: {problem.reason}" for problem in summary.problems]
        )
        return summary.line()
