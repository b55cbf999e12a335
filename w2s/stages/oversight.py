"""What a transcript did to its judge: the light stage behind every table of oversight.

`Oversight` puts a judge's answers with transcripts beside those it (or the weak model alone) gives
without, joins both with the truth of `val` and `test`, and says of every row who argued for what
and at what length. Like an evaluation, nothing is made from it.
"""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import SerializeAsAny

from w2s.oversight import summarise
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import GroundTruth, Prompts, read_prompts, read_truth
from w2s.stages.judge import VERDICTS_FILE
from w2s.stages.predictions import logprob_columns, read_predictions
from w2s.stages.transcripts import read_transcripts

OVERSIGHT_FILE = "oversight.parquet"
SUMMARY_FILE = "oversight.json"


class Oversight(Stage):
    """A judge with and without transcripts; of two classes, where 1 means the claim is correct."""

    version: ClassVar[int] = 1

    transcripts: SerializeAsAny[Stage]
    """Stage that leaves what the judge read."""
    judged: SerializeAsAny[Stage]
    """Predictions of the judge that read it."""
    unaided: SerializeAsAny[Stage]
    """Predictions without it."""
    truths: tuple[GroundTruth, ...]
    """Ground truth of the splits to look at."""
    prompts: Prompts
    """For the group of each row."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"oversight-{self.judged.name}"

    def run(self, context: StageContext) -> None:
        """Write `oversight.parquet` (one line a row) and `oversight.json` (rates by split)."""
        frame = overseen_rows(
            context.path(self.transcripts),
            context.path(self.judged),
            context.path(self.unaided),
            [context.path(truth) for truth in self.truths],
            context.path(self.prompts),
        )
        frame.to_parquet(context.output_dir / OVERSIGHT_FILE, index=False)
        summary = {
            str(split): summarise(part) for split, part in frame.groupby("split", sort=False)
        }
        (context.output_dir / SUMMARY_FILE).write_text(json.dumps(summary, indent=1))


def overseen_rows(
    transcripts: Path, judged: Path, unaided: Path, truths: list[Path], prompts: Path
) -> pd.DataFrame:
    """Answers of a judge and what was said, joined by (split, row_id), in the order of the truths.

    Returns:
        split, row_id, group, label, prob_with, prob_without (probability that the proposed answer
        is correct), verdict (empty where the judge gives none), position_a, position_last (what
        side A and the last speaker defended, or empty), and for `correct` and `incorrect`: words_*
        (said for it, without what was thought) and model_* (key of who spoke for it, or empty).

    Raises:
        ValueError: the judge has no answer for a row that has a transcript.
    """
    said = read_transcripts(transcripts)[["split", "row_id", "turns"]]
    frame = pd.concat([read_truth(truth) for truth in truths], ignore_index=True)
    frame = frame[["split", "row_id", "label"]].merge(said, on=["split", "row_id"])
    frame = frame.merge(
        read_prompts(prompts)[["split", "row_id", "group"]], on=["split", "row_id"]
    ).merge(_probabilities(judged, "prob_with"), on=["split", "row_id"], how="left")
    frame = frame.merge(_probabilities(unaided, "prob_without"), on=["split", "row_id"], how="left")
    for name, folder in (("prob_with", judged), ("prob_without", unaided)):
        if missing := int(np.isnan(frame[name].to_numpy(float)).sum()):
            raise ValueError(f"{folder.name} has no prediction for {missing} rows with transcripts")
    verdicts = judged / VERDICTS_FILE
    if verdicts.exists():
        given = pd.read_parquet(verdicts)[["split", "row_id", "verdict"]]
        frame = frame.merge(given, on=["split", "row_id"], how="left")
        frame["verdict"] = frame["verdict"].fillna("")
    else:
        frame["verdict"] = ""
    spoken = pd.DataFrame([_spoken(json.loads(turns)) for turns in frame.pop("turns")])
    return pd.concat([frame, spoken.reindex(columns=[*_NOTHING_SAID])], axis=1)


def _probabilities(folder: Path, name: str) -> pd.DataFrame:
    """Probability of class 1 by row."""
    frame = read_predictions(folder)
    values_NC = np.exp(frame[logprob_columns(frame)].to_numpy(np.float64))
    return frame[["split", "row_id"]].assign(**{name: values_NC[:, 1] / values_NC.sum(1)})


_NOTHING_SAID: dict[str, Any] = {
    "position_a": "",
    "position_last": "",
    "words_correct": 0,
    "words_incorrect": 0,
    "model_correct": "",
    "model_incorrect": "",
}


def _spoken(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Who argued for what; turns without a position (a judge's questions) are no arguments."""
    found = dict(_NOTHING_SAID)
    for turn in turns:
        position = turn["position"]
        if position not in ("correct", "incorrect"):
            continue
        found["position_last"] = position
        if turn["side"] == "A":
            found["position_a"] = position
        found[f"words_{position}"] += len(turn["text"].split())
        found[f"model_{position}"] = turn["model_digest"]
    return found


def read_overseen(folder: Path) -> pd.DataFrame:
    """The rows of an oversight artifact."""
    return pd.read_parquet(folder / OVERSIGHT_FILE)


def read_oversight(folder: Path) -> dict[str, dict[str, float]]:
    """Its rates by split."""
    return json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
