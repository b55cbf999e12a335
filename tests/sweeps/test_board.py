import pytest

from sweeps.board import Board
from sweeps.events import StageRecord
from tests.toys import Number, Sum
from w2s.stages.base import Stage

A, B = Number(value=1), Number(value=2)


def total(*inputs: Stage, tag: str = "", work: float = 1.0, model: str | None = None) -> Sum:
    return Sum(inputs_=inputs, tag=tag, work=work, model=model)


def done(board: Board, *stages: Stage) -> None:
    for stage in stages:
        board.start(stage.key)
        record = StageRecord(stage.key, stage.name, stage.kind, {}, 0.0, 1.0, "here")
        board.finish(stage.key, record)


def states(board: Board) -> dict[str, str]:
    return {node.stage.name: node.state for node in board.nodes.values()}


def test_stage_is_ready_once_its_inputs_are_there() -> None:
    board = Board()
    top = total(A, B, tag="top")
    number = board.add([top], present={B.key})
    assert [node.stage for node in board.ready("light")] == [A]
    assert board.ready("train") == []
    done(board, A)
    assert [node.stage for node in board.ready("train")] == [top]
    assert not board.is_settled(number)
    done(board, top)
    assert board.is_settled(number)


def test_inputs_of_what_is_cached_are_not_planned() -> None:
    board = Board()
    top = total(A, B, tag="top")
    number = board.add([top], present={top.key, A.key})
    assert states(board) == {"number 1": "cached", "sum-top": "cached"}
    assert board.is_settled(number)
    assert [(event.name, event.state) for event in board.events] == [
        ("number 1", "cached"),
        ("sum-top", "cached"),
    ]


def test_failure_reaches_every_request_above_it_and_no_other() -> None:
    board = Board()
    middle = total(A, tag="middle")
    first = board.add([total(middle, tag="x")], present=set())
    second = board.add([total(middle, tag="y")], present=set())
    other = board.add([total(A, tag="other")], present=set())
    done(board, A)
    board.start(middle.key)
    board.fail(middle.key, "ValueError: no", "trace")
    for number in (first, second):
        failure = board.requests[number].failure
        assert failure is not None
        assert (failure.key, failure.cause) == (middle.key, "ValueError: no")
    assert board.requests[other].failure is None
    assert states(board) == {
        "number 1": "done",
        "sum-middle": "failed",
        "sum-x": "cancelled",
        "sum-y": "cancelled",
        "sum-other": "planned",
    }
    assert board.events[1].cause == "ValueError: no"
    late = board.add([total(middle, tag="late")], present=set())
    assert board.requests[late].failure is not None


def test_released_request_cancels_only_what_nobody_else_awaits() -> None:
    board = Board()
    shared = total(A, tag="shared")
    private = total(A, B, tag="private")
    first = board.add([shared, private], present=set())
    board.add([shared], present=set())
    assert board.release(first) == []
    assert states(board) == {
        "number 1": "planned",
        "number 2": "cancelled",
        "sum-shared": "planned",
        "sum-private": "cancelled",
    }
    board.add([private], present=set())
    assert states(board)["sum-private"] == "planned"


def test_running_stage_that_nobody_awaits_is_told_and_may_be_awaited_again() -> None:
    board = Board()
    number = board.add([A], present=set())
    board.start(A.key)
    assert board.report(A.key, 1, 2, {})
    assert board.release(number) == [A.key]
    assert not board.report(A.key, 1, 2, {})
    board.add([A], present=set())
    board.requeue(A.key)
    assert states(board) == {"number 1": "planned"}


def test_longest_remaining_path_comes_first() -> None:
    board = Board()
    long = total(tag="long", work=1.0)
    board.add([total(tag="alone", work=5.0), total(long, tag="end", work=9.0)], present=set())
    assert [node.stage.name for node in board.ready("train")] == ["sum-long", "sum-alone"]


def test_gang_prefers_the_model_it_holds_unless_another_path_is_much_longer() -> None:
    board = Board()
    board.add([total(tag="a", work=10.0, model="m"), total(tag="b", work=12.0)], present=set())
    ready = board.ready("train")
    assert Board.best(ready, "m").stage.name == "sum-a"
    assert Board.best(ready, None).stage.name == "sum-b"
    board.add([total(tag="c", work=20.0)], present=set())
    assert Board.best(board.ready("train"), "m").stage.name == "sum-c"


def test_snapshot_counts_by_kind_and_state_and_takes_progress_off_the_cost() -> None:
    board = Board(clock=lambda: 100.0)
    top = total(A, B, tag="top", work=8.0)
    board.add([top], present={B.key})
    done(board, A)
    board.start(top.key)
    board.report(top.key, 1, 4, {"loss": 0.5})
    board.report(top.key, 2, 4, {})
    snapshot = board.snapshot(gangs=1)
    assert snapshot.counts == {"number": {"done": 1, "cached": 1}, "sum": {"running": 1}}
    assert snapshot.total("cached") == 1
    running = snapshot.running[0]
    assert (running.step, running.total, running.metrics) == (2, 4, {"loss": 0.5})
    assert snapshot.cost_left == pytest.approx(4.0)
    assert snapshot.num_events == 2
