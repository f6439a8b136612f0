"""`laterna evaluate` and `laterna compare`: questions with known answers, and two runs of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from tyro.conf import Positional, arg

from laterna.choices import SomeKeysOf
from laterna.commands.base import RUNS, Command, Reads, Where, Writes, made_of, show_some
from laterna.errors import LaternaError
from laterna.files import Made, resolved, write_atomically
from laterna.recipe import Amount, Count, Number, Seed
from laterna.synthesis.settings import OPENAI_URL, Endpoint, Spending

if TYPE_CHECKING:
    from rich.console import Console

    from laterna.evaluation.judge import Judging
    from laterna.evaluation.run import Evaluation
    from laterna.evaluation.shots import Shots
    from laterna.evaluation.tasks.base import TaskQuestions
    from laterna.inference.assistant import Assistant

TaskNames = Annotated[tuple[str, ...], SomeKeysOf("laterna.evaluation.tasks:TASKS")]
_TABLE_WIDTH = 120
ControlNames = Annotated[tuple[str, ...], SomeKeysOf("laterna.evaluation.run:CONTROLS")]


class JudgeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Who judges answers of sentences, and how it is asked."""

    judge: str = ""
    """Model that judges the answers of `llava_bench` and `mm_vet`."""
    judge_base_url: str = OPENAI_URL
    """Address of the judge's OpenAI-compatible endpoint."""
    judge_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the judge's API key; the key itself is never stored."""
    judge_second: str = ""
    """Another judge of the same answers, or the same one again: their agreement is reported."""
    judge_prompt: Path | None = None
    """File of the judge's prompt, in place of ours (for `mm_vet` the published one)."""
    judge_temperature: Amount | None = None
    """Default: the benchmark's own."""
    judge_concurrency: Count = 16
    """Maximum number of the judge's calls in flight."""
    judge_tries: Count = 8
    """How often a call is tried before its answer counts as not judged."""
    judge_parameters: tuple[str, ...] = ()
    """Further request parameters as NAME=JSON."""

    def judging(self, spending: Spending) -> Judging | None:
        """Return who judges; None where nobody is named."""
        from laterna.evaluation.judge import Judging

        if not self.judge:
            return None
        endpoint = Endpoint(
            model=self.judge,
            base_url=self.judge_base_url,
            key_variable=self.judge_key_variable,
            temperature=self.judge_temperature,
            concurrency=self.judge_concurrency,
            tries=self.judge_tries,
            parameters=self.judge_parameters,
        )
        return Judging(
            model=self.judge,
            second=self.judge_second,
            endpoint=endpoint,
            spending=spending,
            prompt=self.judge_prompt,
        )


class ShotOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Demonstrations before each question (docs/evaluation.md)."""

    shots: Annotated[int, msgspec.Meta(ge=0, le=256)] | None = None
    """Number of demonstrations with their images; Flamingo: 0, 4, 8, 16, 32. 0: two without images.
    Default: the question alone."""
    shots_from: Path | None = None
    """Where they come from: a folder of the task's files that is not asked about, such as its
    training split (a folder in it that is called like a task is that task's), or a file of
    instruction records."""
    shots_images: Path | None = None
    """Folder, zip or tar file of the images of such records. Default: `images` beside the file, or
    where it lies."""
    shots_by: Literal["seed", "features"] = "seed"
    """`seed`: the same for all questions; `features`: for each question those with the nearest
    images by the vision encoder, the nearest last."""
    shots_pool: Count = 1000
    """The most demonstrations among which `features` looks, drawn by the seed."""

    def of(self, task: str) -> Shots | None:
        """Return what is shown before a task's questions; None: nothing."""
        from laterna.evaluation.shots import Shots

        if self.shots is None:
            if self.shots_from is not None or self.shots_by != "seed":
                raise LaternaError("--shots-from and --shots-by are of --shots; add --shots 4, say")
            return None
        if self.shots_from is None:
            raise LaternaError(
                "--shots: name with --shots-from where demonstrations come from: a folder of the "
                "task's training files, or a file of instruction records"
            )
        own = self.shots_from / task
        return Shots(
            count=self.shots,
            source=own if own.is_dir() else self.shots_from,
            images=self.shots_images,
            retrieve=self.shots_by == "features",
            pool=max(self.shots_pool, self.shots),
        )


class Evaluate(Command, frozen=True, kw_only=True):
    """Ask an assistant questions with known answers; score it beside controls.

    Run again after a kill, nothing that was answered is asked a second time.
    """

    model: Positional[str]
    """A Laterna checkpoint, a llava-hf or original LLaVA folder, or a hub id of one."""
    data: Path
    """Folder of the tasks' files; a folder in it that is called like a task is that task's."""
    task: TaskNames = ("world",)
    """Tasks, commas between (docs/evaluation.md)."""
    setting: str = ""
    """Variant of the task's prompt. Default: LLaVA-1.5's."""
    limit: Number = 0
    """Maximum number of questions of each task. 0: all."""
    seed: Seed = 0
    """Random seed of the choice and wording of the questions."""
    batch: str = "auto"
    """Questions that are answered at once. `auto`: as many as the engine takes."""
    out: Path | None = None
    """Folder for figures, answers and a page; default: only printed."""
    cache: Path | None = None
    """Folder that keeps all answers. Default: beside OUT, else none."""
    controls: ControlNames = ("blank", "shuffled", "text_only", "constant")
    """Controls beside every score, commas between; `none`: no control."""
    baseline: str = ""
    """Another assistant that answers the same questions, such as the stage-1 checkpoint."""
    build: Path | None = None
    """Build the questions of `pope` first, from these annotations (`instances_*.json`), in DATA."""
    build_images: Count = 500
    """Images that are drawn for `--build`, six questions each and sampling."""
    explain: Number = 4
    """Answers of each task of which OUT's page shows what in the image they hang on, at up to 64
    forward passes each. 0: none."""
    overwrite: bool = False
    """Replace another evaluation in OUT."""
    shots: Annotated[ShotOptions, arg(name="")] = ShotOptions()
    judge: Annotated[JudgeOptions, arg(name="")] = JudgeOptions()
    spending: Annotated[Spending, arg(name="")] = Spending()
    where: Annotated[Where, arg(name="")] = Where()

    def reads(self) -> Iterator[Reads]:
        """Name the checkpoints and the dataset."""
        from laterna.evaluation.run import require_judge
        from laterna.evaluation.tasks import find_task

        for task in self.task:
            find_task(task).find_setting(self.setting)
            require_judge(task, self.judge.judging(self.spending), self._cache())
        if not self.task:
            raise LaternaError("--task: name at least one task")
        self._rows()
        yield Reads(self.data, kind="folder")
        for task in self.task:
            self.shots.of(task)
        for place in (self.shots.shots_from, self.shots.shots_images):
            if place is not None:
                yield Reads(place)
        for file in (self.build, self.judge.judge_prompt, self.spending.prices):
            if file is not None:
                yield Reads(file, kind="file")
        models = (self.model, self.baseline)
        yield from (Reads(Path(name), kind="maybe") for name in models if name)

    def writes(self) -> Iterator[Writes]:
        """Name the folder of the run and the cache."""
        if self.out is not None:
            yield Writes(self.out, made=self._made(), overwrite=self.overwrite)
        if (cache := self._cache()) is not None:
            yield Writes(cache, grows=True)

    def run(self) -> str:
        """Call `laterna.evaluation.run` for each task, and show the tables."""
        self._build()
        data = {task: self._data(task) for task in self.task}
        questions = {task: self._read(task, data[task]) for task in self.task}
        assistant = self._load(self.model)
        baseline = self._load(self.baseline) if self.baseline else None
        found = [
            self._evaluate(assistant, baseline, task, data[task], questions[task])
            for task in self.task
        ]
        made = "; ".join(map(_told, found))
        if self.out is None:
            return f"evaluated {self.model}: {made}"
        self._write(self.out, assistant, found, data)
        return f"evaluated {self.model}: {made}; made {self.out}"

    def _evaluate(
        self,
        assistant: Assistant,
        baseline: Assistant | None,
        task: str,
        data: Path,
        questions: TaskQuestions,
    ) -> Evaluation:
        from laterna.evaluation.run import evaluate, score_table

        evaluation = evaluate(
            assistant,
            task,
            data,
            setting=self.setting,
            limit=self.limit,
            seed=self.seed,
            controls=self.controls,
            before_instruct=baseline,
            shots=self.shots.of(task),
            judging=self.judge.judging(self.spending),
            cache=self._cache(),
            read=questions,
        )
        _wide_console().print(score_table(evaluation))
        for line in _judge_lines(evaluation):
            print(line)
        for warning in evaluation.warnings:
            print(f"warning: {warning}")
        show_some("not asked", [skipped.message for skipped in evaluation.skipped])
        for reason, number in evaluation.skipped_rows.items():
            print(f"left out: {number} rows: {reason} ({evaluation.row_examples.get(reason, '')})")
        return evaluation

    def _write(
        self,
        out: Path,
        assistant: Assistant,
        found: list[Evaluation],
        data: dict[str, Path],
    ) -> None:
        from laterna.evaluation.answer_cache import model_fingerprint
        from laterna.evaluation.saved import PAGE, Subject, read_run, training_sources, write_run
        from laterna.report.evaluation import write_evaluation_page
        from laterna.report.overlays import explain_answers, write_explanations
        from laterna.version import __version__

        subject = Subject(
            model=self.model,
            fingerprint=model_fingerprint(assistant.model),
            limit=self.limit,
            seed=self.seed,
            laterna=__version__,
            baseline=self.baseline,
            training=training_sources(assistant.model.recipe),
        )
        with write_atomically(out, self._made(), overwrite=self.overwrite) as aside:
            write_run(aside, subject, found, data)
            if self.explain:
                explained = explain_answers(assistant, read_run(aside), self.explain)
                write_explanations(aside, explained)
        write_evaluation_page(out / PAGE, read_run(out))

    def _load(self, name: str) -> Assistant:
        from laterna.inference.assistant import Assistant
        from laterna.inference.batching.pace import EngineSettings

        assistant = self.where.load(name)
        rows = self._rows()
        return Assistant(assistant.model, EngineSettings(rows=rows)) if rows else assistant

    def _rows(self) -> int:
        if self.batch == "auto":
            return 0
        if not self.batch.isdecimal() or not 1 <= int(self.batch) <= 4096:
            raise LaternaError(f"--batch {self.batch!r}: give `auto`, or a number from 1 to 4096")
        return int(self.batch)

    def _data(self, task: str) -> Path:
        own = self.data / task
        return own if own.is_dir() else self.data

    def _read(self, task: str, data: Path) -> TaskQuestions:
        from laterna.evaluation.tasks import find_task
        from laterna.evaluation.tasks.base import read_questions

        return read_questions(
            find_task(task), data, limit=self.limit, seed=self.seed, setting=self.setting
        )

    def _cache(self) -> Path | None:
        if self.cache is None and self.out is not None:
            place = resolved(self.out)  # OUT may be `.`
            return place.parent / f"{place.name}.cache"
        return self.cache

    def _made(self) -> Made:
        from laterna.evaluation.saved import made

        settings = {name: getattr(self, name) for name in ("setting", "limit", "seed", "baseline")}
        shots = ",".join(str(one) for one in msgspec.structs.astuple(self.shots))
        listed = {"shots": shots, "task": ",".join(self.task), "controls": ",".join(self.controls)}
        judge = ",".join(str(one) for one in msgspec.structs.astuple(self.judge))
        return made(made_of(self.model, data=self.data, judge=judge, **listed, **settings))

    def _build(self) -> None:
        """Build POPE's three sets from annotations, unless they are there."""
        from laterna.evaluation.tasks.pope import BUILT, SAMPLINGS, build_pope

        if self.build is None:
            return
        if "pope" not in self.task:
            raise LaternaError("--build makes the questions of pope; add --task pope")
        for sampling in SAMPLINGS:
            path = self._data("pope") / BUILT.format(sampling)
            built = build_pope(self.build, path, sampling, self.seed, images=self.build_images)
            lost = "".join(f"; {count} left out: {why}" for why, count in built.skipped.items())
            print(f"built {path}: {built.questions} questions about {built.images} images{lost}")


def _wide_console() -> Console:
    """Return a console as wide as any table here: in a narrower terminal rich cuts the figures."""
    from rich.console import Console

    return Console(width=max(Console().width, _TABLE_WIDTH))


def _told(evaluation: Evaluation) -> str:
    from laterna.evaluation.run import figures

    found = figures(evaluation)
    counts = "".join(f", {count} not asked: {reason}" for reason, count in found.skipped.items())
    shots = f" with {evaluation.shots.words}" if evaluation.shots else ""
    return f"{evaluation.task} {found.overall:.3f} of {found.questions} questions{shots}{counts}"


def _judge_lines(evaluation: Evaluation) -> Iterator[str]:
    judge = evaluation.judge
    if judge is None:
        return
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in judge.outcomes.items())
    versions = ", ".join(judge.versions) or "version not said"
    yield f"judge {judge.model} ({versions}): {outcomes}; prompt: {judge.note}"
    if (both := judge.agreement) is not None:
        same, apart, along = (
            "–" if one is None else f"{one:.3f}"
            for one in (both.same, both.difference, both.correlation)
        )
        yield (
            f"judges {both.first} and {both.second}, {both.both} answers: {same} the same, "
            f"{apart} apart in the mean, correlation {along}"
        )


class Compare(Command, frozen=True, kw_only=True):
    """Compare two evaluations of the same questions by paired tests, and show where they differ."""

    first: Positional[Path]
    """Folder of an evaluation (`laterna evaluate --out`)."""
    second: Positional[Path]
    """Folder of another."""
    out: Path = RUNS / "compare.html"
    """Page to write."""

    def reads(self) -> Iterator[Reads]:
        """Name both folders."""
        yield from (Reads(folder, kind="folder") for folder in (self.first, self.second))

    def writes(self) -> Iterator[Writes]:
        """Name the page."""
        yield Writes(self.out)

    def run(self) -> str:
        """Call `laterna.evaluation.compare`, show the table and write the page."""
        from laterna.evaluation.compare import compare_runs, comparison_tables
        from laterna.evaluation.saved import read_run
        from laterna.report.evaluation import write_comparison_page

        pair = read_run(self.first), read_run(self.second)
        found = compare_runs(*pair)
        _wide_console().print(*comparison_tables(found))
        for line in found.remarks:
            print(line)
        write_comparison_page(self.out, found)
        told = "; ".join(task.sentence for task in found.tasks)
        return f"{told}; made {self.out}"
