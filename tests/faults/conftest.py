"""The sweep that every disturbed one is compared with."""

from pathlib import Path

import pytest

from tests.faults.sweeping import Run, names, store_of


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of `tiny.toml`, run without any fault."""
    names()  # planned now, so that a test sees at once what runs
    folder = tmp_path_factory.mktemp("undisturbed")
    with Run(folder) as run:
        assert run.finish() == 0, run.printed
        run.assert_nothing_left()
    return store_of(folder)
