"""`w2s run`: a sweep from its file to its report."""

import argparse
import shlex
import signal
import sys
import time

from rich.console import Console
from rich.table import Table

from sweeps.driver import Outcome, Session, run_sweep
from sweeps.load import load
from w2s.redaction import redacted


def run(arguments: argparse.Namespace) -> int:
    """Check, run, report."""
    started = time.monotonic()
    # A second Ctrl-C during the clean-up must not leave processes behind; SIGTERM is treated like
    # the first.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    sweep, runtime = load(arguments.file, arguments.overrides)
    command = redacted(
        shlex.join(
            ["w2s", "run", arguments.file, *(f"--set={each}" for each in arguments.overrides)]
        )
    )
    session = Session(sweep, runtime, command)
    outcome = run_sweep(session, address=arguments.address, plain=arguments.plain)
    _print(outcome, time.monotonic() - started)
    return outcome.exit_code


def _print(outcome: Outcome, elapsed_s: float) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(_table(outcome))
    for sentence in outcome.report.headline:
        console.print(sentence, highlight=False)
    counts = outcome.summary.stages
    ran = sum(by_state.get("done", 0) for by_state in counts.values())
    cached = sum(by_state.get("cached", 0) for by_state in counts.values())
    console.print(
        f"{ran} stages ran, {cached} were cached; {elapsed_s:.0f} s in all", highlight=False
    )
    for name, usage in outcome.spent.items():
        console.print(
            f"speaker {name}: {usage.requests:,} requests, {usage.input_tokens:,} tokens in, "
            f"{usage.output_tokens:,} out, over all runs of this sweep",
            highlight=False,
        )
    for noticed in outcome.noticed:
        console.print(f"noticed: {noticed}", highlight=False)
    for budget in outcome.budgets:
        print(f"stopped: {budget}", file=sys.stderr)
    for entry in outcome.book.entries.values():
        if entry.status == "failed":
            print(f"failed: {outcome.book.name(entry)}: {entry.cause}", file=sys.stderr)
    for problem in outcome.problems:
        print(f"tracking: {problem}", file=sys.stderr)
    console.print(
        f"report: {outcome.report_dir / 'report.html'} · compare runs: w2s ui", highlight=False
    )


def _table(outcome: Outcome) -> Table:
    """Test accuracy and PGR of every cell; the report has the intervals of everything."""
    table = Table(
        title=f"{outcome.summary.name}: test accuracy, PGR with its 95 % interval",
        title_justify="left",
    )
    for name in ("block", "weak>strong", "method", "loss"):
        table.add_column(name)
    for name in ("floor", "supervisor", "student", "ceiling", "PGR"):
        table.add_column(name, justify="right", no_wrap=True)
    for scored in outcome.report.scores:
        cell, compared = scored.cell, scored.compared
        pgr = "gap too small"
        if compared.pgr is not None:
            pgr = f"{compared.pgr.point:.2f} [{compared.pgr.low:.2f}, {compared.pgr.high:.2f}]"
        estimates = (compared.floor, scored.supervisor, compared.student, compared.ceiling)
        loss = f"{cell.loss} (best of {cell.num_searched})" if cell.num_searched else cell.loss
        table.add_row(
            cell.block,
            f"{cell.weak}>{cell.strong}",
            cell.method,
            loss,
            *(f"{estimate.point:.3f}" for estimate in estimates),
            pgr,
        )
    return table
