import random
from collections import Counter, defaultdict

import pytest

from sweeps.board import Board
from sweeps.events import CurvePoint, StageRecord, Work
from sweeps.resources import Execution, GangShape
from tests.toys import Chat, Number, Sum
from w2s.stages.base import Stage

A, B = Number(value=1), Number(value=2)
HERE = Execution(store="store", shape=GangShape())


def total(*inputs: Stage, tag: str = "", work: float = 1.0, model: str | None = None) -> Sum:
    return Sum(inputs_=inputs, tag=tag, work=work, model=model)


def done(board: Board, *stages: Stage) -> None:
    for stage in stages:
        board.start(stage.key)
        started = board.nodes[stage.key].started
        record = StageRecord(stage.key, stage.name, stage.kind, {}, started, started + 1.0, "here")
        board.finish(stage.key, record)


def best(board: Board, base_model: str | None = None) -> str:
    node = board.best("train", base_model=base_model)
    assert node is not None
    return node.stage.name


def states(board: Board) -> dict[str, str]:
    return {node.stage.name: node.state for node in board.nodes.values()}


def test_stage_is_ready_once_its_inputs_are_there() -> None:
    board = Board()
    top = total(A, B, tag="top")
    number = board.add([top], {B.key}, HERE)
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
    number = board.add([top], {top.key, A.key}, HERE)
    assert states(board) == {"number 1": "cached", "sum-top": "cached"}
    assert board.is_settled(number)
    assert [(event.name, event.state) for event in board.events_after(0)] == [
        ("number 1", "cached"),
        ("sum-top", "cached"),
    ]


def test_failure_reaches_every_request_above_it_and_no_other() -> None:
    board = Board()
    middle = total(A, tag="middle")
    first = board.add([total(middle, tag="x")], set(), HERE)
    second = board.add([total(middle, tag="y")], set(), HERE)
    other = board.add([total(A, tag="other")], set(), HERE)
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
    assert board.events_after(0)[1].cause == "ValueError: no"
    late = board.add([total(middle, tag="late")], set(), HERE)
    assert board.requests[late].failure is not None


def test_released_request_cancels_only_what_nobody_else_awaits() -> None:
    board = Board()
    shared = total(A, tag="shared")
    private = total(A, B, tag="private")
    first = board.add([shared, private], set(), HERE)
    board.add([shared], set(), HERE)
    assert board.release(first) == []
    assert states(board) == {
        "number 1": "planned",
        "number 2": "cancelled",
        "sum-shared": "planned",
        "sum-private": "cancelled",
    }
    board.add([private], set(), HERE)
    assert states(board)["sum-private"] == "planned"


def test_running_stage_that_nobody_awaits_is_told_and_may_be_awaited_again() -> None:
    board = Board()
    number = board.add([A], set(), HERE)
    board.start(A.key)
    assert board.report(A.key, 1, 2, {})
    assert board.release(number) == [A.key]
    assert not board.report(A.key, 1, 2, {})
    board.add([A], set(), HERE)
    board.requeue(A.key)
    assert states(board) == {"number 1": "planned"}


def test_longest_remaining_path_comes_first() -> None:
    board = Board()
    long = total(tag="long", work=1.0)
    board.add([total(tag="alone", work=5.0), total(long, tag="end", work=9.0)], set(), HERE)
    assert [node.stage.name for node in board.ready("train")] == ["sum-long", "sum-alone"]


def test_gang_prefers_the_model_it_holds_unless_another_path_is_much_longer() -> None:
    board = Board()
    board.add([total(tag="a", work=10.0, model="m"), total(tag="b", work=12.0)], set(), HERE)
    assert best(board, "m") == "sum-a"
    assert best(board) == "sum-b"
    board.add([total(tag="c", work=20.0)], set(), HERE)
    assert best(board, "m") == "sum-c"


def test_stage_that_more_requests_await_comes_first_among_equals() -> None:
    board = Board()
    first, second = total(tag="first"), total(tag="second")
    board.add([first, second], set(), HERE)
    assert best(board) == "sum-first"
    board.add([second], set(), HERE)
    assert best(board) == "sum-second"


def test_the_first_to_ask_decides_how_a_stage_runs() -> None:
    elsewhere = Execution(store="store", shape=GangShape(num_workers=2))
    board = Board()
    board.add([total(tag="shared")], set(), HERE)
    board.add([total(tag="shared"), total(tag="own")], set(), elsewhere)
    # Executions come through Ray as copies.
    copy = Execution(store="store", shape=GangShape(num_workers=2))
    assert [node.stage.name for node in board.ready("train", copy)] == ["sum-own"]
    assert [node.stage.name for node in board.ready("train", HERE)] == ["sum-shared"]
    assert (board.num_ready("train"), board.num_planned("train", copy)) == (2, 1)
    assert board.best("train", copy) is board.nodes[total(tag="own").key]


