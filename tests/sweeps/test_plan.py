"""From a sweep to its stages."""

from typing import Any

import pytest
from pydantic import ValidationError

from sweeps.config import Sweep
from sweeps.plan import Plan, Planner, Point
from sweeps.space import Value
from w2s.corpora.almanac import AlmanacCorpus
from w2s.errors import UserError
from w2s.losses.confidence import Confidence
from w2s.stages.finetune import Finetune
from w2s.stages.models import model_key
from w2s.stages.pretrain import Pretrain

RUNGS = [
    {
        "name": name,
        "architecture": {"hidden_size": 32 + 16 * index, "intermediate_size": 64},
        "corpus": {"kind": "almanac", "rare_share": 0.4 + 0.2 * index, "custom_share": 0.5},
    }
    for index, name in enumerate("abc")
]


def sweep(**fields: Any) -> Sweep:
    table = {
        "name": "s",
        "tasks": ["almanac"],
        "ladder": RUNGS,
        "seeds": [0, 1],
        "blocks": [{"name": "pairs"}],
    }
    return Sweep.model_validate({**table, **fields})


def plan_of(planned: Sweep) -> Plan:
    planner = Planner(planned)
    points = [Point(cell) for cell in planner.cells()]
    return Plan(
        root for point in points for roles in planner.roles(point).values() for root in roles
    )


def test_shared_stages_are_planned_once() -> None:
    # 3 rungs; per seed: supervisors of a and b, ceilings of b and c, students of 3 pairs.
    plan = plan_of(sweep())
    assert plan.counts["pretrain"] == 3
    assert plan.counts["finetune"] == 2 * (2 + 2 + 3)
    assert len(plan.trainings) == 3 + 14
    assert plan.num_unshared > len(plan.trainings)


def test_inputs_come_before_the_stages_that_read_them() -> None:
    seen: set[str] = set()
    for stage in plan_of(sweep()).stages.values():
        assert {needed.key for needed in stage.inputs} <= seen
        seen.add(stage.key)


def test_searched_values_reach_the_student_and_never_the_ceiling_or_the_supervisor() -> None:
    searched = sweep(
        blocks=[
            {
                "name": "loss",
                "pairs": "largest",
                "losses": ["confidence", "xent"],
                "num_trials": 2,
                "space": {
                    "loss.max_weight": {"uniform": [0.0, 1.0]},
                    "student.learning_rate": {"log_uniform": [1e-4, 1e-2]},
                },
            }
        ]
    )
    planner = Planner(searched)
    confidence, xent = planner.cells()
    assert [path for path, _ in xent.space] == ["student.learning_rate"]
    values: dict[str, Value] = {"loss.max_weight": 0.3, "student.learning_rate": 2e-3}
    roles = planner.roles(Point(confidence, values))[0]
    plain = planner.roles(Point(confidence))[0]
    student = roles.student.predictions
    assert isinstance(student, Finetune)
    assert student.loss == Confidence(max_weight=0.3)
    assert student.train.learning_rate == 2e-3
    assert roles.ceiling.key == plain.ceiling.key
    assert roles.floor.key == plain.floor.key
    assert roles.student.key != plain.student.key


def test_every_task_has_a_ladder_that_read_about_it() -> None:
    table = {"name": "s", "ladder": RUNGS, "blocks": [{"name": "pairs"}]}
    worlds = [{"kind": "almanac", "world": {"seed": seed}} for seed in (100, 101)]
    planner = Planner(Sweep.model_validate({**table, "tasks": worlds}))
    for models, seed in zip(planner.models, (100, 101), strict=True):
        rung = models["a"]
        assert isinstance(rung, Pretrain)
        assert isinstance(rung.corpus, AlmanacCorpus)
        assert rung.corpus.world is not None
        assert rung.corpus.world.seed == seed
    assert [planner.task_label(index) for index in (0, 1)] == ["almanac-0", "almanac-1"]


def test_the_name_of_a_point_depends_on_its_values_alone() -> None:
    cell = Planner(sweep()).cells()[0]
    assert Point(cell, {"student.epochs": 2}).id == Point(cell, {"student.epochs": 2}).id
    assert Point(cell, {"student.epochs": 2}).id != Point(cell, {"student.epochs": 3}).id


def test_a_ladder_that_reads_the_tasks_is_pretrained_once_for_all_of_them() -> None:
    rungs = [{**RUNGS[0], "corpus": {"kind": "task", "num_tokens": 5000}}]
    planned = sweep(
        tasks=[{"kind": "almanac", "world": {"seed": seed}} for seed in (0, 1)],
        ladder=rungs,
        blocks=[{"name": "equal", "pairs": "equal"}],
    )
    planner = Planner(planned)
    assert len({model_key(models["a"]) for models in planner.models}) == 1


def test_a_block_with_another_recipe_has_its_own_stages_and_studies() -> None:
    blocks = [{"name": "full"}, {"name": "probe", "train": {"mode": "probe"}}]
    planner = Planner(sweep(blocks=blocks))
    full, probe = (
        next(c for c in planner.cells() if c.block == name) for name in ("full", "probe")
    )
    assert full.id != probe.id
    counts = plan_of(sweep(blocks=blocks)).counts
    assert counts["finetune"] == counts["probe"] == 2 * (2 + 2 + 3)
    # One set of feature vectors a model, shared by all its probes at both seeds.
    assert counts["features"] == 3
    assert counts["tokens"] == 3


def test_a_block_can_take_some_of_the_tasks() -> None:
    tasks = [{"kind": "almanac", "world": {"seed": seed}} for seed in (0, 1)]
    blocks = [{"name": "both"}, {"name": "one", "tasks": ["almanac-1"]}]
    planner = Planner(sweep(tasks=tasks, blocks=blocks))
    assert {cell.task_index for cell in planner.cells() if cell.block == "one"} == {1}
    assert planner.task_label(1) == "almanac-1"
    with pytest.raises(ValidationError, match="no task 'other'; tasks: almanac-0, almanac-1"):
        sweep(tasks=tasks, blocks=[{"name": "one", "tasks": ["other"]}])


def test_what_cannot_be_is_said_before_anything_runs() -> None:
    # Three rungs: between the first and the second there is none to go through.
    blocks = [{"name": "chain", "methods": [{"kind": "bootstrapping", "through": 1}]}]
    with pytest.raises(UserError, match=r"block 'chain', task almanac, a > b: "):
        Planner(sweep(blocks=blocks)).check()
    blocks[0]["pairs"] = "largest"
    Planner(sweep(blocks=blocks)).check()
    words = {"head_init": "unembedding", "label_words": ["no", "maybe", "yes"]}
    with pytest.raises(UserError, match=r"block 'pairs', .*each of the 2 classes"):
        Planner(sweep(student=words)).check()
