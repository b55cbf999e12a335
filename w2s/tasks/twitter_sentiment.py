"""Sentiment of tweets (Rosenthal et al. 2017, as in TweetEval): positive or negative?

Neutral tweets are left out and counted, so that two classes are left, as in the two-class set that
Burns et al. (2023) use.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._dataset import DatasetTask
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal

CLASSES = {"0": 0, "1": -1, "2": 1, "negative": 0, "neutral": -1, "positive": 1}


class TwitterSentiment(DatasetTask):
    """Whether a tweet is positive."""

    kind: Literal["twitter_sentiment"] = "twitter_sentiment"
    path: str = "cardiffnlp/tweet_eval"
    subset: str | None = "sentiment"

    columns: ClassVar[tuple[str, ...]] = ("text", "label")

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One row a tweet; label 1 for positive, neutral ones left out."""
        rows = source.rows(frame, ("text",), label="label", classes=CLASSES)
        for _, label, (text,), _ in rows:
            prompt = f"{text}\n\nQ: Is this tweet positive?\nA:"
            yield Example(prompt=prompt, label=label, group=normal(text))
