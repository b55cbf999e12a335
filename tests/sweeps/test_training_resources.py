"""What `[runtime.train]` says about how trainings compute reaches the stages, and no key."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from sweeps import gang
from sweeps.gang import Order, serve_stages
from sweeps.load import load
from sweeps.placements import execution
from sweeps.plan import Planner
from sweeps.runtime import Runtime
from sweeps.store import ArtifactStore
from w2s.stages.base import Lane, Stage, StageContext
from w2s.training.distributed import Member
from w2s.training.parallel import Replicas

EXAMPLE = Path(__file__).parents[2] / "examples" / "almanac.toml"
TRAIN = {
    "num_workers": 2,
    "sharding": "shard",
    "micro_batch_tokens": 4096,
    "compile": True,
    "activation_checkpointing": True,
}


class Conditions(Stage):
    """What a stage is told about how it computes."""

    lane: ClassVar[Lane] = "train"

    def run(self, context: StageContext) -> None:
        assert context.replicas is not None
        told = context.acceleration
        values = {
            "sharding": "shard" if context.replicas.sharded else "replicate",
            "micro_batch_tokens": told.micro_batch_tokens,
            "compile": told.compile,
            "activation_checkpointing": told.activation_checkpointing,
        }
        (context.output_dir / "told.json").write_text(json.dumps(values))


@pytest.mark.parametrize("said", [{}, TRAIN], ids=["nothing", "everything"])
def test_stages_are_told_how_to_compute(
    said: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, _ = load(EXAMPLE)
    runtime = Runtime.model_validate({"train": said})
    how = execution(runtime, Planner(sweep), str(tmp_path), [{"CPU": 4.0}])
    stage = Conditions()
    orders = iter([Order("run", 1, stage), Order("stop")])
    next_order = SimpleNamespace(remote=lambda *_: next(orders))
    monkeypatch.setattr(gang.ray, "get", lambda order: order)
    member = Member(Replicas(0, 2), "cpu")
    serve_stages(member, SimpleNamespace(next_order=next_order), 1, how)
    found = json.loads((ArtifactStore(str(tmp_path)).local(stage) / "told.json").read_text())
    told = {
        "sharding": "replicate",
        "micro_batch_tokens": None,
        "compile": False,
        "activation_checkpointing": False,
    }
    assert found == {**told, **{name: said[name] for name in said if name in told}}
