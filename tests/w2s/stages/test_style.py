"""The style control sees masked transcripts alone, and learns whatever they give away."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest

from tests.w2s.stages.given import Given
from w2s.stages.base import StageContext
from w2s.stages.data import LABELS_FILE, GroundTruth
from w2s.stages.predictions import read_predictions
from w2s.stages.style import StyleClassifier, style_features
from w2s.stages.transcripts import TRANSCRIPTS_FILE
from w2s.tasks.almanac import Almanac

SPLITS = ["weak_train"] * 40 + ["test"] * 20


def predicted(folder: Path, texts: list[str], labels: list[int]) -> np.ndarray:
    """Class that the control predicts for each row of `test`."""
    said, truth = Given(tag="said"), GroundTruth(task=Almanac(), split="weak_train")
    stage = StyleClassifier(transcripts=said, task=Almanac(), labels=truth, features="words")
    folders = {source.key: folder / source.key for source in (said, truth)}
    for each in folders.values():
        each.mkdir()
    ids = [f"r{index}" for index in range(len(texts))]
    pd.DataFrame({"split": SPLITS, "row_id": ids, "text": texts, "turns": "[]"}).to_parquet(
        folders[said.key] / TRANSCRIPTS_FILE
    )
    pd.DataFrame({"split": "weak_train", "row_id": ids[:40], "label": labels[:40]}).to_parquet(
        folders[truth.key] / LABELS_FILE
    )
    (folder / "out").mkdir()
    stage.run(StageContext(output_dir=folder / "out", inputs=folders))
    frame = read_predictions(folder / "out")
    assert set(frame["split"]) == {"test"}
    return frame[["logprob_0", "logprob_1"]].to_numpy().argmax(1)


def test_words_that_tell_the_truth_are_found(tmp_path: Path) -> None:
    labels = [index % 2 for index in range(60)]
    texts = ["pro: surely" if label else "pro: perhaps" for label in labels]
    assert predicted(tmp_path, texts, labels).tolist() == labels[40:]


def test_what_is_masked_tells_nothing(tmp_path: Path) -> None:
    from w2s.almanac.language import language

    task = Almanac()
    words = language(task.world)
    values = [words.words[index] for index in words.rare_value_PV[0][:2]]
    labels = [index % 2 for index in range(60)]
    texts = [f"pro: it {values[label]}" for label in labels]
    assert len(set(predicted(tmp_path, texts, labels))) == 1


@pytest.mark.parametrize(("kind", "columns"), [("words", 2), ("positions", 5), ("equalities", 6)])
def test_features_are_words_their_places_and_which_are_equal(
    kind: Literal["words", "positions", "equalities"], columns: int
) -> None:
    # Words a, b; a at 0 and 2, b at 1; the words at 0 and 2 are equal.
    assert style_features(["a b a"], kind).shape == (1, columns)
