"""Every sweep file that is shipped parses and plans."""

from pathlib import Path

import pytest

from sweeps.config import Block, Sweep
from sweeps.load import load
from sweeps.plan import Plan, Planner, Point
from w2s.corpora.base import Corpus
from w2s.methods.recursive_aligner import RecursiveAligner
from w2s.models.architecture import Architecture
from w2s.spec import parse
from w2s.tasks._dataset import DatasetTask
from w2s.tasks.almanac import Almanac
from w2s.tasks.base import load as load_task
from w2s.tasks.toxicity import Toxicity

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Model folders in the place of those on the hub."""
    folders = []
    corpus = parse(Corpus, {"kind": "almanac", "rare_share": 0.5, "custom_share": 0.5})
    tokenizer = corpus.bind(Almanac()).tokenizer()
    architecture = Architecture(hidden_size=32, num_layers=1, num_heads=1, intermediate_size=32)
    for seed in range(6):
        folder = tmp_path_factory.mktemp("model")
        architecture.build(tokenizer, seed=seed).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders.append(folder)
    return folders


def _at_hand(sweep: Sweep, models: list[Path]) -> Sweep:
    """The sweep with made-up rows in the columns of the hub, small models, and one seed."""
    fixtures = ROOT / "tests" / "fixtures"
    tasks = []
    for task in sweep.tasks:
        folder = fixtures / task.kind
        if isinstance(task, Toxicity):
            folder = folder / task.dataset
        update = {"path": str(folder), "max_rows": None, "max_val_rows": None}
        found = isinstance(task, DatasetTask)
        tasks.append(task.model_copy(update={**update, "max_test_rows": None}) if found else task)
    ladder = [
        rung.model_copy(update={"model": str(model), "revision": None} if rung.model else {})
        for rung, model in zip(sweep.ladder, models, strict=False)
    ]
    speakers = [
        speaker.model_copy(update={"model": str(model), "revision": None})
        for speaker, model in zip(sweep.speakers, reversed(models), strict=False)
    ]
    return sweep.model_copy(
        update={
            "tasks": tuple(tasks),
            "ladder": tuple(ladder),
            "speakers": tuple(speakers),
            "blocks": tuple(_fewer_true_rows(block) for block in sweep.blocks),
            "seeds": sweep.seeds[:1],
        }
    )


def _fewer_true_rows(block: Block) -> Block:
    """The block with anchors that fit made-up rows, of which there are few."""
    methods = [
        method.model_copy(update={"num_anchor": 4})
        if isinstance(method, RecursiveAligner)
        else method
        for method in block.methods
    ]
    return block.model_copy(update={"methods": tuple(methods)})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_parses_and_plans(path: Path, models: list[Path]) -> None:
    sweep = _at_hand(load(path)[0], models)
    planner = Planner(sweep)
    planner.check()
    points = [Point(cell) for cell in planner.cells()]
    roles = [each for point in points for each in planner.roles(point).values()]
    plan = Plan(root for each in roles for root in each)
    assert len(plan.trainings) < plan.num_unshared
    assert len(roles) == len(points) * len(sweep.seeds)


def test_the_embedded_default_has_a_thousand_test_rows_and_four_rungs_that_can_be_served() -> None:
    sweep, _ = load(ROOT / "examples" / "almanac.toml")
    assert len(load_task(sweep.tasks[0]).rows["test"]) >= 1000
    assert len(sweep.ladder) == 4
    assert len(sweep.seeds) == 3
    for rung in sweep.ladder:
        assert rung.architecture is not None
        assert rung.architecture.head_dim >= 32


def test_the_full_example_is_the_demo_over_more_worlds_and_seeds() -> None:
    demo = load(ROOT / "examples" / "almanac.toml")[0]
    full = load(ROOT / "examples" / "almanac_full.toml")[0]
    assert full.ladder == demo.ladder
    assert full.blocks == demo.blocks
    assert (full.supervisor, full.student) == (demo.supervisor, demo.student)
    assert len(full.tasks) == 3
    assert len(full.seeds) == 5
    assert demo.tasks[0] in full.tasks
