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
    from sweeps.tracking import check_reachable

    check_reachable(arguments.tracking_uri)
    print(f"MLflow UI on http://127.0.0.1:{arguments.port} (Ctrl-C ends it)", flush=True)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--host",
        "127.0.0.1",
        "--port",
        str(arguments.port),
    ]
    process = subprocess.Popen([*command, "--backend-store-uri", arguments.tracking_uri])
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait(timeout=10)
        return 0
