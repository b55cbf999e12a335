"""The command line: help that costs nothing, and one clear message for every mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.cli import main

SWEEP = """
name = "small"
seeds = [0]
[task]
kind = "almanac"
world = { seed = 100, num_quiz = 8, num_dev = 8, num_weak_train = 8, num_strong_train = 8, num_val = 4, num_test = 8 }
[[ladder]]
name = "a"
architecture = { hidden_size = 32, intermediate_size = 64 }
corpus = { kind = "almanac", rare_share = 0.4, custom_share = 0.5 }
[[ladder]]
name = "b"
architecture = { hidden_size = 48, intermediate_size = 64 }
corpus = { kind = "almanac", rare_share = 0.9, custom_share = 1.0 }
[[blocks]]
name = "pairs"
"""  # noqa: E501


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP)
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a command that must end with exit code 2 and no traceback."""
    code = main(arguments)
    printed = capsys.readouterr()
    assert code == 2, printed.out
    assert "Traceback" not in printed.err
    assert printed.err.startswith(f"w2s {arguments[0]}: ")
    return printed.err


VERBS = ("plan", "run", "status", "explain", "report", "serve", "debate", "ui", "sync", "list")


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_teaches_by_example(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"w2s {verb}" in printed.partition("examples:")[2]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from sweeps.cli import main; main([]);"
        "heavy = ('torch', 'ray', 'vllm', 'mlflow', 'pandas', 'pydantic');"
        "print([m for m in heavy if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_plan_prints_splits_stages_sharing_and_cost_and_leaves_nothing_behind(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(sweep), "--keys"]) == 0
    printed = capsys.readouterr().out
    for word in ("weak_train", "pretrain", "finetune", "without sharing", "core-minutes"):
        assert word in printed
    assert printed.count("planned  ") == 15
    assert [path.name for path in sweep.parent.iterdir()] == ["sweep.toml"]


@pytest.mark.parametrize(
    "what", ["tasks", "losses", "methods", "models", "combiners", "weightings", "protocols"]
)
def test_list_shows_kinds_and_the_fields_of_one(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, field = {
        "tasks": ("cola", "subset = 'cola'"),
        "losses": ("confidence", "max_weight = 0.5"),
        "methods": ("debate_ensemble", "num_members = 4"),
        "models": ("architecture", "head_dim = 32"),
        "combiners": ("product", "powers = ()"),
        "weightings": ("learned", "uniform_epochs = 1"),
        "protocols": ("sequential", "num_turns = 3"),
    }[what]
    assert main(["list", what]) == 0
    printed = capsys.readouterr().out
    assert kind in printed
    assert field not in printed
    assert main(["list", what, kind]) == 0
    printed = capsys.readouterr().out
    assert field in printed
    # Every field is explained, also one whose default alone is another.
    lines = [line for line in printed.splitlines() if line.strip()]
    fields = [i for i, line in enumerate(lines) if line.startswith("  ") and line[2] != " "]
    assert fields
    assert all(lines[i + 1].startswith("      ") for i in fields)


def test_list_names_the_kinds_where_there_is_no_such(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "losses", "cross"]) == 2
    assert "no 'cross' among the losses; there are: confidence, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sedes=[1]", ["sedes: unknown key", "allowed here", "seeds"]),
        ("blocks.0.methods=['navie']", ["unknown method 'navie'", "available", "naive"]),
        ("student.epochs=0", ["student.epochs", "greater than or equal to 1", "found 0"]),
        ("task.world.num_val=0", ["num_val", "found 0"]),
        ("runtime.train.num_workers=0", ["runtime.train.num_workers", "found 0"]),
    ],
)
def test_a_wrong_file_is_refused_before_anything_runs(
    sweep: Path, capsys: pytest.CaptureFixture[str], override: str, words: list[str]
) -> None:
    message = refused(capsys, "run", str(sweep), "--set", override)
    for word in words:
        assert word in message
    assert not (sweep.parent / "w2s_store").exists()


def test_a_ladder_of_one_rung_is_refused(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, _, tail = SWEEP.partition('[[ladder]]\nname = "b"')
    sweep.write_text(head + "[[blocks]]" + tail.partition("[[blocks]]")[2])
    assert "the ladder has one rung (a)" in refused(capsys, "run", str(sweep))


def test_a_model_folder_that_is_none_is_refused(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = sweep.parent / "empty"
    empty.mkdir()
    text = SWEEP.replace(
        "architecture = { hidden_size = 48, intermediate_size = 64 }\n"
        'corpus = { kind = "almanac", rare_share = 0.9, custom_share = 1.0 }',
        f'model = "{empty}"',
    )
    assert text != SWEEP
    sweep.write_text(text)
    message = refused(capsys, "run", str(sweep))
    assert "is not a model folder: no config.json" in message
    assert "safetensors" in message


def test_a_store_that_cannot_be_written_is_refused(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sweep.parent / "file").write_text("")
    message = refused(capsys, "run", str(sweep), "--set", "runtime.store='file/store'")
    assert "cannot write the store" in message
    assert "name a folder or bucket that you can write" in message


def test_a_tracking_server_that_can_never_answer_is_refused(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "run", str(sweep), "--set", "runtime.tracking_uri='http://:9'")
    assert "tracking server 'http://:9' names no host" in message
    message = refused(capsys, "run", str(sweep), "--set", "runtime.tracking_uri='mlruns'")
    assert "use sqlite:///mlflow.db" in message


def test_a_ray_address_that_does_not_answer_is_refused(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "run", str(sweep), "--address", "127.0.0.1:9")
    assert "no Ray cluster answers at '127.0.0.1:9'" in message


@pytest.mark.ray
def test_more_workers_than_the_machine_can_ever_hold_are_refused(sweep: Path) -> None:
    command = [sys.executable, "-m", "sweeps.cli", "run", str(sweep)]
    done = subprocess.run(
        [*command, "--set", "runtime.train.num_workers=500"],
        cwd=sweep.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "500 worker(s)" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_row_or_rung_that_does_not_exist_is_refused(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "rows 0 to" in refused(capsys, "debate", str(sweep), "--row", "9999")
    message = refused(capsys, "debate", str(sweep), "--row", "0", "--debater", "zz")
    assert "--debater: no model 'zz'; models: weak, strong, a, b" in message
    message = refused(capsys, "debate", str(sweep), "--row", "0")
    assert "is not in the store" in message
    assert f"w2s run {sweep}" in message
    assert "rungs: a, b" in refused(capsys, "serve", str(sweep), "--models", "zz")


def test_an_unknown_sweep_or_stage_is_refused(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no stage with key 'abcd'" in refused(capsys, "explain", "abcd")
    assert "no sweep 'nothing'" in refused(capsys, "report", "nothing")
