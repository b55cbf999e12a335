"""Files of a folder that several processes use at once."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from sweeps.files import open_files

WHOLE = b"x" * 2**20


def refused(source: str, target: str) -> None:
    raise OSError(errno.EPERM, "no hard links here", source)


def test_reader_of_a_file_that_is_made_once_finds_none_or_a_whole_one(tmp_path: Path) -> None:
    files = open_files(str(tmp_path))
    ended = Event()

    def sizes() -> set[int]:
        seen = set()
        while not ended.is_set():
            seen |= {len(files.read(name)) for name in files.names("") if name.startswith("made")}
        return seen

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(sizes)
        try:
            assert all(files.create(f"made {number}", WHOLE) for number in range(100))
        finally:
            ended.set()
    assert reading.result() <= {len(WHOLE)}
    assert len(files.names("")) == 100


@pytest.mark.parametrize("links", [True, False])
def test_second_one_to_make_a_file_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refused)
    files = open_files(str(tmp_path))
    assert files.create("folder/once", b"first")
    assert not files.create("folder/once", b"second")
    assert files.read("folder/once") == b"first"
    assert files.names("folder") == ["once"]
