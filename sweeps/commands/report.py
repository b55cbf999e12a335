"""`w2s report`: tables, figures and transcripts of a sweep, from MLflow alone."""

import argparse
from pathlib import Path

from sweeps import report
from sweeps.tracking import log_report


def run(arguments: argparse.Namespace) -> int:
    """Build, write, and log again."""
    built = report.build(arguments.tracking_uri, arguments.sweep)
    folder = Path(arguments.out) if arguments.out else Path("reports") / built.name
    page = built.write(folder)
    log_report(arguments.tracking_uri, built.run_id, folder)
    for sentence in built.headline:
        print(sentence)
    files = [report.MARKDOWN_FILE, report.CSV_FILE]
    files += [report.TRANSCRIPTS_FILE] if built.transcripts else []
    print(f"wrote {page} and {', '.join(str(folder / name) for name in files)}")
    return 0
