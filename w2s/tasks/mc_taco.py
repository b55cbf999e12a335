"""MC-TACO (Zhou et al. 2019): is an answer to a question about time plausible?

The source has several plausible and implausible answers a question, each with its label. It has no
train split: its validation rows are training data, as its authors use them. Questions about one
sentence stay in one split.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal

CLASSES = {"0": 0, "1": 1, "no": 0, "yes": 1}


class MCTaco(DatasetTask):
    """Whether an answer about the timing of an event is plausible."""

    kind: Literal["mc_taco"] = "mc_taco"
    path: str = "CogComp/mc_taco"

    columns: ClassVar[tuple[str, ...]] = ("sentence", "question", "answer", "label")
    hub_lacks: ClassVar[tuple[Part, ...]] = ("train",)
    instruction: ClassVar[str] = (
        "Each input is a sentence, a question about the timing of an event in it and an answer. "
        "The label is 1 if the answer is plausible, else 0."
    )

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One row an answer; label 1 for plausible."""
        rows = source.rows(
            frame, ("sentence", "question", "answer"), label="label", classes=CLASSES
        )
        for _, label, (sentence, question, answer), _ in rows:
            asked = f"{sentence}\n\nQ: {question}"
            prompt = f"{asked}\nA: {answer}"
            yield Example(prompt, label, group=normal(sentence), question=asked)
