"""The searcher: grid points as they stand, searched cells from their journals, then from TPE."""

from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from sweeps.config import Sweep
from sweeps.plan import Planner, Point
from sweeps.search import SweepSearcher, open_study, recorded_points
from sweeps.trial import OBJECTIVE
from tests.sweeps.test_plan import RUNGS

SPACE = {
    "loss.max_weight": {"uniform": [0.0, 1.0]},
    "student.learning_rate": {"log_uniform": [1e-4, 1e-2]},
}


def planner(num_trials: int = 3) -> Planner:
    searched = {
        "name": "search",
        "pairs": "largest",
        "losses": ["confidence", "product"],
        "num_trials": num_trials,
        "space": SPACE,
    }
    table = {"name": "s", "task": "almanac", "ladder": RUNGS, "student": {"learning_rate": 1e-3}}
    return Planner(Sweep.model_validate({**table, "blocks": [{"name": "grid"}, searched]}))


def searcher(planned: Planner, studies: Path) -> SweepSearcher:
    return SweepSearcher(planned, studies, lambda point: {"point": point})


def drain(search: SweepSearcher, limit: int = 100) -> list[tuple[str, Point]]:
    """Every point the searcher hands out, by Tune trial id."""
    found: list[tuple[str, Point]] = []
    for number in range(limit):
        config: Any = search.suggest(f"t{number}")
        if config == Searcher.FINISHED:
            return found
        found.append((f"t{number}", config["point"]))
    raise AssertionError("the searcher never finishes")


def finish(search: SweepSearcher, points: list[tuple[str, Point]]) -> None:
    for trial, point in points:
        score = 1 - abs(point.values.get("loss.max_weight", 0.5) - 0.3)  # pyright: ignore
        search.on_trial_complete(trial, {OBJECTIVE: score, "complete": True})


def test_grid_points_come_first_and_carry_no_values(tmp_path: Path) -> None:
    points = [point for _, point in drain(searcher(planner(), tmp_path))]
    assert [point.cell.block for point in points] == ["grid"] * 3 + ["search"] * 6
    assert all(point.values == {} for point in points[:3])
    assert all(point.values for point in points[3:])


def test_the_first_suggestion_is_the_files_and_all_stay_in_the_space(
    tmp_path: Path,
) -> None:
    points = [point for _, point in drain(searcher(planner(), tmp_path)) if point.values]
    confidence = [point for point in points if point.cell.loss.kind == "confidence"]
    assert confidence[0].values == {"loss.max_weight": 0.5, "student.learning_rate": 1e-3}
    for point in points:
        assert 1e-4 <= float(point.values["student.learning_rate"]) <= 1e-2
    assert all("loss.max_weight" not in p.values for p in points if p.cell.loss.kind == "product")


def test_a_rerun_replays_what_the_journal_has_and_asks_for_nothing_new(tmp_path: Path) -> None:
    planned = planner()
    assert recorded_points(planned, tmp_path) is None
    first = searcher(planned, tmp_path)
    points = drain(first)
    finish(first, points)
    again = searcher(planned, tmp_path)
    assert {point.id for point in again.certain_points()} == {point.id for _, point in points}
    assert {point.id for _, point in drain(again)} == {point.id for _, point in points}
    recorded = recorded_points(planned, tmp_path)
    assert recorded is not None
    assert {point.id for point in recorded} == {point.id for _, point in points}


def test_more_trials_go_on_from_the_journal(tmp_path: Path) -> None:
    first = searcher(planner(3), tmp_path)
    points = drain(first)
    finish(first, points)
    more = [point for _, point in drain(searcher(planner(5), tmp_path))]
    assert len(more) == 3 + 10
    assert {point.id for _, point in points} < {point.id for point in more}


def test_a_trial_that_was_cut_off_is_asked_for_again(tmp_path: Path) -> None:
    planned = planner()
    first = searcher(planned, tmp_path)
    points = drain(first)
    finish(first, points[:-1])
    assert recorded_points(planned, tmp_path) is None
    again = searcher(planned, tmp_path)
    assert len(again.certain_points()) == len(points) - 1
    assert len(drain(again)) == len(points)


def test_a_stopped_trial_counts_and_a_failed_one_does_not(tmp_path: Path) -> None:
    planned = planner()
    first = searcher(planned, tmp_path)
    (stopped, _), (failed, _) = drain(first)[3:5]
    first.on_trial_complete(stopped, {OBJECTIVE: 0.4, "complete": False, "training_iteration": 1})
    first.on_trial_complete(failed, {"failed": "StageFailed", "num_seeds": 0})
    cells = [cell for cell in planned.cells() if cell.num_trials]
    states = [
        trial.state.name
        for cell in cells
        for trial in open_study(planned, cell, tmp_path).get_trials()
    ]
    assert states.count("PRUNED") == 1
    assert len(searcher(planned, tmp_path).certain_points()) == 3 + 1


def test_what_changes_the_objective_gets_a_study_of_its_own(tmp_path: Path) -> None:
    first = searcher(planner(), tmp_path)
    finish(first, drain(first))
    other = planner()
    other.sweep = other.sweep.model_copy(update={"seeds": (7,)})
    assert recorded_points(other, tmp_path) is None
