"""The report's table of recursions."""

from dataclasses import replace

import pytest

from sweeps.pooled import pooled_generations
from sweeps.report.generations import generations_table
from sweeps.report.load import Board
from sweeps.results import SweepResults
from tests.sweeps import synthetic
from w2s.stages.recursion import Generation

ARMS = {"aligner 0": "step 1", "student 0": "step 2", "aligner 1": "step 2", "student 1": "step 1"}


def recursion(results: SweepResults) -> SweepResults:
    """The results with the chain's trials as recursions of two generations: 1, 0, 0 are chosen."""
    trials, found = [], {}
    for trial in results.trials:
        if trial.method == synthetic.CHAIN:
            seeds = []
            for keys in trial.keys:
                names = list(keys.arms)
                arms = {name: keys.arms[names[step == "step 2"]] for name, step in ARMS.items()}
                seeds.append(keys.model_copy(update={"arms": arms}))
                chosen = int(keys.seed == 0)
                found[keys.student] = [
                    Generation(number=0, agreement=0.8, kept_share=0.5, selected=chosen == 0),
                    Generation(
                        number=1,
                        agreement=0.7 + 0.1 * keys.seed,
                        kept_share=None,
                        selected=chosen == 1,
                    ),
                ]
            trial = trial.model_copy(update={"keys": tuple(seeds)})
        trials.append(trial)
    return replace(results, trials=tuple(trials), generations=pooled_generations(found))


def test_every_generation_has_a_line_with_how_often_it_was_chosen() -> None:
    board = Board(recursion(synthetic.results()))
    table = generations_table(board)
    assert table is not None
    (cell,) = (cell for cell in board.cells if cell.method == synthetic.CHAIN)
    assert [[field.text for field in line[:5]] for line in table.rows] == [
        [cell.block, f"{cell.weak} > {cell.strong}", cell.method, cell.loss, number]
        for number in "01"
    ]
    first, second = table.rows
    assert (first[5].sort, first[6].sort) == (second[6].sort, second[5].sort)
    assert first[5].sort != first[6].sort
    # Seeds 0, 1, 2 on two tasks; agreement .7, .8, .9 in the second generation.
    assert [line[7].sort for line in table.rows] == pytest.approx([0.8, 0.8])
    assert [line[8].text for line in table.rows] == ["50.0 %", "-"]
    assert [line[9].text for line in table.rows] == ["4 of 6", "2 of 6"]


def test_without_a_recursion_there_is_no_table() -> None:
    assert generations_table(Board(synthetic.results())) is None
