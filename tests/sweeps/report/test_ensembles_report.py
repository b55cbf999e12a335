"""The report's table of ensembles."""

from dataclasses import replace

import numpy as np
import pytest

from sweeps.report.ensembles import ensembles_table
from sweeps.report.load import Board
from tests.sweeps import synthetic
from w2s.diversity import diversity


def test_each_ensemble_has_a_line_with_its_diversity() -> None:
    results = synthetic.results()
    board = Board(results)
    table = ensembles_table(board)
    assert table is not None
    ensembles = [cell for cell in board.cells if cell.has_members]
    assert len(table.rows) == len({(cell.weak, cell.method) for cell in ensembles})
    cell = ensembles[0]
    line = table.rows[0]
    assert [field.text for field in line[:4]] == [
        cell.block,
        f"{cell.weak} > {cell.strong}",
        cell.method,
        "4",
    ]
    found = [
        diversity(
            np.stack([board.samples.rows(key).probabilities for key in keys.members]),
            board.samples.rows(keys.supervisor).probabilities,
            board.samples.rows(keys.supervisor).label,
        )
        for seeds in cell.by_task
        for keys in seeds
    ]
    assert line[6].sort == pytest.approx(np.mean([each.disagreement for each in found]))
    assert line[8].sort == pytest.approx(np.mean([each.ambiguity for each in found]))


def test_without_ensembles_there_is_no_table() -> None:
    results = synthetic.results()
    trials = [trial for trial in results.trials if trial.method_kind == "naive"]
    assert ensembles_table(Board(replace(results, trials=trials))) is None
