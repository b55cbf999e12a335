"""The style-only control: a linear classifier over transcripts whose content words are masked.

If it beats chance, sides or liars can be told by how a debate is worded, and a supervisor's gain
from debates says nothing about evidence.
"""

from itertools import combinations
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy.sparse import csr_matrix

from w2s.spec import OneOf
from w2s.stages.base import Lane, Stage, StageContext
from w2s.stages.data import GroundTruth
from w2s.stages.predictions import read_targets, write_predictions
from w2s.stages.transcripts import read_transcripts
from w2s.tasks.base import Task


class StyleClassifier(Stage):
    """Logistic regression on masked transcripts; leaves predictions like a supervisor."""

    lane: ClassVar[Lane] = "train"

    transcripts: Stage
    """Stage that leaves transcripts."""
    task: OneOf[Task]
    """Task that knows which words are content."""
    labels: GroundTruth
    """Ground truth of `weak_train`."""
    features: Literal["words", "positions", "equalities"]
    """Counts of masked words; words by position; positions and which pairs of positions hold equal
    words."""
    inverse_regularization: float = Field(default=0.1, gt=0)
    """C of the logistic regression."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"style-{self.features}-{self.transcripts.name}"

    def run(self, context: StageContext) -> None:
        """Fit on `weak_train`, predict every debated row."""
        from sklearn.linear_model import LogisticRegression

        frame = read_transcripts(context.path(self.transcripts))
        features = style_features(
            [self.task.mask_transcript(text) for text in frame["text"]], self.features
        )
        train = np.flatnonzero(frame["split"] == "weak_train")
        ids = frame["row_id"].iloc[train].tolist()
        targets = read_targets(context.path(self.labels), "weak_train", ids, self.task.num_classes)
        model = LogisticRegression(C=self.inverse_regularization, max_iter=1000)
        model.fit(features[train], targets.probabilities_NC.argmax(1))
        rest = np.flatnonzero(frame["split"] != "weak_train")
        if context.replicas is None or context.replicas.rank == 0:
            write_predictions(
                context.output_dir,
                frame["split"].iloc[rest].tolist(),
                frame["row_id"].iloc[rest].tolist(),
                model.predict_log_proba(features[rest]),
            )


def style_features(
    texts: "list[str]", kind: Literal["words", "positions", "equalities"]
) -> csr_matrix:
    """Sparse 0/1/count features of masked texts.

    Args:
        texts: masked transcripts; a content word is a type marker with a number (`<value:2>`),
            equal numbers mean equal words.
        kind: which features.

    Returns:
        [N, F] matrix; the columns depend on all the texts given.
    """
    columns: dict[tuple[object, ...], int] = {}
    row_index, column_index, values = [], [], []
    for row, text in enumerate(texts):
        words = text.split()
        bare = [
            word.split(":")[0] + ">" if word.startswith("<") and ":" in word else word
            for word in words
        ]
        found: list[tuple[object, ...]] = [("word", word) for word in bare]
        if kind != "words":
            found += [("at", position, word) for position, word in enumerate(bare)]
        if kind == "equalities":
            found += [
                ("equal", first, second)
                for first, second in combinations(range(min(len(words), 64)), 2)
                if words[first] == words[second]
            ]
        for feature in found:
            row_index.append(row)
            column_index.append(columns.setdefault(feature, len(columns)))
            values.append(1.0)
    return csr_matrix((values, (row_index, column_index)), shape=(len(texts), len(columns)))
