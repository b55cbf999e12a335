"""`w2s ui`: the MLflow UI on loopback."""

import argparse
import os
import subprocess
import sys

from w2s.errors import UserError

LOOPBACK = "127.0.0.1"
"""The only address that the UI listens on: it asks nobody for a password."""


def run(arguments: argparse.Namespace) -> int:
    """Start `mlflow ui` and wait for it."""
    import socket

    with socket.socket() as probe:
        if probe.connect_ex((LOOPBACK, arguments.port)) == 0:
            raise UserError(f"port {arguments.port} is in use; choose another with --port")
    from sweeps.reachable import check_reachable
    from sweeps.tracking import prepare_environment, trial_pages

    check_reachable(arguments.tracking_uri)
    prepare_environment()
    address = f"http://{LOOPBACK}:{arguments.port}"
    print(f"MLflow UI on {address} (Ctrl-C ends it)")
    for sweep, page in trial_pages(arguments.tracking_uri, address).items():
        print(f"  trials of {sweep}: {page}")
    command = [sys.executable, "-m", "mlflow", "ui", "--host", LOOPBACK]
    command += ["--port", str(arguments.port)]
    sys.stdout.flush()
    # Not on the command line, which everybody on this machine can read: it may hold a password.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": arguments.tracking_uri}
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait(timeout=10)
        return 0