def test_a_stage_put_back_with_a_delay_is_not_ready_before() -> None:
    now = 100.0
    board = Board(clock=lambda: now)
    board.add([A], set(), HERE)
    board.start(A.key)
    board.requeue(A.key, cause="OSError: no hub", delay_s=5.0)
    assert board.ready("light") == []
    (waiting,) = board.snapshot().waiting
    assert (waiting.reason, waiting.until) == ("time", 105.0)
    assert waiting.words == "number 1 waits for another attempt (OSError: no hub)"
    now = 105.0
    assert [node.stage for node in board.ready("light")] == [A]


def test_snapshot_says_what_waits_for_what() -> None:
    board = Board()
    middle = total(A, B, tag="middle")
    board.add([total(middle, tag="x"), total(middle, tag="y"), Chat()], set(), HERE)
    assert {waiting.words for waiting in board.snapshot().waiting} == {
        "2 number wait for a free process",
        "3 sum wait for 2 number, sum-middle",
        "chat waits for a turn with the served models",
    }
    done(board, A, B)
    assert {waiting.words for waiting in board.snapshot(turns={"train": "CPUs"}).waiting} == {
        "sum-middle waits for CPUs",
        "2 sum wait for sum-middle",
        "chat waits for a turn with the served models",
    }
    done(board, middle)
    board.start(Chat().key)
    board.hold(Chat().key, "model l, which starts")
    assert board.snapshot().running[0].waits_for == "model l, which starts"


def test_damaged_artifact_is_made_again_before_its_readers_run() -> None:
    board = Board()
    middle = total(A, tag="middle")
    first, second = total(middle, tag="first"), total(middle, tag="second")
    number = board.add([first, second, middle], {middle.key}, HERE)
    board.start(first.key)
    board.forget(middle.key, present=set())  # the first reader found the damage
    board.requeue(first.key, cause="damaged input")
    assert [node.stage for node in board.ready("light")] == [A]
    assert board.ready("train") == []
    done(board, A, middle)
    assert {node.stage.name for node in board.ready("train")} == {"sum-first", "sum-second"}
    done(board, first, second)
    assert board.is_settled(number)


def test_damaged_artifact_that_nobody_awaits_is_planned_when_it_is_asked_for() -> None:
    board = Board()
    number = board.add([A], {A.key}, HERE)
    board.release(number)
    board.forget(A.key)
    assert board.unknown([A]) == [A]
    number = board.add([A], set(), HERE)
    assert not board.is_settled(number)
    assert [node.stage for node in board.ready("light")] == [A]


def test_failed_stage_gets_another_chance_when_failures_are_forgotten() -> None:
    board = Board()
    top = total(A, tag="top")
    board.add([top], set(), HERE)
    board.start(A.key)
    board.fail(A.key, "OSError: no hub")
    again = board.add([top], set(), HERE)
    assert board.requests[again].failure is not None
    board.forget_failures()
    again = board.add([top], set(), HERE)
    assert not board.is_settled(again)
    done(board, A, top)
    assert board.is_settled(again)


def test_request_that_settles_is_told_once() -> None:
    told: list[int] = []
    board = Board(on_settled=told.append)
    both = board.add([A, B], set(), HERE)
    one = board.add([A], set(), HERE)
    broken = board.add([total(B, tag="top"), total(A, tag="other")], set(), HERE)
    assert board.is_settled(board.add([], set(), HERE))
    done(board, A)
    assert told == [one]
    board.start(B.key)
    board.fail(B.key, "no")
    assert told == [one, both, broken]
    done(board, total(A, tag="other"))
    assert told == [one, both, broken]


def test_log_holds_the_last_event_of_each_stage_however_often_it_is_asked_for() -> None:
    board = Board()
    for _ in range(1000):
        board.release(board.add([A], set(), HERE))
    events = board.events_after(0)
    assert [(event.name, event.state) for event in events] == [("number 1", "cancelled")]
    assert events[0].index == board.snapshot().num_events - 1 == 999
    board.add([A, B], {B.key}, HERE)
    done(board, A)
    assert [event.name for event in board.events_after(1000)] == ["number 2", "number 1"]
    assert board.events_after(1002) == []


def test_log_keeps_the_curves_of_the_stages_that_ended_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sweeps.board.MAX_CURVES", 2)
    board = Board()
    stages = [Number(value=value) for value in range(4)]
    board.add(stages, set(), HERE)
    for stage in stages:
        board.start(stage.key)
        curve = (CurvePoint(1, 1, {"loss": 0.5}, 0.0),)
        board.finish(
            stage.key, StageRecord(stage.key, stage.name, stage.kind, {}, 0.0, 1.0, "", "", curve)
        )
    records = [event.record for event in board.events_after(0)]
    assert [len(record.curve) for record in records if record] == [0, 0, 1, 1]


