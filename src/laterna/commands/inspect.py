"""`laterna inspect`: what a finished set of instructions asks, shows and teaches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from laterna.commands.base import Command, FormatName, Reads, Writes, show_some
from laterna.recipe import FormName, Number, Seed, SourceSettings, TemplateName
from laterna.records import Scene
from laterna.scenes.orientation import View

if TYPE_CHECKING:
    from rich.console import Console

    from laterna.records import Sample


class Inspect(Command, frozen=True, kw_only=True):
    """Show what a dataset of instructions asks, how long its answers are, and what is learned.

    Reads everything that can be trained on, LLaVA-Instruct-150K included. With the annotations, it
    also shows which answers the teacher could have known, and checks every record against its
    boxes and captions.
    """

    file: Positional[str]
    """Instruction records: a JSON, JSON lines or Parquet file, the folder of a Hugging Face
    dataset, or `hub:OWNER/NAME`."""
    form: FormName = "auto"
    """Form of the rows. `auto`: detected from the columns."""
    subset: str = ""
    """Configuration of a hub dataset that has several."""
    split: str = "train"
    """Split of a Hugging Face dataset."""
    annotations: Path | None = None
    """Annotations that the records were made from, as for `synthesize`."""
    format: FormatName = "auto"
    """Format of the annotations, as for `synthesize`."""
    view: View = "auto"
    """Which view of turned images boxes belong to, as in `synthesize`."""
    captions: Path | None = None
    """COCO captions file. Default: the one beside the annotations."""
    captionless: bool = False
    """Keep images that have boxes and no caption, as in `synthesize`."""
    images: Path | None = None
    """Folder of the images, for the page and for proxies that were enriched from them."""
    rejects: Path | None = None
    """JSON lines of the replies that the synthesis did not use; default: those beside FILE."""
    ledger: Path | None = None
    """Ledger of the synthesis, which knows its cost; default: the one beside FILE."""
    prices: Path | None = None
    """TOML file of prices, as for `synthesize`."""
    html: Path | None = None
    """Page to write, whole in one file; default: none."""
    specimens: Number = 24
    """Number of records, drawn at random, that the page shows."""
    seed: Seed = 0
    """Seed of the draw."""
    masks: Number = 0
    """Show the tokens of the first N records instead, with the loss mask. `--html` then shows them
    in color."""
    checkpoint: Path | None = None
    """Checkpoint with the tokenizer and chat template for `--masks`."""
    tokenizer: str = "builtin:nano-llama"
    """Tokenizer for `--masks` without a checkpoint, named as in `language.source`."""
    template: TemplateName = "own"
    """Chat template for `--masks` without a checkpoint: `own`, or a shipped one."""

    def reads(self) -> Iterator[Reads]:
        """Yield the records and what they are compared with."""
        yield Reads(Path(self.file), kind="maybe")
        others = (self.annotations, self.captions, self.rejects, self.ledger, self.prices)
        if self.checkpoint is not None:
            yield Reads(self.checkpoint, kind="folder")
        yield from (Reads(path) for path in others if path is not None)
        if self.images is not None:
            yield Reads(self.images, whole=False)

    def writes(self) -> Iterator[Writes]:
        """Name the page."""
        if self.html is not None:
            yield Writes(self.html)

    def run(self) -> str:
        """Call `laterna.report`, or `laterna.data.masking` for the masks."""
        from rich.console import Console

        return self._show_masks(Console()) if self.masks else self._show_set(Console())

    def _show_set(self, console: Console) -> str:
        from laterna.report.inspection import inspect_set, read_cost
        from laterna.report.synthesis_page import coverage_table, kind_table, length_table
        from laterna.synthesis.settings import Spending

        ledger = self.ledger or self._beside("ledger.sqlite")
        content = inspect_set(
            self._source(),
            scenes=self._scenes(),
            images=self.images,
            rejects=self.rejects or self._beside("rejects.jsonl"),
            cost=read_cost(ledger, Spending(prices=self.prices)) if ledger else (),
            specimens=self.specimens if self.html else 0,
            seed=self.seed,
        )
        coverage = content.coverage
        for table in (kind_table(coverage), coverage_table(coverage), length_table(coverage)):
            console.print(table)
        refused = [
            f"{count} × {reason}; the first: {message}"
            for reason, count, message in content.refused
        ]
        show_some("rows refused", refused)
        unknown = [f"{number} records: {reason}" for reason, number in content.unknown_proxies]
        show_some("cost", [f"{model}: {spent}" for model, spent in content.cost])
        rejected = [f"{reason.name}: {reason.count}" for reason in content.rejects or ()]
        show_some("replies not used", rejected)
        show_some("teacher's text not known", unknown)
        found = [f"{reason.name}: {reason.count}" for reason in content.found]
        show_some(f"found in {content.checked} records checked against their annotations", found)
        line = f"inspected {coverage.records} records, {coverage.questions} questions"
        if self.html is None:
            return line
        from laterna.report.synthesis_page import write_synthesis_page

        write_synthesis_page(self.html, content)
        return f"{line}; made {self.html}"

    def _scenes(self) -> Iterator[Scene] | None:
        from laterna.scenes.annotations import stream_scenes

        if self.annotations is None:
            return None
        return stream_scenes(
            self.annotations,
            self.captions,
            [],
            captionless=self.captionless,
            format=self.format,
            images=self.images,
            view=self.view,
        )

    def _beside(self, ending: str) -> Path | None:
        """Return a file that `synthesize` writes next to its records; None where there is none."""
        file = Path(self.file)
        path = file.parent / f"{file.stem}.{ending}"
        return path if path.is_file() else None

    def _source(self) -> SourceSettings:
        return SourceSettings(data=self.file, form=self.form, subset=self.subset, split=self.split)

    def _show_masks(self, console: Console) -> str:
        from laterna.data.chat import UnusableError, load_template
        from laterna.data.preparation.checking import not_one_caption
        from laterna.data.preparation.tokens import check_record
        from laterna.data.sources import read_rows
        from laterna.data.sources.rows import Unreadable
        from laterna.model.checkpoint import read_manifest, require_whole
        from laterna.model.language.tokenizer import load_tokenizer
        from laterna.recipe import LanguageSettings
        from laterna.report.tokens import token_view, write_token_page

        if self.checkpoint is not None:
            require_whole(self.checkpoint, read_manifest(self.checkpoint), ["template.jinja"])
        inside = self.checkpoint and self.checkpoint / "tokenizer"
        tokenizer = load_tokenizer(LanguageSettings(source=self.tokenizer), inside)
        if self.checkpoint is None:
            template = load_template(self.template, tokenizer)
        else:
            template = (self.checkpoint / "template.jinja").read_text(encoding="utf-8")
        samples: list[Sample] = []
        for row in islice(read_rows(self._source()), self.masks):
            if isinstance(row, Unreadable):
                console.print(f"refused: {row.message}", markup=False)
                continue
            checked = not_one_caption(row, template) or check_record(row, tokenizer, template)
            if isinstance(checked, UnusableError):
                console.print(f"refused: {checked}", markup=False)
                continue
            samples.append(checked)
            console.print(token_view(checked, tokenizer.decode), soft_wrap=True)
        line = f"showed {len(samples)} records of {self.file}; ⟦learned⟧, ▣ an image"
        if self.html is None:
            return line
        title = f"Tokens of {Path(self.file).name}"
        write_token_page(self.html, title, samples, tokenizer.decode)
        return f"{line}; made {self.html}"
