"""Stages whose artifacts a test writes by hand, and a way to run one stage on them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from w2s.almanac.world import World
from w2s.models.source import PretrainedModel
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import LABELS_FILE, PROMPTS_FILE, GroundTruth, Prompts
from w2s.stages.features import FEATURES_FILE, Features
from w2s.stages.labels import Labels, read_labels
from w2s.stages.predictions import write_predictions
from w2s.stages.tokens import INDEX_FILE, Tokens
from w2s.tasks.almanac import Almanac
from w2s.types import Split

TASK = Almanac(world=World(seed=100))
PROMPTS = Prompts(task=TASK)
MODEL = PretrainedModel(path="somewhere")
FEATURES = Features(source=MODEL, tokens=Tokens(model=MODEL, prompts=PROMPTS))


class Given(Stage):
    """Stands for a stage that leaves predictions."""

    tag: str


class Artifacts:
    """Artifacts below a folder, by the stages that would have left them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs: dict[str, Path] = {}

    def place(self, stage: Stage) -> Path:
        """A fresh folder for the artifact of a stage."""
        path = self.folder / f"{stage.kind}-{len(self.inputs)}"
        path.mkdir(parents=True)
        self.inputs[stage.key] = path
        return path

    def predictions(
        self,
        tag: str,
        rows: Sequence[tuple[str, str, Sequence[float]]],
        weights: Sequence[float] | None = None,
    ) -> Given:
        """Predictions: (split, row id, class probabilities) each."""
        stage = Given(tag=tag)
        write_predictions(
            self.place(stage),
            [split for split, _, _ in rows],
            [row_id for _, row_id, _ in rows],
            np.log(np.array([probabilities for _, _, probabilities in rows])),
            None if weights is None else np.array(weights),
        )
        return stage

    def truth(self, split: Split, labels: dict[str, int]) -> GroundTruth:
        """Ground truth of a split by row id."""
        stage = GroundTruth(task=TASK, split=split)
        pd.DataFrame(
            {"split": split, "row_id": list(labels), "label": list(labels.values())}
        ).to_parquet(self.place(stage) / LABELS_FILE)
        return stage

    def prompts(self, rows: Sequence[tuple[str, str, str]]) -> Prompts:
        """Prompts: (split, row id, text) each."""
        frame = pd.DataFrame(rows, columns=["split", "row_id", "prompt"])  # pyright: ignore
        frame.assign(group=frame["row_id"]).to_parquet(self.place(PROMPTS) / PROMPTS_FILE)
        return PROMPTS

    def features(self, rows: Sequence[tuple[str, str, object]]) -> Features:
        """Features: (split, row id, vector, or one vector an option) each."""
        folder = self.place(FEATURES)
        frame = pd.DataFrame([row[:2] for row in rows], columns=["split", "row_id"])  # pyright: ignore
        frame.to_parquet(folder / INDEX_FILE)
        values = np.array([vector for _, _, vector in rows], dtype=np.float32)
        save_file({"features": values}, folder / FEATURES_FILE)
        return FEATURES

    def run(self, stage: Stage) -> Path:
        """Run a stage; its artifact is then among those given."""
        folder = self.place(stage)
        stage.run(StageContext(output_dir=folder, inputs=self.inputs))
        return folder

    def labels(self, stage: Stage) -> Labels:
        """Run a stage that leaves labels and read them."""
        return read_labels(self.run(stage))
