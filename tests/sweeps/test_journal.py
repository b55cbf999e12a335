"""What is not yet in MLflow is in a file, whatever happens to processes and disks."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sweeps.journal import Journal, WriterBusy, WriterLock, in_use, leftovers, take_over
from sweeps.runs import Entry, RunEntry

ROOT = Path(__file__).parents[2]


def entry(name: str, length: int = 0) -> RunEntry:
    return RunEntry(
        experiment="e", sweep_key="k", identity=name, name=name, tags={"w2s.long": "x" * length}
    )


def names(entries: list[Entry] | tuple[Entry, ...]) -> list[str]:
    return [each.name for each in entries if isinstance(each, RunEntry)]


@contextmanager
def no_file_longer_than(num_bytes: int) -> Iterator[None]:
    """What a full disk does to whoever writes, from the kernel itself."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def dead(folder: Path, *written: str) -> None:
    """Have another process append entries and die."""
    program = (
        "import os, sys; from pathlib import Path; from sweeps.journal import Journal;"
        "from tests.sweeps.test_journal import entry;"
        "journal = Journal(Path(sys.argv[1]), 'sqlite:///there.db');"
        "[journal.append(entry(name)) for name in sys.argv[2:]]; os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder), *written], cwd=ROOT)
    assert done.returncode == -9


def test_without_an_entry_there_is_no_file(tmp_path: Path):
    Journal(tmp_path / "journal", "").close([])
    assert not (tmp_path / "journal").exists()


def test_what_a_killed_process_wrote_is_taken_over_once(tmp_path: Path):
    dead(tmp_path, "a", "b")
    (left,) = leftovers(tmp_path)
    assert (left.uri, names(left.entries)) == ("sqlite:///there.db", ["a", "b"])
    first, second = Journal(tmp_path, ""), Journal(tmp_path, "")
    assert names(take_over(first)) == ["a", "b"]
    assert take_over(second) == []
    first.close([entry("b")])
    assert names(take_over(second)) == ["b"]
    second.close([])
    assert not list(tmp_path.glob("*.jsonl"))


def test_the_journal_of_a_living_process_is_left_alone(tmp_path: Path):
    living = Journal(tmp_path, "")
    living.append(entry("a"))
    assert in_use(tmp_path)
    assert not list(leftovers(tmp_path))
    assert take_over(Journal(tmp_path, "")) == []
    living.close([entry("a")])
    assert not in_use(tmp_path)
    assert [names(left.entries) for left in leftovers(tmp_path)] == [["a"]]


def test_the_oldest_comes_first(tmp_path: Path):
    for name in ("a", "b", "c"):
        journal = Journal(tmp_path, "")
        journal.append(entry(name))
        journal.close([entry(name)])
    assert names(take_over(Journal(tmp_path, ""))) == ["a", "b", "c"]


def test_what_is_in_mlflow_is_no_longer_in_the_file(tmp_path: Path):
    journal = Journal(tmp_path, "uri")
    journal.append(entry("a"))
    journal.clear()
    journal.append(entry("b"))
    assert journal.path is not None
    header, *lines = journal.path.read_text().splitlines()
    assert header == '{"tracking_uri": "uri"}'
    assert len(lines) == 1
    assert '"name":"b"' in lines[0]


def test_an_entry_that_does_not_fit_on_the_disk_spoils_no_other(tmp_path: Path):
    journal = Journal(tmp_path, "")
    journal.append(entry("a"))
    with no_file_longer_than(2000):
        with pytest.raises(OSError, match="File too large"):
            journal.append(entry("b", length=5000))
        journal.append(entry("c"))
    journal.append(entry("d"))
    assert journal.path is not None
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1.jsonl").write_bytes(journal.path.read_bytes())
    (copy,) = leftovers(tmp_path / "other")
    assert names(copy.entries) == ["a", "c", "d"]


def test_a_journal_that_cannot_be_replaced_stays(tmp_path: Path):
    journal = Journal(tmp_path, "")
    journal.append(entry("a"))
    with no_file_longer_than(2000), pytest.raises(OSError, match="File too large"):
        journal.close([entry("a"), entry("b", length=5000)])
    assert [names(left.entries) for left in leftovers(tmp_path)] == [["a"]]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_writer_knows_when_another_one_wrote_in_between(tmp_path: Path):
    def never() -> bool:
        return False

    one, other = WriterLock(tmp_path), WriterLock(tmp_path)
    with one.turn(never) as others_wrote:
        assert others_wrote
    with one.turn(never) as others_wrote:
        assert not others_wrote
    with other.turn(never) as others_wrote:
        assert others_wrote
        with pytest.raises(WriterBusy), one.turn(lambda: True):
            pass
    with one.turn(never) as others_wrote:
        assert others_wrote
