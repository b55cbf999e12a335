from sweeps.board import Board
from sweeps.callers import EventLog
from sweeps.events import StageRecord
from sweeps.resources import Execution, GangShape
from tests.toys import Number, Sum
from w2s.stages.base import Stage, closure

EXECUTION = Execution(store="nowhere", shape=GangShape())


def record(stage: Stage) -> StageRecord:
    return StageRecord(stage.key, stage.name, stage.kind, {}, 1.0, 2.0, "here")


def states(log: EventLog, index: int = 0) -> list[tuple[str, str]]:
    return [(event.name, event.state) for event in log.after(index)]


def test_driver_is_told_of_its_own_stages_alone() -> None:
    board, log = Board(), EventLog()
    mine, other = Number(value=1), Number(value=2)
    board.add([mine, other], set(), EXECUTION)
    log.ask(closure([mine]), board)
    for stage in (mine, other):
        board.start(stage.key)
        board.finish(stage.key, record(stage))
    told = [log.add(event) for event in board.events_after(0)]
    assert told == [True, False]
    assert states(log) == [("number 1", "done")]


def test_what_another_driver_has_made_is_cached_and_what_failed_for_it_failed() -> None:
    board, log = Board(), EventLog()
    made, fails = Number(value=1), Number(value=2)
    top = Sum(inputs_=(made, fails), tag="top")
    board.add([top], set(), EXECUTION)
    board.start(made.key)
    board.finish(made.key, record(made))
    board.start(fails.key)
    board.fail(fails.key, "ArithmeticError: no")
    log.ask(closure([top]), board)
    assert sorted(states(log)) == [
        ("number 1", "cached"),
        ("number 2", "failed"),
        ("sum-top", "cancelled"),
    ]


def test_what_was_read_is_gone_and_what_was_not_is_told_again() -> None:
    board, log = Board(), EventLog()
    stages = [Number(value=value) for value in range(3)]
    board.add(stages, {stage.key for stage in stages}, EXECUTION)
    log.ask(closure(stages), board)
    first = log.after(0)
    assert [event.index for event in first] == [0, 1, 2]
    assert log.after(0) == first
    assert [event.index for event in log.after(2)] == [2]
    assert [event.index for event in log.after(0)] == [2]
