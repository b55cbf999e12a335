"""The live view says what is going on, in a terminal and in a file."""

import io
import logging
import time
from collections.abc import Callable

from rich.console import Console

from sweeps.events import BrokerSnapshot, RunningStage, StageEvent, StageRecord, State, Waiting
from sweeps.live import LiveView
from sweeps.progress import TrialLine

COUNTS: dict[str, dict[State, int]] = {
    "pretrain": {"cached": 4},
    "finetune": {"planned": 5, "running": 1, "done": 3, "failed": 1},
}
TRIALS = [
    TrialLine("xs>l naive xent", "done", 3, 3, 0.71, 0.64, 0.64, 0.70, 0.97),
    TrialLine("xs>l debate xent", "failed", 0, 3, cause="StageFailed: [no] engine"),
    TrialLine("s>l naive xent", "running", 1, 3, 0.8),
    TrialLine("m>l naive xent", "waiting", 0, 3),
]


def snapshot() -> BrokerSnapshot:
    stage = RunningStage(
        "k" * 16, "finetune-l-xent-s0", "finetune", "train", 990.0, 50, 200, {"loss": 0.25}
    )
    debate = RunningStage(
        "d" * 16, "debate-l", "debate", "serve", 995.0, waits_for="model l, which starts"
    )
    waiting = (
        Waiting("evaluate", 1, "evaluate-s", "time", "another attempt (OSError: no)", 1012.0),
        Waiting("finetune", 5, "finetune-xl-xent-s0", "inputs", "pretrain-xl, 2 label"),
    )
    return BrokerSnapshot(1000.0, COUNTS, (stage, debate), 1, ("l",), waiting=waiting, num_events=3)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_a_file_gets_one_line_per_stage_and_trial_that_ended_and_a_summary():
    out = io.StringIO()
    record = StageRecord("k" * 16, "finetune-xs-s0", "finetune", {}, 1.0, 4.5, "here")
    with LiveView(snapshot, lambda: TRIALS, console=Console(file=out)) as view:
        view.note(StageEvent(0, "done", "k" * 16, "finetune-xs-s0", "finetune", 4.5, record))
        view.note(StageEvent(1, "cached", "c" * 16, "pretrain-xs", "pretrain", 4.5))
        view.note(StageEvent(2, "failed", "f" * 16, "debate-l", "debate", 5.0, None, "E: no"))
    lines = [line.partition("] ")[2] for line in out.getvalue().splitlines()]
    assert lines[:4] == [
        f"finetune done: finetune-xs-s0 ({'k' * 16}) in 3.5 s",
        f"debate failed: debate-l ({'f' * 16}): E: no",
        "trial done: xs>l naive xent: "
        "val 0.710, floor 0.640, supervisor 0.640, student 0.700, ceiling 0.970",
        "trial failed: xs>l debate xent: StageFailed: [no] engine",
    ]
    assert lines[4] == (
        "stages 5 planned, 4 cached, 1 running, 3 done, 1 failed; "
        "trials 1 waiting, 1 running, 1 done, 1 failed; now finetune-l-xent-s0 50/200, "
        "debate-l (waits for model l, which starts); "
        "5 finetune wait for pretrain-xl, 2 label; "
        "evaluate-s waits for another attempt (OSError: no) in 0:12"
    )
    assert len(lines) == 5
    assert "\x1b" not in out.getvalue()


def test_a_terminal_shows_stages_by_kind_the_running_ones_and_the_trials():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=140, height=50)
    with LiveView(snapshot, lambda: TRIALS, title="almanac", console=console) as view:
        view.note(StageEvent(2, "failed", "f" * 16, "debate-l", "debate", 5.0, None, "E: no"))
        wait_for(lambda: "m>l" in out.getvalue() or "s>l" in out.getvalue())
    shown = out.getvalue()
    for text in ("almanac", "pretrain", "finetune-l-xent-s0", "50/200", "0:30", "loss 0.25"):
        assert text in shown
    for text in ("waits for model l", "5 finetune wait for pretrain-xl, 2 label", "in 0:12"):
        assert text in shown
    for text in ("0.970", "serving l", "failed: debate-l: E: no", "[no] engine"):
        assert text in shown
    assert "m>l" not in shown  # It waits: only counted.


def test_a_broker_that_does_not_answer_is_reported_once_and_stops_nothing(caplog):
    calls = []

    def broken() -> BrokerSnapshot:
        calls.append(1)
        raise RuntimeError("actor died")

    console = Console(file=io.StringIO(), force_terminal=True)
    with (
        caplog.at_level(logging.WARNING, logger="sweeps.live"),
        LiveView(broken, list, console=console),
    ):
        wait_for(lambda: len(calls) >= 2)
    assert [r.getMessage() for r in caplog.records] == [
        "the live view misses a beat: RuntimeError: actor died"
    ]
