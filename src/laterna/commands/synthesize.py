"""`laterna synthesize`: annotated images become instruction records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from tyro.conf import arg

from laterna.choices import KeysOf
from laterna.commands.base import Command, FormatName, Reads, Writes, show_some
from laterna.recipe import Seed
from laterna.records import Kind
from laterna.scenes.orientation import View
from laterna.synthesis.settings import Endpoint, Job, Spending, read_shard

TeacherName = Annotated[
    str,
    KeysOf(
        "laterna.synthesis.teachers:TEACHERS", "laterna.synthesis.teachers.remote:REMOTE_TEACHERS"
    ),
]
EnrichmentName = Annotated[str, KeysOf("laterna.synthesis.enrichment:ENRICHMENTS")]


class Synthesize(Command, frozen=True, kw_only=True):
    """Turn annotated images into instruction records that trainers read.

    Run again, nothing that was answered is asked a second time.
    """

    annotations: Path
    """Annotated images: a COCO file or folder, or any other form that `--format` names."""
    format: FormatName = "auto"
    """Format of the annotations. `auto`: detected from their content."""
    out: Path
    """File to write."""
    captions: Path | None = None
    """COCO captions file. Default: the one beside the annotations."""
    captionless: bool = False
    """Where the annotations have captions, keep images that have boxes and no caption too."""
    teacher: TeacherName = "scribe"
    """Who writes the records. `scribe`: a grammar, offline; `openai`: an OpenAI-compatible
    endpoint; `batch`: its batch API; `local`: a model on this machine; `replay`: answers from a
    ledger."""
    kinds: tuple[Kind, ...] = ("conversation", "detail", "reasoning")
    """Kinds of records to make. `caption` is for stage 1 and needs no teacher."""
    conversation_boxes: bool = False
    """Show boxes to the teacher for conversations too, so that it can count. LLaVA does not."""
    prompts: Path | None = None
    """Folder of prompts to use instead of the shipped ones, in LLaVA's layout."""
    enrich: tuple[EnrichmentName, ...] = ()
    """What to measure from the images and show to the teacher besides."""
    images: Path | None = None
    """Folder of the images, for `--enrich` and `--view`; default: the one beside the
    annotations, where `--enrich` is not asked for."""
    view: View = "auto"
    """Where EXIF turns an image: whether its boxes were measured on the `stored` pixels or on the
    `turned` image; `auto` sees it from the annotated width and height."""
    form: Annotated[str, KeysOf("laterna.synthesis.outputs:OUTPUTS")] = "llava"
    """Form of the file."""
    seed: Seed = 0
    """Random seed of the teacher."""
    repair: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    """How often to ask again after a rejected reply, with the reasons given."""
    judge: str = ""
    """Language model at the teacher's endpoint that lists the claims of each reply; boxes and
    captions then decide them. One more request per reply. Default: none, only the rules."""
    endpoint: Annotated[Endpoint, arg(name="")] = Endpoint()
    spending: Annotated[Spending, arg(name="")] = Spending()
    ledger: Path | None = None
    """SQLite file that keeps every answer; default: beside OUT."""
    dry_run: bool = False
    """Only estimate requests, tokens, dollars and hours. Nothing is asked."""
    shard: str = "1/1"
    """Part of the images to do, as i/n; each part has its own OUT."""
    engine: Annotated[str, KeysOf("laterna.synthesis.run:ENGINES")] = "local"
    """`local`: in this process; `ray`: on a Ray cluster (`pip install 'laterna[ray]'`)."""

    def reads(self) -> Iterator[Reads]:
        """Name the annotations and what goes with them."""
        ledger = self.ledger if self.teacher == "replay" else None
        paths = (self.annotations, self.captions, self.prompts, self.spending.prices, ledger)
        yield from (Reads(path) for path in paths if path is not None)
        if self.images is not None:
            yield Reads(self.images, whole=False)

    def writes(self) -> Iterator[Writes]:
        """Name the records, and what a teacher that is asked leaves beside them."""
        from laterna.synthesis.run import ledger_file, rejects_file
        from laterna.synthesis.teachers.remote import is_remote

        if self.dry_run:
            return
        yield Writes(self.out)
        if is_remote(self.teacher):
            yield Writes(rejects_file(self.out))
            if self.teacher != "replay":
                yield Writes(self.ledger or ledger_file(self.out))

    def run(self) -> str:
        """Call `laterna.synthesis.run`."""
        from laterna.synthesis.run import dry_run, run_job

        job = Job(
            annotations=self.annotations,
            captions=self.captions,
            captionless=self.captionless,
            format=self.format,
            view=self.view,
            teacher=self.teacher,
            kinds=self.kinds,
            seed=self.seed,
            conversation_boxes=self.conversation_boxes,
            prompts=self.prompts,
            enrich=self.enrich,
            images=self.images,
            repair=self.repair,
            judge=self.judge,
            endpoint=self.endpoint,
            spending=self.spending,
            ledger=self.ledger,
            shard=read_shard(self.shard),
        )
        if self.dry_run:
            return dry_run(job, self.out)
        summary = run_job(job, self.out, form=self.form, engine=self.engine)
        show_some(
            "left out",
            [f"{one.where}: {one.reason}" for one in summary.problems if not one.kept],
        )
        show_some(
            "read otherwise",
            [f"{one.where}: {one.reason}" for one in summary.problems if one.kept],
        )
        return summary.line()
