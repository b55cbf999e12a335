"""What stages ask of an imagined cluster: sizes, memory and seconds, worked by hand."""

import json
from pathlib import Path

import pytest

from sweeps.cli import main
from sweeps.config import Sweep
from sweeps.demands import Cluster, demands, on_paper, parse_cluster, sizes
from sweeps.plan import Planner, planned_stages
from w2s.errors import UserError
from w2s.stages.finetune import Finetune

ROOT = Path(__file__).parents[2]
SCIQ = ROOT / "tests" / "fixtures" / "sciq"
FILE = f"""
name = "paper"
seeds = [0]
ladder = ["Qwen/Qwen2.5-{{0.5B,72B}}"]
student = {{ epochs = 3, mode = "full" }}
[task]
kind = "sciq"
path = "{SCIQ}"
[[blocks]]
name = "pairs"
[[blocks]]
name = "adapters"
train = {{ mode = "lora" }}
"""


def planner(**changes: object) -> Planner:
    table = {
        "name": "paper",
        "seeds": [0],
        "ladder": ["Qwen/Qwen2.5-{0.5B,72B}"],
        "task": {"kind": "sciq", "path": str(SCIQ)},
        "student": {"epochs": 3},
        "blocks": [{"name": "pairs"}, {"name": "adapters", "train": {"mode": "lora"}}],
    }
    return Planner(Sweep.model_validate(table | changes), on_paper)


def test_a_cluster_is_written_in_one_line() -> None:
    cluster = parse_cluster("gpus=512, gpu=h200, mfu=.3, size.7b=7e9")
    assert (cluster.gpus, cluster.gpu, cluster.mfu) == (512, "h200", 0.3)
    assert cluster.sizes == {"7b": 7e9}
    assert cluster.flops == 989e12
    assert cluster.num_cpus == 8 * 512


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpus=8,colour=red", "unknown key 'colour'; there are gpus, .*size.RUNG"),
        ("gpus=many", "gpus: .*integer.*'many'"),
        ("gpus", "'gpus' is not understood"),
        ("mfu=.4", "gpus: required"),
        ("gpus=8,gpu=abacus", "unknown kind 'abacus'; known: .*h100"),
        ("gpus=8,mfu=2", "mfu: .*less than or equal to 1"),
    ],
)
def test_a_cluster_that_is_not_understood_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_cluster(text)


def test_a_gang_has_the_fewest_gpus_that_hold_a_model() -> None:
    cluster = Cluster(gpus=512, memory_gb=100, fill=0.5)  # 50 GB of each GPU
    assert [cluster.gpus_for(size * 1e9) for size in (1, 50, 51, 101, 201, 400, 401)] == [
        1,
        1,
        2,
        4,
        8,
        8,
        16,
    ]


def test_seconds_are_operations_over_what_the_gang_reaches() -> None:
    made = planner()
    plan, _ = planned_stages(made)
    cluster = Cluster(gpus=64, gpu="h100", mfu=0.5, stage_s=0.0)
    jobs = {job.key: job for job in demands(plan, cluster, sizes(made, cluster))}
    students = [
        stage
        for stage in plan.stages.values()
        if isinstance(stage, Finetune) and "72B" in stage.name and "weak" in stage.name
    ]
    for stage in students:
        lora = stage.train.mode == "lora"
        rows, row = stage.tokens.num_rows, stage.tokens.row_tokens()
        learned = 3 * rows("strong_train") * row * (4 if lora else 6)
        read = rows("strong_train", "val", "test") * row * 2
        # 72e9 x 16 bytes are 1,152 GB: 24 GPUs of 64 GB; x 4 bytes 288 GB: 8 (of 5 needed).
        gpus = 8 if lora else 24
        job = jobs[stage.key]
        assert job.gpus == gpus
        assert job.seconds == pytest.approx(72e9 * (learned + read) / (gpus * 989e12 * 0.5))
        assert job.load_s == pytest.approx(4 * 72 / gpus)
    assert {stage.train.mode for stage in students} == {"full", "lora"}


def test_debates_take_the_gpus_of_the_models_that_speak() -> None:
    made = planner(blocks=[{"name": "debates", "methods": ["debate"]}])
    plan, _ = planned_stages(made)
    cluster = Cluster(gpus=64, stage_s=0.0, serve_s=100.0, replicas=2)
    jobs = demands(plan, cluster, sizes(made, cluster))
    (debate,) = [job for job in jobs if job.kind == "debate"]
    asked = next(s for s in plan.stages.values() if s.kind == "debate").requests()
    (read,) = [each.input_tokens for each in asked.values()]
    (written,) = [each.output_tokens for each in asked.values()]
    # 144 GB of weights are 4 GPUs (of 3 needed), twice.
    assert debate.gpus == 8
    assert debate.load_s == pytest.approx(100 + 144 / 4)
    operations = 2 * 72e9 * (read / 0.4 + written / 0.05)
    assert debate.seconds == pytest.approx(operations / (8 * 989e12))


def test_a_model_of_unknown_size_is_asked_for() -> None:
    made = planner(ladder=["some/small", "some/Large-7b"])
    with pytest.raises(UserError, match=r"size of 'small'.*such as size.small=7e9"):
        sizes(made, Cluster(gpus=8))
    found = sizes(made, Cluster(gpus=8, sizes={"small": 1e9}))
    assert sorted(found.values()) == [1e9, 7e9]
    with pytest.raises(UserError, match=r"size.tiny: no such rung.*small, Large-7b"):
        sizes(made, Cluster(gpus=8, sizes={"small": 1e9, "tiny": 1e6}))


def test_a_stage_that_can_never_fit_is_refused() -> None:
    made = planner()
    plan, _ = planned_stages(made)
    cluster = Cluster(gpus=16)
    with pytest.raises(UserError, match=r"72B.* needs 24 GPUs .* there are 16"):
        demands(plan, cluster, sizes(made, cluster))


def test_the_command_prints_a_schedule_and_its_assumptions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "paper.toml"
    file.write_text(FILE)
    assert main(["plan", str(file), "--cluster", "gpus=64"]) == 0
    said = capsys.readouterr().out
    assert "critical path" in said
    assert "6 N D" in said
    assert main(["plan", str(file), "--cluster", "gpus=64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # Supervisor, student and ceiling in each of two modes.
    assert found["trainings"] == 6
    chain = found["critical_path"]
    assert chain[-1]["end_s"] == found["makespan_s"]
    assert [each["start_s"] for each in chain] == sorted(each["start_s"] for each in chain)
    kinds = {row["kind"]: row for row in found["kinds"]}
    assert kinds["finetune"]["gpus"] == [1, 24]
    busy = found["gpu_hours_computing"] + found["gpu_hours_starting"]
    assert busy <= found["gpu_hours_of_cluster"]
    assert main(["plan", str(file), "--json"]) == 2
    assert "--json goes with --cluster" in capsys.readouterr().err
