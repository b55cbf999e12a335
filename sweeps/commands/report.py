"""`w2s report`: tables, figures and debates of a sweep, from MLflow alone."""

import argparse

from sweeps import report


def run(arguments: argparse.Namespace) -> int:
    """Build and write."""
    built = report.build(arguments.tracking_uri, arguments.sweep)
    raise NotImplementedError(built)
