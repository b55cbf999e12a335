"""The estimate of the rest of a sweep, worked by hand from what was observed."""

import pytest

from sweeps.estimate import seconds_left
from sweeps.events import BrokerSnapshot, RunningStage, Work
from w2s.stages.base import Lane


def running(
    kind: str, cost: float, elapsed: float, step: int = 0, lane: Lane = "train", path: float = 0.0
) -> RunningStage:
    """A stage of 100 steps that runs at time 1000."""
    return RunningStage(
        kind, kind, kind, lane, 1000.0 - elapsed, step, 100, {}, cost, path_cost=path or cost
    )


def snapshot(*stages: RunningStage, gangs: int = 1, path: float = 0.0, **work: Work):
    return BrokerSnapshot(1000.0, {}, stages, gangs, work=work, path_cost=path)


def test_nothing_is_said_before_anything_is_observed_or_when_nothing_is_left():
    left = Work("train", cost_left=100.0, number_left=2)
    assert seconds_left(snapshot(finetune=left)) is None
    assert seconds_left(snapshot(running("finetune", 50.0, 100.0, 0), finetune=left)) is None
    assert seconds_left(snapshot(running("finetune", 50.0, 2.0, 50), finetune=left)) is None
    ended = Work("train", cost_done=100.0, seconds_done=50.0, number_done=2)
    assert seconds_left(snapshot(finetune=ended)) is None


def test_first_training_says_what_a_unit_of_cost_takes():
    # 20 of 80 units took 10 s: half a second each. 30 s are left of it, and 60 units of finetunes.
    stages = snapshot(
        running("pretrain", 80.0, 10.0, 25),
        pretrain=Work("train", cost_left=80.0, number_left=1),
        finetune=Work("train", cost_left=60.0, number_left=6),
    )
    assert seconds_left(stages) == pytest.approx(30.0 + 30.0)


def test_each_kind_goes_at_its_own_pace():
    # Pretraining takes 1 s a unit, finetuning 3: the start-up of workers is in neither.
    stages = snapshot(
        pretrain=Work("train", 50.0, 50.0, 10.0, 5, 1),
        finetune=Work("train", 10.0, 30.0, 20.0, 5, 10),
    )
    assert seconds_left(stages) == pytest.approx(10.0 + 60.0)


def test_gangs_share_the_work_but_not_the_longest_chain():
    work = Work("train", 10.0, 10.0, 40.0, 1, 4)
    assert seconds_left(snapshot(gangs=4, finetune=work)) == pytest.approx(10.0)
    assert seconds_left(snapshot(gangs=4, path=25.0, finetune=work)) == pytest.approx(25.0)


def test_chain_behind_a_running_stage_begins_when_that_is_done():
    # 5 s are left of it, then 20 units at 1 s.
    stages = snapshot(
        running("finetune", 10.0, 5.0, 50, path=30.0),
        gangs=4,
        finetune=Work("train", cost_left=10.0, number_left=1),
        label=Work("train", 20.0, 20.0, 20.0, 2, 2),
    )
    assert seconds_left(stages) == pytest.approx(5.0 + 20.0)


def test_lanes_go_on_beside_each_other():
    stages = snapshot(
        finetune=Work("train", 10.0, 10.0, 40.0, 1, 4),
        debate=Work("serve", 5.0, 50.0, 6.0, 1, 1),
    )
    assert seconds_left(stages) == pytest.approx(60.0)


def test_stages_without_a_cost_count_by_their_number():
    stages = snapshot(task=Work("light", 0.0, 8.0, 0.0, 4, 6))
    assert seconds_left(stages) == pytest.approx(12.0)


@pytest.mark.parametrize(("training_s", "debates_s"), [(40.0, 50.0), (5.0, 25.0)])
def test_slow_training_says_nothing_about_debates_and_a_fast_machine_is_fast(training_s, debates_s):
    # Debates cost 50 units. Training takes 4 s a unit, or half a second: then all is taken as fast.
    stages = snapshot(
        pretrain=Work("train", 10.0, training_s, 0.0, 1, 0),
        debate=Work("serve", cost_left=50.0, number_left=5),
    )
    assert seconds_left(stages) == pytest.approx(debates_s)
