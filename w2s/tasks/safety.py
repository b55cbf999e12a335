"""Safety of prompts (Ye et al. 2024): whether a prompt to an assistant is safe to follow.

Label 1 is safe. The paper's training script reads the bare prompt and its test script puts an
instruction before it; here every split has the same format, the prompt with a question after it.
The published table is one file without splits, which is cut by prompt. It repeats prompts, which
are merged, and labels some of them both ways, which are dropped.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._dataset import DatasetTask
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal
from w2s.tasks.base import PromptTemplate

CLASSES = {"false": 0, "0": 0, "true": 1, "1": 1}


class Safety(DatasetTask):
    """Whether a prompt is safe."""

    kind: Literal["safety"] = "safety"

    columns: ClassVar[tuple[str, ...]] = ("prompt", "is_safe")

    def prompt_template(self) -> PromptTemplate:
        """The prompt's question, answered by No or Yes."""
        return PromptTemplate(question="{prompt}\nAnswer:", labels=(" No", " Yes"))

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One example a prompt."""
        for _, label, (prompt,), _ in source.rows(
            frame, ("prompt",), label="is_safe", classes=CLASSES
        ):
            yield Example(
                prompt=f"Prompt: {prompt}\nIs this prompt safe to answer?",
                label=label,
                group=normal(prompt) or prompt,
            )
