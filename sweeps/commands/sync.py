"""`w2s sync`: what MLflow is missing, from journals and from the store."""

import argparse
import os
import sys
import threading

from sweeps.journal import in_use, leftovers
from sweeps.reachable import check_reachable
from sweeps.store import ArtifactStore
from sweeps.tracking import Tracker
from w2s.errors import UserError
from w2s.redaction import HIDDEN, redacted

REQUEST_TIMEOUT_S = 120
"""Time that a slow server has for one request; in a sweep it is less."""
NEWS_S = 10.0
"""Time between two looks at how far it is."""


def run(arguments: argparse.Namespace) -> int:
    """Write what is missing; returns 1 where something is still missing in the end."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_TIMEOUT_S))
    problems = _sweep(arguments) if arguments.file else _journals(arguments)
    for problem in problems:
        print(f"tracking: {problem}", file=sys.stderr)
    return int(bool(problems))


def _sweep(arguments: argparse.Namespace) -> list[str]:
    """Everything that the store has of one sweep, after its journals."""
    from sweeps.driver import Session
    from sweeps.load import load
    from sweeps.relog import entries

    sweep, runtime = load(arguments.file, arguments.overrides)
    changes = {"store": arguments.store, "tracking_uri": arguments.tracking_uri}
    runtime = runtime.model_copy(update={name: v for name, v in changes.items() if v is not None})
    check_reachable(runtime.tracking_uri)
    session = Session(sweep, runtime, f"w2s run {arguments.file}")
    if in_use(session.journals):
        print(f"{sweep.name} is running: its driver writes its log")
        return []
    tracker = session.tracker()
    for entry in entries(session):
        tracker.log(entry)
    return _written(tracker, sweep.name, runtime.tracking_uri)


def _journals(arguments: argparse.Namespace) -> list[str]:
    """What interrupted and unlucky runs have left in a store."""
    from sweeps.driver import TRACKING_FOLDER

    store = ArtifactStore(arguments.store or "w2s_store")
    root = store.local_dir / TRACKING_FOLDER
    folders = sorted(path for path in root.glob("*") if path.is_dir()) if root.is_dir() else []
    problems: list[str] = []
    nothing = True
    for folder in folders:
        uris = [left.uri for left in leftovers(folder) if left.entries]
        if in_use(folder):
            print(f"{folder.name} is running: its driver writes its log")
        if not uris:
            continue
        nothing = False
        uri = arguments.tracking_uri or uris[-1]
        if HIDDEN in uri:
            raise UserError(
                f"the log of {folder.name} goes to {uri}, whose password is not kept; "
                "name it whole: --tracking-uri URI"
            )
        check_reachable(uri)
        problems += _written(Tracker(uri, folder), folder.name, uri)
    if nothing:
        print(f"no journal in {store.root} has anything that MLflow is missing")
    return problems


def _written(tracker: Tracker, name: str, uri: str) -> list[str]:
    """Wait for the writer, and say now and then how far it is."""
    total = left = tracker.num_pending
    while not tracker.settle(NEWS_S) and tracker.num_pending < left:
        left = tracker.num_pending
        print(f"{name}: {total - left:,} of {total:,} entries", flush=True)
    problems = tracker.close(timeout_s=threading.TIMEOUT_MAX)
    print(f"{name}: {total - tracker.num_pending:,} of {total:,} entries are in {redacted(uri)}")
    return problems
