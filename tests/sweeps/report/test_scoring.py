"""Cells, scores and differences against numbers worked by hand."""

import pandas as pd
import pytest

from sweeps.report import scoring, tables
from sweeps.report.load import Board
from sweeps.report.scoring import contrasts, score
from sweeps.results import SeedKeys, SweepResults, TrialResult, pooled_rows
from tests.sweeps import synthetic
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
    tasks = tuple(dict.fromkeys(trial.task for trial in trials))
    return Board(SweepResults(synthetic.summary(tasks), tuple(trials), pooled_rows(frames.items())))


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
