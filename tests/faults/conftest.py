"""The sweep that every disturbed one is compared with."""

from pathlib import Path

import pytest

from tests.faults.sweeping import Run, store_of


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of `tiny.toml`, run without any fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with Run(folder) as run:
        assert run.finish() == 0, run.printed
        run.assert_nothing_left()
    return store_of(folder)
