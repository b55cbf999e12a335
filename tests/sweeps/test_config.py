"""Sweep files: what they mean, and what is said when they are wrong."""

from pathlib import Path

import pytest

from sweeps.config import Sweep
from sweeps.load import load
from sweeps.runtime import Runtime
from w2s.errors import UserError
from w2s.losses.confidence import Confidence

GOOD = """
name = "small"
seeds = [0, 1]
[task]
kind = "almanac"
[[ladder]]
name = "a"
model = "models/a"
[[ladder]]
name = "b"
model = "models/b"
[[blocks]]
name = "pairs"
losses = ["xent", {kind = "confidence", max_weight = 0.75}]
[runtime]
store = "elsewhere"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return path


def test_a_file_gives_a_sweep_and_a_runtime(tmp_path: Path) -> None:
    sweep, runtime = load(write(tmp_path, GOOD))
    assert [task.kind for task in sweep.tasks] == ["almanac"]
    assert isinstance(sweep.blocks[0].losses[1], Confidence)
    assert sweep.pairs_of(sweep.blocks[0]) == [("a", "b")]
    assert runtime == Runtime(store="elsewhere")


def test_a_python_file_gives_the_same_sweep(tmp_path: Path) -> None:
    toml = write(tmp_path, GOOD)
    path = tmp_path / "sweep.py"
    path.write_text(
        "import tomllib\nfrom sweeps.config import Sweep\n"
        f"def sweep():\n    table = tomllib.load(open({str(toml)!r}, 'rb'))\n"
        "    table.pop('runtime')\n    return Sweep.model_validate(table)\n"
    )
    assert load(path)[0] == load(toml)[0]
    assert load(path, ["seeds=[7]"])[0].seeds == (7,)
    assert load(path, ["seeds.0=7"])[0].seeds[0] == 7


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("seeds=[5]", lambda sweep: sweep.seeds, (5,)),
        ("student.learning_rate=1e-3", lambda sweep: sweep.student.learning_rate, 1e-3),
        ("blocks.0.pairs=equal", lambda sweep: sweep.blocks[0].pairs, "equal"),
        ("ladder.1.revision='step1000'", lambda sweep: sweep.ladder[1].revision, "step1000"),
    ],
)
def test_overrides_reach_tables_and_lists(
    tmp_path: Path, override: str, field, value: object
) -> None:
    assert field(load(write(tmp_path, GOOD), [override])[0]) == value


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds =", "sedes =", r"sedes: unknown key; allowed here: blocks, .*seeds"),
        (
            'name = "pairs"',
            'name = "pairs"\nmetods = ["naive"]',
            r"blocks.0.metods: unknown key; allowed here: .*methods",
        ),
        ('"xent", ', '"xnt", ', r"unknown loss 'xnt'; available: .*xent"),
        ("max_weight = 0.75", "max_weight = 1.75", r"max_weight: .*found 1.75"),
        ('kind = "almanac"', 'kind = "almanak"', r"unknown task 'almanak'; available: almanac"),
        ("seeds = [0, 1]", "seeds = [0, 0]", r"seeds must be distinct"),
        ('name = "b"\nmodel = "models/b"', 'name = "b"', r"rung 'b' needs either `model`"),
        ('name = "b"', 'name = "a"', r"rung names must differ"),
        ("[runtime]", "[runtime]\nstoer = 1", r"runtime.stoer: unknown key; allowed here: .*store"),
        ('name = "pairs"', 'name = "pairs"\npairs = [["a", "c"]]', r"no rung 'c'; rungs: a, b"),
        (
            'name = "pairs"',
            'name = "pairs"\nnum_trials = 3',
            r"`space` and `num_trials` go together",
        ),
        (
            'name = "pairs"',
            'name = "pairs"\nnum_trials = 3\nspace = {"loss.weight" = {uniform = [0.0, 1.0]}}',
            r"no loss of the block has a field 'weight'; fields: .*max_weight",
        ),
        (
            'name = "pairs"',
            'name = "pairs"\nnum_trials = 3\nspace = {"loss.max_weight" = {uniform = [1.0, 0.0]}}',
            r"lower bound 1.0 is not below",
        ),
        ("[task]", "[task", r"not valid TOML"),
    ],
)
def test_a_mistake_is_one_clear_message(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, GOOD.replace(old, new, 1)))


def test_a_ladder_with_one_rung_is_refused_unless_it_is_compared_with_itself(
    tmp_path: Path,
) -> None:
    one = GOOD.replace('[[ladder]]\nname = "b"\nmodel = "models/b"\n', "")
    with pytest.raises(UserError, match=r"the ladder has one rung \(a\)"):
        load(write(tmp_path, one))
    sweep, _ = load(write(tmp_path, one), ["blocks.0.pairs=equal"])
    assert sweep.pairs_of(sweep.blocks[0]) == [("a", "a")]


def test_a_missing_file_and_a_senseless_override_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sweep file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(UserError, match=r"write --set path\.to\.field=value"):
        load(write(tmp_path, GOOD), ["seeds"])
    with pytest.raises(UserError, match=r"blocks has 1 items; found '3'"):
        load(write(tmp_path, GOOD), ["blocks.3.pairs=equal"])


def test_pairs_by_word() -> None:
    ladder = [{"name": name, "model": name} for name in "abc"]
    pairs = {
        word: Sweep.model_validate(
            {
                "name": "s",
                "task": "almanac",
                "ladder": ladder,
                "blocks": [{"name": "x", "pairs": word}],
            }
        )
        for word in ("all", "adjacent", "largest", "equal")
    }
    found = {word: sweep.pairs_of(sweep.blocks[0]) for word, sweep in pairs.items()}
    assert found == {
        "all": [("a", "b"), ("a", "c"), ("b", "c")],
        "adjacent": [("a", "b"), ("b", "c")],
        "largest": [("a", "c")],
        "equal": [("a", "a"), ("b", "b"), ("c", "c")],
    }


def test_a_block_changes_fields_of_the_recipes_and_nothing_else(tmp_path: Path) -> None:
    text = GOOD.replace(
        'name = "pairs"',
        'name = "pairs"\ntrain = { mode = "lora", lora = { rank = 4 } }\n'
        "student = { learning_rate = 0.001 }",
    ).replace("[[blocks]]", "[student]\nepochs = 7\nlora = { alpha = 3.0 }\n[[blocks]]", 1)
    sweep, _ = load(write(tmp_path, text))
    recipes = sweep.recipes_of(sweep.blocks[0])
    assert {recipe.mode for recipe in recipes} == {"lora"}
    assert (recipes.student.epochs, recipes.student.learning_rate) == (7, 0.001)
    assert (recipes.student.lora.rank, recipes.student.lora.alpha) == (4, 3.0)
    assert recipes.ceiling == recipes.student
    assert (recipes.supervisor.epochs, recipes.supervisor.learning_rate) == (2, 5e-5)


def test_a_recipe_of_a_block_is_checked_like_one_of_the_sweep(tmp_path: Path) -> None:
    text = GOOD.replace('name = "pairs"', 'name = "pairs"\nstudent = { lora = { rang = 4 } }')
    with pytest.raises(UserError, match=r"block 'pairs', student: lora.rang: unknown key"):
        load(write(tmp_path, text))


def test_fields_of_tables_can_be_searched(tmp_path: Path) -> None:
    block = 'name = "pairs"\nnum_trials = 2\nspace = { "student.lora.rank" = { choice = [1, 2] } }'
    assert load(write(tmp_path, GOOD.replace('name = "pairs"', block)))[0].blocks[0].num_trials == 2
    wrong = GOOD.replace('name = "pairs"', block.replace("lora.rank", "lora.rang"))
    with pytest.raises(UserError, match=r"no student of the block has a field 'lora.rang'"):
        load(write(tmp_path, wrong))


def test_data_below_the_data_root_come_first(tmp_path: Path) -> None:
    (tmp_path / "sets" / "mine").mkdir(parents=True)
    text = GOOD.replace('kind = "almanac"', 'kind = "sciq"\npath = "mine"')
    path = write(tmp_path, text)
    root = f"runtime.data_root={str(tmp_path / 'sets')!r}"
    assert load(path, [root])[0].tasks[0].model_dump()["path"] == str(tmp_path / "sets" / "mine")
    assert load(path)[0].tasks[0].model_dump()["path"] == "mine"
    other = write(tmp_path, text.replace('"mine"', '"lab/other"'))
    assert load(other, [root])[0].tasks[0].model_dump()["path"] == "lab/other"
    with pytest.raises(UserError, match=r"runtime.data_root: no folder"):
        load(path, ["runtime.data_root='/nowhere'"])


SPEAKER = '[[speakers]]\nname = "gpt"\nmodel = "gpt-4o"\n'


def test_speakers_are_models_to_be_served_or_ids_at_a_url(tmp_path: Path) -> None:
    server = 'base_url = "https://api.example.com/v1"\nchat = true\nmax_requests = 5\n'
    sweep, _ = load(write(tmp_path, GOOD.replace("[runtime]", SPEAKER + server + "[runtime]")))
    assert [(entry.name, entry.chat, entry.max_requests) for entry in sweep.speakers] == [
        ("gpt", True, 5)
    ]
    sweep, _ = load(write(tmp_path, GOOD.replace("[runtime]", SPEAKER + "[runtime]")))
    assert sweep.speakers[0].base_url is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SPEAKER + "max_requests = 5\n", "speaker 'gpt': max_requests need `base_url`"),
        (SPEAKER + 'base_url = "u"\nsystem = "s"\n', "`system` needs `chat = true`"),
        (SPEAKER.replace("gpt", "strong"), "speaker 'strong': the name is taken"),
        (SPEAKER + SPEAKER, "speaker 'gpt': the name is taken"),
    ],
)
def test_a_speaker_that_cannot_be_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, GOOD.replace("[runtime]", text + "[runtime]")))


def test_debate_prompts_are_those_of_the_task_with_what_the_sweep_changes(tmp_path: Path) -> None:
    table = (
        '[debate_prompts]\nmax_words = 40\ntask = "All."\n[debate_prompts.almanac]\ntask = "Own."\n'
    )
    sweep, _ = load(write(tmp_path, GOOD.replace("[runtime]", table + "[runtime]")))
    prompts, own = sweep.debate_prompts_of(0), sweep.tasks[0].debate_prompts()
    assert (prompts.task, prompts.max_words) == ("Own.", 40)
    assert prompts == own.model_copy(update={"task": "Own.", "max_words": 40})
    assert load(write(tmp_path, GOOD))[0].debate_prompts_of(0) == own


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[debate_prompts]\nlast = 1\n", "debate_prompts: last: unknown key; allowed here: ask, "),
        ('[debate_prompts]\nfirst = "{q}"\n', "first: unknown placeholder 'q'"),
        ("[debate_prompts.sciq]\nmax_words = 1\n", "no task 'sciq'; tasks: almanac"),
    ],
)
def test_debate_prompts_that_cannot_be_are_refused(
    tmp_path: Path, table: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, GOOD.replace("[runtime]", table + "[runtime]")))


def test_a_model_is_placed_as_its_own_table_says_and_else_like_all(tmp_path: Path) -> None:
    text = GOOD + (
        "[runtime.serve]\nnum_gpus = 0.5\nnum_replicas = 2\n"
        "[runtime.serve_models.b]\nnum_gpus = 1\ntensor_parallel = 2\nmax_replicas = 4\n"
    )
    _, runtime = load(write(tmp_path, text))
    assert runtime.placement_of("a").per_replica == {"GPU": 0.5}
    large = runtime.placement_of("b")
    assert (large.per_replica, large.most_replicas) == ({"GPU": 2}, 4)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[runtime.serve_models.c]\nnum_gpus = 1", r"serve_models.c: no such rung .* are a, b"),
        (
            "[runtime.serve_models.b]\nnum_gpu = 1",
            r"serve_models.b.num_gpu: unknown key; allowed here: .*num_gpus",
        ),
        (
            "[runtime.serve]\nnum_gpus = 0.5\n[runtime.serve_models.b]\ntensor_parallel = 2",
            r"num_gpus = 0.5 shares a GPU",
        ),
    ],
)
def test_a_placement_that_cannot_be_is_refused_with_its_name(
    tmp_path: Path, table: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, GOOD + table))


def test_a_model_is_shared_out_over_several_workers(tmp_path: Path) -> None:
    table = '[runtime.train]\nsharding = "shard"\n'
    with pytest.raises(UserError, match="set num_workers to 2 or more, found 1"):
        load(write(tmp_path, GOOD + table))
    _, runtime = load(write(tmp_path, GOOD + table + "num_workers = 2\n"))
    assert runtime.train.sharding == "shard"
