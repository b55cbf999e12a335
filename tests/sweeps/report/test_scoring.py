"""Cells, scores and differences against numbers worked by hand."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from sweeps.pooled import difficulties, pooled_checkpoints, pooled_rows
from sweeps.report import scoring, tables
from sweeps.report.load import Board
from sweeps.report.scoring import arms, contrasts, scalings, score
from sweeps.results import SeedKeys, SweepResults, TrialResult
from tests.sweeps import synthetic
from w2s.stages.checkpoints import CHOICES, Checkpoint, ComparedCheckpoints
from w2s.statistics import Estimate

LABELS = [0, 1, 0, 1]


def frame(predicted: list[int], labels: list[int] | None = None, prefix: str = "r") -> pd.DataFrame:
    """Test rows of one evaluation, in reverse order: rows are to be joined by id."""
    truth = labels or LABELS * (len(predicted) // 4)
    rows = pd.DataFrame(
        {
            "split": "test",
            "row_id": [f"{prefix}{i:03d}" for i in range(len(predicted))],
            "group": [f"g{i}" for i in range(len(predicted))],
            "label": truth,
            "predicted": predicted,
            "correct": [p == t for p, t in zip(predicted, truth, strict=True)],
            "prob_0": [1.0 - p for p in predicted],
            "prob_1": [float(p) for p in predicted],
        }
    )
    return rows.iloc[::-1]


def trial(name: str = "t", **changes) -> TrialResult:
    keys = SeedKeys(seed=0, floor="floor", supervisor="floor", student="student", ceiling="ceiling")
    values = {
        "trial_id": name,
        "block": "pairs",
        "task": "world 0",
        "weak": "xs",
        "strong": "l",
        "method": "naive",
        "method_kind": "naive",
        "loss": "xent",
        "objective": 0.5,
        "keys": (keys,),
    }
    return TrialResult(**{**values, **changes})


def board(trials: list[TrialResult], **frames: pd.DataFrame) -> Board:
    return Board(results(trials, **frames))


def results(trials: list[TrialResult], **frames: pd.DataFrame) -> SweepResults:
    tasks = tuple(dict.fromkeys(trial.task for trial in trials))
    return SweepResults(synthetic.summary(tasks), tuple(trials), pooled_rows(frames.items()))


def right(shares: list[bool]) -> list[int]:
    """Predictions that are right where told."""
    labels = LABELS * (len(shares) // 4)
    return [label if ok else 1 - label for label, ok in zip(labels, shares, strict=True)]


def test_scores_are_means_over_rows_and_agreement_is_split_by_who_is_right():
    # Of 40 rows the floor gets the first 20, the student the first 25 and row 39, the ceiling 38.
    made = board(
        [trial()],
        floor=frame(right([i < 20 for i in range(40)])),
        student=frame(right([i < 25 or i == 39 for i in range(40)])),
        ceiling=frame(right([i < 38 for i in range(40)])),
    )
    scored = score(made, made.cells[0])
    compared = scored.compared
    assert (compared.floor.point, compared.student.point, compared.ceiling.point) == (
        0.5,
        0.65,
        0.95,
    )
    assert compared.pgr is not None
    assert compared.pgr.point == pytest.approx((0.65 - 0.5) / (0.95 - 0.5))
    # They differ on rows 20 to 24 and 39, all of them wrong ones of the supervisor.
    assert scored.agreement.point == pytest.approx(34 / 40)
    assert scored.agreement_right is not None
    assert scored.agreement_right == Estimate(1.0, 1.0, 1.0)
    assert scored.agreement_wrong is not None
    assert scored.agreement_wrong.point == pytest.approx(14 / 20)


def test_a_supervisor_that_is_always_right_has_no_agreement_where_wrong():
    everything = frame(right([True] * 8))
    made = board([trial()], floor=everything, student=everything, ceiling=everything)
    scored = score(made, made.cells[0])
    assert scored.agreement_wrong is None
    assert scored.compared.gap_too_small
    assert tables.pgr_field(scored.compared.pgr).text == "gap too small"


def test_of_searched_points_the_best_finished_one_on_val_is_scored():
    def searched(name: str, objective: float, status: str = "done") -> TrialResult:
        keys = SeedKeys(seed=0, floor="floor", supervisor="floor", student=name, ceiling="ceiling")
        return trial(
            name,
            searched=True,
            objective=objective,
            status=status,
            keys=(keys,),
            hyperparameters={"loss.max_weight": objective},
        )

    good, bad = frame(right([True] * 8)), frame(right([False] * 8))
    made = board(
        [searched("a", 0.6), searched("b", 0.7), searched("c", 0.9, "stopped")],
        floor=bad,
        ceiling=good,
        a=good,  # Best on test, which must not matter.
        b=bad,
        c=good,
    )
    (cell,) = made.cells
    assert [chosen.trial_id for chosen in cell.trials] == ["b"]
    assert cell.num_searched == 3
    assert score(made, cell).compared.student.point == 0.0


def test_tasks_are_pooled_on_the_seeds_they_share():
    good, bad = right([True] * 4), right([False] * 4)

    def on(task: str, seeds: tuple[int, ...]) -> TrialResult:
        keys = tuple(
            SeedKeys(
                seed=seed,
                floor=f"{task}f",
                supervisor=f"{task}f",
                student=f"{task}s{seed}",
                ceiling=f"{task}f",
            )
            for seed in seeds
        )
        return trial(task, task=task, keys=keys)

    made = board(
        [on("a", (1, 0)), on("b", (0, 1, 2))],
        af=frame(bad),
        bf=frame(bad, prefix="q"),
        as0=frame(good),
        as1=frame(bad),
        bs0=frame(good, prefix="q"),
        bs1=frame(good, prefix="q"),
        bs2=frame(bad, prefix="q"),
    )
    (cell,) = made.cells
    assert cell.seeds == (0, 1)
    # Seed 0 has all rows of both tasks right, seed 1 those of the second alone.
    assert [number.point for number in made.accuracy(cell, "student")] == [0.5, 1.0]
    assert score(made, cell).compared.num_rows == 8


def test_evaluations_of_different_rows_are_not_compared():
    rows = frame(right([True] * 4))
    other = frame(right([True] * 4), prefix="other")
    made = board([trial()], floor=rows, student=other, ceiling=rows)
    with pytest.raises(ValueError, match="evaluation student is of other test rows"):
        score(made, made.cells[0])


def test_an_ensemble_is_compared_with_the_mean_of_its_members():
    keys = SeedKeys(
        seed=0,
        floor="floor",
        supervisor="both",
        student="student",
        ceiling="ceiling",
        members=("one", "two"),
    )
    every = frame(right([True] * 8))
    made = board(
        [trial(method="debate_ensemble", method_kind="debate_ensemble", keys=(keys,))],
        floor=every,
        student=every,
        ceiling=every,
        both=frame(right([True] * 6 + [False] * 2)),  # .75
        one=frame(right([True] * 4 + [False] * 4)),  # .5
        two=frame(right([True] * 2 + [False] * 6)),  # .25
    )
    asked = {contrast.topic: contrast for contrast in contrasts(made)}
    ensemble = asked["Is an ensemble better than its members?"]
    assert ensemble.estimate.point == pytest.approx(0.75 - 0.375)
    assert asked[scoring.BETTER_SUPERVISOR].estimate.point == pytest.approx(-0.25)


def test_shuffled_labels_are_held_against_chance():
    every = frame(right([True] * 8))
    made = board(
        [trial(method="shuffled_labels", method_kind="shuffled_labels")],
        floor=every,
        student=frame(right([True] * 6 + [False] * 2)),
        ceiling=every,
    )
    (contrast,) = contrasts(made)
    assert (contrast.second, contrast.estimate.point) == ("chance", pytest.approx(0.25))


def test_the_sweep_asks_each_question_once():
    made = Board(synthetic.results(num_rows=40, tasks=("world 0",)))
    asked = list(contrasts(made))
    assert len({(c.topic, c.where, c.first, c.second) for c in asked}) == len(asked)
    first_and_second = {(c.first, c.second) for c in asked}
    assert ("supervisor, debate", "debate(weak)") in first_and_second
    assert ("student, debate", "naive") in first_and_second
    assert ("student, confidence, best of 8 on val", "xent") in first_and_second
    assert ("student of shuffled labels", "chance") in first_and_second


def two_tasks(**changes) -> list[TrialResult]:
    """One trial on each of two tasks, evaluations by the task's letter and the role's."""
    return [
        trial(
            task,
            task=task,
            keys=(
                SeedKeys(
                    seed=0,
                    floor=f"{task}f",
                    supervisor=f"{task}f",
                    student=f"{task}s",
                    ceiling=f"{task}c",
                    **changes,
                ),
            ),
        )
        for task in ("a", "b")
    ]


def shares(**counts: int) -> dict[str, pd.DataFrame]:
    """Evaluations that have the first so many rows right: 40 of task a, 80 of task b."""
    sizes = {"a": 40, "b": 80}
    return {
        key.rstrip("_"): frame(right([i < count for i in range(sizes[key[0]])]), prefix=key[0])
        for key, count in counts.items()
    }


def test_a_score_over_tasks_weighs_each_task_alike_and_has_the_median_of_their_ratios() -> None:
    made = board(two_tasks(), **shares(af=20, as_=26, ac=40, bf=40, bs=64, bc=80))
    rows = dict(made.results.rows.groupby("key", observed=True).size())
    assert rows == {"af": 40, "as": 40, "ac": 40, "bf": 80, "bs": 80, "bc": 80}
    scored = score(made, made.cells[0])
    # .65 and .8 between .5 and 1: ratios .3 and .6.
    assert scored.compared.student.point == pytest.approx((0.65 + 0.8) / 2)
    assert scored.compared.num_rows == 120
    assert scored.median_pgr is not None
    assert scored.median_pgr.estimate.point == pytest.approx(0.45)
    assert scored.median_pgr.num_tasks == 2
    alone = score(made, made.cells[0].of_task("b"))
    assert alone.median_pgr is None
    assert alone.compared.student.point == 0.8


def test_a_task_without_a_gap_is_left_out_of_the_median() -> None:
    made = board(two_tasks(), **shares(af=20, as_=26, ac=40, bf=40, bs=64, bc=40))
    scored = score(made, made.cells[0])
    assert scored.median_pgr is not None
    assert scored.median_pgr.num_tasks == 1
    assert scored.median_pgr.estimate.point == pytest.approx(0.3)


def test_auroc_of_hard_predictions_is_the_mean_of_both_classes_accuracies() -> None:
    made = board(two_tasks(), **shares(af=20, as_=26, ac=40, bf=40, bs=64, bc=80))
    auroc = score(made, made.cells[0]).auroc
    assert auroc is not None
    assert auroc.student.point == pytest.approx((0.65 + 0.8) / 2)
    assert auroc.pgr is not None
    assert auroc.pgr.point == pytest.approx((0.725 - 0.5) / 0.5)


def test_a_task_of_three_classes_has_no_auroc() -> None:
    rows = frame(right([True] * 20 + [False] * 20)).assign(prob_2=0.0)
    every = frame(right([True] * 40)).assign(prob_2=0.0)
    made = board([trial()], floor=rows, student=rows, ceiling=every)
    scored = score(made, made.cells[0])
    assert scored.auroc is None
    assert scored.compared.pgr is not None


def test_misfit_and_gain_are_of_the_student_and_its_supervisor() -> None:
    # Hard predictions that differ on 6 rows of 40, on all of which the student is right.
    made = board(
        [trial()],
        floor=frame(right([i < 20 for i in range(40)])),
        student=frame(right([i < 26 for i in range(40)])),
        ceiling=frame(right([True] * 40)),
    )
    student = score(made, made.cells[0]).student
    assert student.misfit_squared == pytest.approx(2 * 6 / 40)
    assert student.brier_gain == pytest.approx(2 * 6 / 40)
    assert student.brier == pytest.approx(2 * 14 / 40)
    assert student.calibration_error == pytest.approx(1 - 26 / 40)


def test_an_arm_is_scored_between_floor_and_ceiling() -> None:
    trials = [
        each.model_copy(
            update={
                "keys": tuple(
                    keys.model_copy(update={"arms": {"step 1": f"{each.task}x"}})
                    for keys in each.keys
                )
            }
        )
        for each in two_tasks()
    ]
    frames = shares(af=20, as_=26, ac=40, bf=40, bs=64, bc=80, ax=30, bx=60)
    (arm,) = arms(board(trials, **frames))
    assert (arm.name, arm.accuracy.point) == ("step 1", 0.75)
    assert arm.pgr is not None
    assert arm.pgr.point == pytest.approx(0.5)
    assert arm.over_student.point == pytest.approx(0.75 - 0.725)
    assert arm.over_floor.point == pytest.approx(0.25)


def test_an_arm_that_some_task_lacks_is_not_shown() -> None:
    first, second = two_tasks()
    keys = first.keys[0].model_copy(update={"arms": {"step 1": "as"}})
    trials = [first.model_copy(update={"keys": (keys,)}), second]
    made = board(trials, **shares(af=20, as_=26, ac=40, bf=40, bs=64, bc=80))
    assert list(arms(made)) == []


def test_agreement_falls_by_its_slope_for_each_decade_of_size() -> None:
    def pair(strong: str) -> TrialResult:
        keys = SeedKeys(seed=0, floor="f", supervisor="f", student=strong, ceiling="c")
        return trial(strong, strong=strong, keys=(keys,))

    floor = [i < 20 for i in range(40)]
    differ = {"s": 4, "m": 8, "l": 12}  # Rows of the floor's errors that the student gets right.
    students = {
        rung: frame(right([ok or 20 <= i < 20 + count for i, ok in enumerate(floor)]))
        for rung, count in differ.items()
    }
    made = board(
        [pair(rung) for rung in differ],
        f=frame(right(floor)),
        c=frame(right([True] * 40)),
        **students,
    )
    (found,) = scalings(made)
    places = [math.log10(synthetic.SIZES[rung]) for rung in differ]
    mean = sum(places) / 3
    spread = sum((place - mean) ** 2 for place in places)
    for estimate, values in (
        (found.agreement, [0.9, 0.8, 0.7]),
        (found.where_wrong, [0.8, 0.6, 0.4]),
    ):
        assert estimate is not None
        slope = sum((p - mean) * v for p, v in zip(places, values, strict=True)) / spread
        assert estimate.point == pytest.approx(slope)
        assert estimate.low < estimate.point < estimate.high < 0
    assert found.strong == ("s", "m", "l")


def test_one_run_is_scored_under_three_rules_of_stopping() -> None:
    def run(*accuracies: float) -> ComparedCheckpoints:
        curve = tuple(
            Checkpoint(step=step, epoch=step, test_accuracy=accuracy, val_agreement=0.5)
            for step, accuracy in enumerate(accuracies)
        )
        return ComparedCheckpoints(curve=curve, steps={"last": 2, "best_val": 1, "oracle": 0})

    made = results(two_tasks(), **shares(af=20, as_=26, ac=40, bf=40, bs=64, bc=80))
    kept = pooled_checkpoints({"as": run(0.9, 0.7, 0.65), "bs": run(1.0, 0.9, 0.8)})
    with_runs = Board(replace(made, checkpoints=kept))
    stopping = score(with_runs, with_runs.cells[0]).stopping
    assert [stopping[choice].accuracy for choice in CHOICES] == pytest.approx([0.725, 0.8, 0.95])
    # Between .5 and 1: (.3, .6), (.4, .8), (.8, 1).
    assert [stopping[choice].pgr for choice in CHOICES] == pytest.approx([0.45, 0.6, 0.9])
    partly = Board(replace(made, checkpoints=pooled_checkpoints({"as": run(0.9, 0.7, 0.65)})))
    assert score(partly, partly.cells[0]).stopping == {}


def test_accuracy_by_difficulty_is_that_of_the_rows_of_each_level() -> None:
    made = results(two_tasks(), **shares(af=20, as_=26, ac=40, bf=40, bs=64, bc=80))
    levels = {
        task: pd.DataFrame(
            {
                "split": "test",
                "row_id": [f"{task}{i:03d}" for i in range(size)],
                "difficulty": [
                    0 if i < size // 2 else 1 if task == "a" else 2 for i in range(size)
                ],
            }
        ).sample(frac=1, random_state=0)
        for task, size in (("a", 40), ("b", 80))
    }
    rated = Board(replace(made, difficulty=difficulties(levels)))
    (cell,) = rated.cells
    # Floors are right on the first half alone; the students on 6 of 20 and 24 of 40 more.
    assert [n.point for n in rated.at_level(cell, "floor", 0)] == [1.0, 1.0]
    assert [n.point for n in rated.at_level(cell, "student", 1)] == pytest.approx([6 / 20])
    assert [n.point for n in rated.at_level(cell, "student", 2)] == pytest.approx([24 / 40])
    assert rated.at_level(cell, "student", 3) == []


def test_a_comparison_on_few_rows_says_what_it_could_not_have_seen() -> None:
    made = board(two_tasks(), **shares(af=20, as_=26, ac=40, bf=40, bs=64, bc=80))
    power = score(made, made.cells[0]).power
    # Gains of 6 in 40 and 24 in 80 rows; one seed, so rows are all.
    variance = (0.15 * 0.85 / 40 + 0.3 * 0.7 / 80) / 4
    assert power.detectable == pytest.approx(2.8016 * math.sqrt(variance), rel=0.08)
    assert power.num_rows == pytest.approx(120 * variance / (0.01 / 2.8016) ** 2, rel=0.15)
    note = tables.power_note([power], 0.01, "gain")
    assert "could be missed (80 % power, two-sided 5 %) in 1 of 1 lines" in note
    assert "test rows would be enough for all of them" in note
    assert tables.power_note([power], 0.2, "gain") == ""


def test_the_effect_asked_for_comes_from_the_sweep() -> None:
    asked = synthetic.summary(("a",)).model_copy(update={"spec": {"effect": 0.05}})
    assert scoring.effect_of(SweepResults(asked, (), pooled_rows([]))) == 0.05
    assert scoring.effect_of(results([trial()])) == 0.01


def test_a_student_is_not_held_against_one_of_other_recipes() -> None:
    spec = {"blocks": [{"name": "pairs"}, {"name": "probes", "train": {"mode": "probe"}}]}
    trials = [trial("plain"), trial("other", block="probes", loss="confidence")]
    rows = frame(right([True] * 8))
    made = results(trials, floor=rows, student=rows, ceiling=rows)
    asked = list(contrasts(Board(made)))
    assert {contrast.second for contrast in asked} == {"xent"}
    summary = made.summary.model_copy(update={"spec": spec})
    assert list(contrasts(Board(replace(made, summary=summary)))) == []


def test_a_debate_is_compared_with_what_else_a_supervisor_reads():
    def reading(method: str, supervisor: str, *read: str) -> TrialResult:
        keys = SeedKeys(
            seed=0,
            floor="floor",
            supervisor=supervisor,
            student="floor",
            ceiling="floor",
            oversight=read,
        )
        return trial(method, method=method, method_kind=method.partition("(")[0], keys=(keys,))

    made = board(
        [
            reading("debate", "debated", "o1"),
            reading("consultancy", "consulted", "o2"),
            reading("finetune_ensemble", "several"),
        ],
        floor=frame(right([False] * 8)),
        debated=frame(right([True] * 6 + [False] * 2)),
        consulted=frame(right([True] * 4 + [False] * 4)),
        several=frame(right([True] * 8)),
    )
    found = [
        contrast
        for contrast in contrasts(made)
        if contrast.topic == "Does a debate help its reader more than something else?"
    ]
    assert [(each.first, each.second) for each in found] == [("supervisor, debate", "consultancy")]
    assert found[0].estimate.point == 0.25
