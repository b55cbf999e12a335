"""The page of transcripts: one HTML file to look through what judges read and what they made of it.

Everything is in the file: the data as JSON, its style and a small script. It loads nothing.
"""

import json
from collections.abc import Mapping
from html import escape
from importlib import resources

from sweeps.results import Transcripts


def page(title: str, transcripts: Transcripts, run_pages: Mapping[str, str]) -> str:
    """The page as HTML; empty if there is nothing to read.

    Args:
        title: name of the sweep, or what else stands at the top.
        transcripts: what there is to read.
        run_pages: address of the page of a trial's run in MLflow, by the trial's id.
    """
    if not transcripts.examples:
        return ""
    examples = [example.model_dump(mode="json") for example in transcripts.examples]
    trials = {example.trial_id for example in transcripts.examples}
    data = {
        "counts": [count.model_dump(mode="json") for count in transcripts.counts],
        "examples": examples,
        "runs": {trial: url for trial, url in run_pages.items() if trial in trials},
    }
    # `<` does not occur in the text of a script element: nothing that was said can end it.
    encoded = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        _asset("browser.html")
        .replace("{{title}}", escape(title))
        .replace("{{style}}", _asset("browser.css"))
        .replace("{{script}}", _asset("browser.js"))
        .replace("{{data}}", encoded)
    )


def _asset(name: str) -> str:
    return resources.files("sweeps.report").joinpath(name).read_text(encoding="utf-8")
