"""`w2s ui`: the MLflow UI on loopback."""

import argparse
import subprocess
import sys

from w2s.errors import UserError


def run(arguments: argparse.Namespace) -> int:
    """Start `mlflow ui` and wait for it."""
    import socket

    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", arguments.port)) == 0:
            raise UserError(f"port {arguments.port} is in use; choose another with --port")
    from sweeps.reachable import check_reachable
    from sweeps.tracking import prepare_environment, trial_pages

    check_reachable(arguments.tracking_uri)
    prepare_environment()
    address = f"http://127.0.0.1:{arguments.port}"
    print(f"MLflow UI on {address} (Ctrl-C ends it)")
    for sweep, page in trial_pages(arguments.tracking_uri, address).items():
        print(f"  trials of {sweep}: {page}")
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1"]
    command += ["--port", str(arguments.port), "--backend-store-uri", arguments.tracking_uri]
    sys.stdout.flush()
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait(timeout=10)
        return 0
