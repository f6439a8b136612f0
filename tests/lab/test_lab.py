"""The lab: arms differ in what is said and nothing else, numbers become words, runs are resumed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import msgspec
import pytest

from laterna.cli import main
from laterna.errors import LaternaError
from laterna.lab import EXPERIMENTS, Experiment
from laterna.lab import bench as bench_module
from laterna.lab import run as lab_run
from laterna.lab.bench import Bench, Cost, Plan, Size, score_value
from laterna.lab.experiment import (
    Answer,
    Arm,
    Measures,
    Results,
    Shown,
    Spread,
    Value,
    change,
    compared,
    differences,
)
from laterna.lab.pages import FIGURE, as_markdown, fitting, tables_of
from laterna.lab.run import FOUND, TEXT, run_experiments
from laterna.recipe import Recipe, load_recipe

SMALL = Size(images=6, validation_images=2, align_steps=1, instruct_steps=1)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("lab"), load_recipe("nano"), seed=0, size=SMALL)


def arms_of(name: str, bench: Bench) -> dict[str, str]:
    """Each arm with what it differs in from the first."""
    arms = EXPERIMENTS[name].plan().arms(bench)
    return {arm.name: differences(arms[0].recipe, arm.recipe) for arm in arms}


def test_a_setting_is_changed_by_its_name_and_nothing_else_is() -> None:
    recipe = load_recipe("nano")
    changed = change(recipe, {"connector.kind": "linear", "seed": 3})
    assert differences(recipe, changed) == "seed = 3, connector.kind = linear"
    assert differences(recipe, recipe) == "nothing"
    with pytest.raises(AttributeError):
        change(recipe, {"connector.colour": "red"})


def test_the_projectors_arms(bench: Bench) -> None:
    found = arms_of("projector", bench)
    assert len(found) == 12
    assert found["linear, 0"] == "nothing"
    assert found["two linear, 0"] == "connector.kind = mlp, connector.activation = none"
    assert found["mlp, 0"] == "connector.kind = mlp"
    assert found["linear, 2"] == "vision.mixing = 2.0"
    assert found["mlp, 0.5"] == "vision.mixing = 0.5, connector.kind = mlp"


def test_the_arms_of_two_stages(bench: Bench) -> None:
    found = arms_of("two-stages", bench)
    assert found["two stages"] == found["calibrated"] == found["before"] == "nothing"
    assert found["random"] == "connector.calibrate = False"
    assert found["open from the start"] == "align.language.mode = full, align.language.lr = 0.002"
    stages = {arm.name: arm.stages for arm in EXPERIMENTS["two-stages"].plan().arms(bench)}
    assert stages["random"] == stages["calibrated"] == ("instruct",)
    assert stages["two stages"] == stages["open from the start"] == ("align", "instruct")


def test_every_arm_of_proxy_kinds_sees_as_many_records(bench: Bench) -> None:
    arms = EXPERIMENTS["proxy-kinds"].plan().arms(bench)
    seen = set()
    for arm in arms:
        rows = msgspec.json.decode(Path(arm.recipe.instruct.data).read_bytes())
        kinds = {row["kind"] for row in rows}
        assert kinds == {
            "all": {"conversation", "detail", "reasoning"},
            "only detail": {"detail"},
            "without detail": {"conversation", "reasoning"},
        }.get(arm.name, kinds)
        seen.add(round(len(rows) * arm.recipe.instruct.epochs, 6))
    assert len(seen) == 1


def test_data_scale_takes_shares_of_the_steps(bench: Bench) -> None:
    found = {arm.name: arm for arm in EXPERIMENTS["data-scale"].plan().arms(bench)}
    whole = load_recipe("nano").instruct.epochs
    assert found["with stage 1, 1/16"].recipe.instruct.epochs == pytest.approx(whole / 16)
    assert found["without stage 1, 1/1"].stages == ("instruct",)


def test_the_arms_of_the_loss_mask(bench: Bench) -> None:
    found = arms_of("loss-mask", bench)
    assert found == {
        "answers": "nothing",
        "everything": "instruct.loss_on = all",
        "but the system prompt": "instruct.loss_on = chat",
        "answers without end": "instruct.loss_on = answers-no-end",
        "before stage 2": "nothing",
    }


def test_a_table_has_the_arms_that_have_some_of_its_measures() -> None:
    one, other = Value(value=1.0), Value(value=2.0)
    found = Results(arms={"a": ({"m": one},), "b": ({"n": other},), "c": ({},)}, seeds=(0,))
    first, second = tables_of({"First": ("m",), "Both": ("n", "m")}, ["a", "b", "c"], found)
    assert (first.title, first.rows) == ("First", (("a", "1.000"),))
    assert second.columns == ("arm", "n", "m")
    assert second.rows == (("a", "–", "1.000"), ("b", "2.000", "–"))
    (only,) = tables_of(("m",), ["a", "b", "c"], found)
    many = Results(arms={"a": ({"m": Value(value=2400.0), "n": Value(value=10.5)},)}, seeds=(0,))
    assert tables_of(("m", "n"), ["a"], many)[0].rows == (("a", "2,400", "10.500"),)
    assert (only.title, len(only.rows)) == ("", 1)


def test_tables_fit_a_terminal() -> None:
    wide = Shown(
        title="t",
        columns=("arm", *(f"measure {number}" for number in range(10))),
        rows=(("one", *["0.500 ± 0.100"] * 10), ("two", *["0.250 ± 0.100"] * 10)),
    )
    (whole,) = fitting(wide, 400)
    assert whole == wide
    (turned,) = fitting(wide, 60)
    assert turned.columns == ("measure", "one", "two")
    assert turned.rows[3] == ("measure 3", "0.500 ± 0.100", "0.250 ± 0.100")
    parts = list(fitting(wide, 30))
    assert [part.columns for part in parts] == [("measure", "one"), ("measure", "two")]


def results(**arms: list[Value]) -> Results:
    """One measure `m` of each arm, seed by seed."""
    return Results(
        arms={name: tuple({"m": value} for value in values) for name, values in arms.items()},
        seeds=tuple(range(len(next(iter(arms.values()))))),
    )


def test_intervals_are_over_seeds_where_there_are_several() -> None:
    found = results(a=[Value(value=one) for one in (0.5, 0.6, 0.7)]).spread("a", "m")
    # Student's t with 2 degrees of freedom: 4.3027 times the standard error, 0.1 / sqrt(3).
    assert found.mean == pytest.approx(0.6)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)
    assert found.words == "0.600 ± 0.248"


def test_one_seed_is_compared_question_by_question() -> None:
    one = score_value([1, 1, 1, 1, 1, 0, 1, 1])
    two = score_value([0, 0, 1, 0, 0, 0, 0, 0])
    found = results(a=[one], b=[two])
    difference = found.difference("a", "b", "m")
    assert difference.mean == pytest.approx(6 / 8)
    assert difference.sign == 1
    assert compared(difference, "share right").startswith("ahead of (+0.750 share right; +")
    assert found.difference("b", "a", "m").sign == -1
    assert found.difference("a", "a", "m").sign == 0


def test_two_arms_are_said_with_their_difference() -> None:
    found = results(a=[score_value([1, 1, 1, 1])], b=[score_value([0, 0, 0, 1])])
    assert found.beside("a", "a", "m") == (
        "1.000 against 1.000 (+0.000; +0.000 to +0.000: not told apart)"
    )
    # Differences 1, 1, 1, 0: their mean 3/4, and Student's t with 3 degrees of freedom, 3.1824,
    # times a standard error of 1/4.
    told = "1.000 against 0.250 (+0.750; -0.046 to +1.546: not told apart)"
    assert found.beside("a", "b", "m") == told
    alone = results(a=[Value(value=2.0)], b=[Value(value=0.5)]).beside("a", "b", "m")
    assert alone == "2.000 against 0.500 (one number each, so nothing is told)"


def test_numbers_without_questions_are_not_told_apart_by_one_seed() -> None:
    found = results(a=[Value(value=2.0)], b=[Value(value=1.0)])
    difference = found.difference("a", "b", "m")
    assert difference.mean == 1.0
    assert difference.sign == 0
    assert "nothing is told" in compared(difference, "nats")


def measures_of(plan: Plan) -> tuple[str, ...]:
    """What its tables show."""
    if isinstance(plan.table, Mapping):
        return tuple(chain.from_iterable(plan.table.values()))
    return tuple(plan.table)


def numbers(name: str, bench: Bench) -> Results:
    """Invented measures of every arm of an experiment: all the same, each with questions."""
    plan = EXPERIMENTS[name].plan()
    extra = {
        "projector": ("stage-1 plateau", "stage-1 losses"),
        "two-stages": ("gradient norms",),
        "frozen-encoder": ("retrieval, texture by chance",),
    }
    told = (*measures_of(plan), *extra.get(name, ()))
    measures = {measure: score_value([0.0, 1.0, 1.0, 1.0]) for measure in told}
    return Results(arms={arm.name: (measures,) for arm in plan.arms(bench)}, seeds=(0,))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_arms_that_are_alike_are_not_told_apart(name: str, bench: Bench) -> None:
    plan, same = EXPERIMENTS[name].plan(), numbers(name, bench)
    answer = plan.conclude(same)
    assert "ahead" not in answer.sentence
    assert "behind" not in answer.sentence
    assert answer.sentence.endswith(".")
    assert plan.draw(same).startswith("<svg")
    assert plan.draw(same) == plan.draw(same)


def fake(measured: list[str]) -> Experiment:
    """An experiment that trains nothing and remembers what it measured."""

    def measure(bench: Bench, arm: Arm) -> Measures:
        measured.append(f"{arm.name}-{bench.seed}")
        return {"width": Value(value=float(len(arm.name) + bench.seed))}

    plan = Plan(
        done="Names are measured.",
        arms=lambda bench: [
            Arm(name="a", recipe=load_recipe("nano"), stages=()),
            Arm(name="bb", recipe=load_recipe("nano"), stages=("align",)),
        ],
        measure=measure,
        table=("width",),
        draw=lambda _: "<svg></svg>",
        conclude=lambda found: Answer(
            f"The second is {compared(found.difference('bb', 'a', 'width'), 'letters')} the first.",
            "Names are short.",
        ),
    )
    return Experiment("How wide?", 0.1, "nothing", lambda: plan)


def test_what_is_finished_is_taken_and_another_seed_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    monkeypatch.setitem(EXPERIMENTS, "width", fake(measured))
    (found,) = run_experiments(["width"], tmp_path, seeds=2)
    assert measured == ["a-0", "bb-0", "a-1", "bb-1"]
    assert found.tables[0].rows[1] == ("bb", "2.500 ± 6.353")
    assert found.answer.startswith("The second is ahead of (+1.000 letters")
    assert found.arms == (("a", "nothing"), ("bb", "stages: align"))
    run_experiments(["width"], tmp_path, seeds=3)
    assert measured[4:] == ["a-2", "bb-2"]
    (tmp_path / "width" / "seed-0" / "a.json").write_text("{")
    run_experiments(["width"], tmp_path, seeds=1, quick=False)
    assert measured[6:] == ["a-0"]
    page = (tmp_path / "width" / TEXT).read_text(encoding="utf-8")
    assert page.startswith("# width\n\n**How wide?**")
    assert "One seed: intervals are over questions alone" in page
    assert (tmp_path / "width" / FIGURE).read_text(encoding="utf-8") == "<svg></svg>"
    assert (tmp_path / "width" / FOUND).is_file()
    assert "How wide?" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_what_is_not_a_number_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    one = fake(measured)
    plan = one.plan()

    def measure(bench: Bench, arm: Arm) -> Measures:
        return {**plan.measure(bench, arm), "none": Value(value=float("nan"))}

    monkeypatch.setitem(
        EXPERIMENTS,
        "width",
        one._replace(plan=lambda: plan._replace(measure=measure, table=("width", "none"))),
    )
    for _ in range(2):
        (found,) = run_experiments(["width"], tmp_path, seeds=1)
    assert measured == ["a-0", "bb-0"]
    assert found.tables[0].rows == (("a", "1.000", "–"), ("bb", "2.000", "–"))


def test_training_that_arms_share_is_counted_once_and_in_each_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = [0.0]

    def train(*_: object, out: Path, **__: object) -> None:
        out.mkdir(parents=True)
        passed[0] += 60

    def spent() -> Cost:
        return Cost(seconds=2 * passed[0], processor_seconds=passed[0])

    monkeypatch.setattr(bench_module, "train", train)
    monkeypatch.setattr(bench_module, "spent", spent)
    monkeypatch.setattr(lab_run, "spent", spent)
    recipe = load_recipe("nano")
    arms = [Arm(name=name, recipe=recipe, stages=("align",)) for name in "ab"]
    plan = fake([]).plan()._replace(
        arms=lambda _: arms,
        measure=lambda bench, arm: {"m": Value(value=float(len(str(bench.train(arm, "align")))))},
        table=("m",),
        conclude=lambda _: Answer("Names.", "None."),
    )  # fmt: skip
    for name in ("first", "second"):
        monkeypatch.setitem(EXPERIMENTS, name, Experiment("How?", 0.1, "nothing", lambda: plan))
    found = run_experiments(["first", "second"], tmp_path, seeds=1)
    # The one checkpoint took a minute, of both arms and of both experiments.
    assert [one.processor_minutes for one in found] == [1.0, 1.0]
    assert [one.minutes for one in found] == [2.0, 2.0]
    assert passed == [60.0]


def test_a_page_names_no_place_of_the_machine(tmp_path: Path) -> None:
    recipe = load_recipe("nano")
    data = str(tmp_path / "shared" / "more.json")
    arms = [
        Arm(name=name, recipe=change(recipe, {"instruct.data": path}))
        for name, path in (("a", "world.json"), ("b", data))
    ]
    assert lab_run._differs(*arms, tmp_path) == "instruct.data = shared/more.json"


def test_a_quick_run_says_so_in_its_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPERIMENTS, "width", fake([]))
    (found,) = run_experiments(["width"], tmp_path, seeds=1, quick=True)
    assert found.title.startswith("Quick run: this shows that the experiment works")
    assert as_markdown(found).startswith(f"# {found.title}")


def test_a_folder_of_somebody_elses_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index.html").write_text("thesis")
    assert main(["lab", "projector", "--out", str(tmp_path)]) == 2
    assert "is not empty, and no lab is in it" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    assert (tmp_path / "index.html").read_text() == "thesis"


def test_an_unknown_experiment_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LaternaError, match="blind-spot: no such experiment"):
        run_experiments(["blind-spot"], tmp_path)
    with pytest.raises(LaternaError, match="seeds = 0"):
        run_experiments(["blind-spots"], tmp_path, seeds=0)
    assert main(["lab"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in EXPERIMENTS)
    assert "[enrich]" in listed


def test_spreads_without_ends_are_one_number() -> None:
    nan = float("nan")
    assert Spread(0.25, nan, nan).words == "0.250"
    assert Spread(0.0, nan, nan).words == "0.000"
    assert Spread(1e-12, nan, nan).words == "< 0.001"  # such as a p-value
    assert Spread(0.25, nan, nan).sign == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_runs_on_tiny_models(
    name: str, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = Size(images=40, validation_images=90, align_steps=2, instruct_steps=2)
    monkeypatch.setattr(lab_run, "QUICK", size)
    (found,) = run_experiments([name], tmp_path, recipe=tiny_recipe, seeds=1, quick=True)
    rows = [row for table in found.tables for row in table.rows]
    assert {row[0] for row in rows} == {arm for arm, _ in found.arms}
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    again = run_experiments([name], tmp_path, recipe=tiny_recipe, seeds=1, quick=True)
    assert again == [found]
