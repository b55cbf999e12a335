"""Ladders by pattern."""

from pathlib import Path

import pytest

from sweeps.ladder import expanded
from w2s.errors import UserError


def test_braces_are_written_out_in_their_order_and_name_the_rungs() -> None:
    rungs = expanded("EleutherAI/pythia-{70m,160m}")
    assert rungs == [
        {"name": "70m", "model": "EleutherAI/pythia-70m"},
        {"name": "160m", "model": "EleutherAI/pythia-160m"},
    ]


def test_a_given_name_is_kept_and_numbered_by_the_pattern() -> None:
    rungs = expanded(
        [{"name": "p-{a,b}", "model": "lab/m-{a,b}"}, {"name": "q", "model": "m{1,2}"}]
    )
    assert [rung["name"] for rung in rungs] == ["p-a", "p-b", "q-1", "q-2"]


def test_checkpoints_of_one_model_are_rungs() -> None:
    rungs = expanded([{"model": "EleutherAI/pythia-160m", "revision": "step{1000,143000}"}])
    assert [(rung["name"], rung["revision"]) for rung in rungs] == [
        ("1000", "step1000"),
        ("143000", "step143000"),
    ]


def test_a_glob_gives_local_folders_by_the_size_of_their_weights(tmp_path: Path) -> None:
    for name, size in (("a-large", 300), ("b-small", 20), ("c-other", 0)):
        folder = tmp_path / name
        folder.mkdir()
        if size:
            (folder / "config.json").write_text("{}")
            (folder / "model.safetensors").write_bytes(b"0" * size)
    rungs = expanded([str(tmp_path / "*")])
    assert [rung["name"] for rung in rungs] == ["b-small", "a-large"]
    assert rungs[0]["model"] == str(tmp_path / "b-small")


def test_a_plain_path_is_named_by_its_last_part_and_other_rungs_stay() -> None:
    own = {"name": "xs", "architecture": {}, "corpus": "task"}
    assert expanded(["EleutherAI/pythia-70m", own]) == [
        {"name": "pythia-70m", "model": "EleutherAI/pythia-70m"},
        own,
    ]


@pytest.mark.parametrize(
    ("ladder", "message"),
    [
        ("a-{x}-{y}", "more than one pair of braces"),
        ([{"model": "a-{x,y}", "revision": "r{1,2}"}], "more than one pair of braces"),
        ("a-{x,}", "nothing between two commas"),
        ("/nowhere/at-all-*", "no model folder matches"),
    ],
)
def test_a_pattern_that_says_nothing_is_refused(ladder: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        expanded(ladder)