def test_failure_at_the_bottom_of_a_deep_graph_reaches_the_top() -> None:
    board = Board()
    stage: Stage = A
    for index in range(3000):
        stage = total(stage, tag=str(index))
        assert stage.key  # made from below, it does not recurse
    number = board.add([stage], set(), HERE)
    board.start(A.key)
    board.fail(A.key, "no")
    assert board.requests[number].failure is not None
    assert board.snapshot().total("cancelled") == 3000


def test_snapshot_counts_by_kind_and_state_and_sums_work() -> None:
    board = Board(clock=lambda: 100.0)
    top, before = total(A, B, tag="top", work=8.0), total(tag="before", work=2.0)
    board.add([top, before], {B.key}, HERE)
    done(board, A, before)
    board.start(top.key)
    board.report(top.key, 1, 4, {"loss": 0.5})
    board.report(top.key, 2, 4, {})
    snapshot = board.snapshot(gangs=1)
    assert snapshot.counts == {
        "number": {"done": 1, "cached": 1},
        "sum": {"done": 1, "running": 1},
    }
    assert snapshot.total("cached") == 1
    running = snapshot.running[0]
    assert (running.step, running.total, running.metrics) == (2, 4, {"loss": 0.5})
    assert snapshot.work["sum"] == Work("train", 2.0, 1.0, 8.0, 1, 1)
    assert snapshot.num_events == 3


def test_counts_queues_and_waits_agree_with_the_graph_whatever_happens() -> None:
    rng = random.Random(0)
    layers: list[list[Stage]] = [[Number(value=value) for value in range(6)]]
    for depth in range(4):
        layers.append(
            [
                total(*rng.sample(layers[-1], 2), tag=f"{depth}-{i}", work=rng.random())
                for i in range(6)
            ]
        )
    stages = [stage for layer in layers for stage in layer]
    now = 0.0
    board = Board(clock=lambda: now)
    for _ in range(1000):
        now += rng.random()
        states = [node.state for node in board.nodes.values()]
        keys = {
            state: [k for k, s in zip(board.nodes, states, strict=True) if s == state]
            for state in set(states)
        }
        match rng.randrange(8):
            case 0:
                roots = rng.sample(stages, 3)
                unknown = board.unknown(roots)
                board.add(roots, {s.key for s in unknown if rng.random() < 0.2}, HERE)
            case 1 if board.requests:
                board.release(rng.choice(list(board.requests)))
            case 2 | 3:
                for lane in ("light", "train"):
                    if (node := board.best(lane)) is not None:
                        board.start(node.stage.key)
            case 4 | 5 if keys.get("running"):
                done(board, board.nodes[rng.choice(keys["running"])].stage)
            case 6 if keys.get("running"):
                key = rng.choice(keys["running"])
                if rng.random() < 0.3:
                    board.fail(key, "no")
                else:
                    board.requeue(key, delay_s=rng.choice([0.0, 3.0]))
            case 7 if keys.get("done") and rng.random() < 0.3:
                board.forget(rng.choice(keys["done"]))
            case _:
                board.forget_failures()
        agrees(board, now)
    now += 3.0
    done(board, *(node.stage for node in board.nodes.values() if node.state == "running"))
    while (node := board.best("light") or board.best("train")) is not None:
        done(board, node.stage)
    agrees(board, now)
    assert board.requests
    assert all(request.is_settled for request in board.requests.values())


def agrees(board: Board, now: float) -> None:
    """Check what the board keeps against what its nodes say."""
    snapshot = board.snapshot()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    waiting: Counter[tuple[str, str]] = Counter()
    for node in board.nodes.values():
        counts[node.stage.kind][node.state] += 1
        lacks = (
            [key for key in node.inputs if not board.nodes[key].is_there]
            if node.state == "planned"
            else []
        )
        is_ready = node.state == "planned" and not lacks and node.not_before <= now
        assert is_ready == (node in board.ready(node.stage.lane))
        if node.state == "planned":
            assert node.waiters, "what nobody awaits is cancelled"
            assert all(
                board.nodes[key].state in ("planned", "running", "cached", "done")
                for key in node.inputs
            )
            reason = "inputs" if lacks else "turn" if is_ready else "time"
            waiting[node.stage.kind, reason] += 1
    assert snapshot.counts == counts
    assert {(each.kind, each.reason): each.number for each in snapshot.waiting} == waiting
    for request in board.requests.values():
        left = {key for key in request.roots if not board.nodes[key].is_there}
        assert request.is_settled or request.left == left
    for kind, work in snapshot.work.items():
        left = [
            n.cost
            for n in board.nodes.values()
            if n.stage.kind == kind and n.state in ("planned", "running")
        ]
        assert (work.number_left, work.cost_left) == (len(left), pytest.approx(sum(left)))
