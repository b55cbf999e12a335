"""In-context prompting: a served base model labels rows from what its prompt shows.

No weight changes. For each row the model reads an instruction, demonstrations with labels and the
row, and the label words are scored as what comes next: nothing is sampled or parsed (Burns et al.
2023, section 5.2.1; Sang et al. 2024). A softmax over the scores is the prediction.

A prompt must fit the model's context. It is counted in the model's own tokens, label included; what
is too long loses demonstrations, the first ones first, and only then the beginning of its row's
text, never the instruction and never the row.

Scores are appended to `scores.jsonl` as they come, with the row ids of the demonstrations, so an
attempt after a crash asks only for what is missing.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from w2s.errors import UserError
from w2s.stages.asking import ask_scores
from w2s.stages.base import Lane, Requests, Stage, StageContext
from w2s.stages.data import Prompts, read_prompts
from w2s.stages.demos import Demonstrations, choose_nearest, choose_random, unit, word_vectors
from w2s.stages.features import read_features
from w2s.stages.models import Model, model_key
from w2s.stages.predictions import read_targets, write_predictions
from w2s.stages.window import cut_beginning, window_of
from w2s.tasks.base import Demo, PromptTemplate, shape_of
from w2s.types import Split

if TYPE_CHECKING:
    from pydantic import BaseModel

log = logging.getLogger(__name__)

FINISHED_FILE = "scores.jsonl"


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked about one row."""

    split: str
    row_id: str
    text: str
    """The whole prompt."""
    demos: tuple[str, ...]
    """Row ids of the demonstrations in it."""


class Prompted(Stage):
    """A language model's labels in context, zero-shot or with demonstrations."""

    lane: ClassVar[Lane] = "serve"

    model: Model
    """Language model that answers."""
    prompts: Prompts
    """The rows."""
    template: PromptTemplate
    """What it reads, and the words of the labels."""
    demos: Demonstrations | None = None
    """Labelled rows in each prompt; None: zero-shot."""
    splits: tuple[Split, ...] = ("strong_train", "val", "test")
    """Whose rows are asked about."""

    @property
    def name(self) -> str:
        """Readable name: model, how many demonstrations of which kind, seed."""
        model = self.model.name.removeprefix("pretrain-")
        if self.demos is None:
            return f"prompted-{model}-zero-shot"
        whose = "truth" if self.demos.labels.kind == "ground_truth" else "weak"
        how = f"{self.demos.number}-{self.demos.selection}-{whose}"
        return f"prompted-{model}-{how}-s{self.demos.seed}"

    @property
    def served_models(self) -> "tuple[Stage | BaseModel, ...]":
        """The model that answers."""
        return (self.model,)

    def cost(self) -> float:
        """Estimated seconds on one core: a forward pass over every prompt."""
        shape = shape_of(self.prompts.task)
        num_rows = sum(shape.num_rows[split] for split in self.splits)
        shown = 1 + (self.demos.number if self.demos else 0)
        flops = 2 * self.model.size() * shape.num_tokens * shown
        return num_rows * (0.002 + flops / 4e10)

    def requests(self) -> dict[str, Requests]:
        """Estimated requests: one a row."""
        shape = shape_of(self.prompts.task)
        number = sum(shape.num_rows[split] for split in self.splits)
        shown = 1 + (self.demos.number if self.demos else 0)
        read = int(number * shape.num_tokens * shown)
        return {model_key(self.model): Requests(number, read, number)}

    async def run(self, context: StageContext) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write `predictions.parquet` for the rows of `splits`.

        Raises:
            UserError: the template has not one label a class, or its instruction alone does not fit
            the model's context.
        """
        # The loop belongs to all stages of the lane: what takes long runs beside it.
        queries = await asyncio.to_thread(self.queries, context)
        done = await ask_scores(
            context.clients[model_key(self.model)],
            {query.row_id: query.text for query in queries},
            self.template.labels,
            context,
            context.output_dir / FINISHED_FILE,
            notes={query.row_id: {"demos": query.demos} for query in queries},
        )
        scores_NC = np.array([done[query.row_id] for query in queries])
        write_predictions(
            context.output_dir,
            [query.split for query in queries],
            [query.row_id for query in queries],
            scores_NC - np.logaddexp.reduce(scores_NC, axis=1, keepdims=True),
        )

    def queries(self, context: StageContext) -> list[Query]:
        """What is asked about every row of `splits`, in file order."""
        task = self.prompts.task
        if len(self.template.labels) != task.num_classes:
            raise UserError(
                f"the prompt template of task {task.kind!r} has {len(self.template.labels)} labels "
                f"for {task.num_classes} classes; give one a class"
            )
        frame = read_prompts(context.path(self.prompts))
        asked: Any = frame[frame["split"].isin(self.splits)].reset_index(drop=True)
        if self.demos is None:
            pool, chosen = [], [[] for _ in range(len(asked))]
        else:
            pool, chosen = self._demonstrations(context, frame, asked)
        fit = _Fit(self.template, *_limit(self.model, self.template, context))
        queries = [
            Query(split, row_id, *fit(prompt, [pool[position] for position in positions]))
            for split, row_id, prompt, positions in zip(
                asked["split"], asked["row_id"], asked["prompt"], chosen, strict=True
            )
        ]
        if fit.num_fewer or fit.num_cut:
            log.warning(
                "stage=%s of %d prompts %d lost demonstrations and %d the beginning of their text, "
                "to fit %d tokens",
                self.name,
                len(queries),
                fit.num_fewer,
                fit.num_cut,
                fit.max_tokens,
            )
        return queries

    def _demonstrations(
        self, context: StageContext, frame: pd.DataFrame, asked: pd.DataFrame
    ) -> "tuple[list[tuple[str, Demo]], list[list[int]]]":
        """The pool, as (row id, demonstration), and for each row the positions of its own."""
        demos = self.demos
        assert demos is not None
        pool: Any = frame[frame["split"] == "strong_train"]
        targets = read_targets(
            context.path(demos.labels),
            "strong_train",
            pool["row_id"].tolist(),
            self.prompts.task.num_classes,
        )
        kept_N = targets.weights_N > 0
        pool, targets_NC = pool[kept_N], targets.probabilities_NC[kept_N]
        labels_N, confidence_N = targets_NC.argmax(1), targets_NC.max(1)
        shown = [
            (row_id, Demo(prompt, int(label), float(sure) if demos.show_confidence else None))
            for row_id, prompt, label, sure in zip(
                pool["row_id"], pool["prompt"], labels_N, confidence_N, strict=True
            )
        ]
        groups_N, groups_Q = pool["group"].to_numpy(object), asked["group"].to_numpy(object)
        if demos.selection == "nearest":
            if demos.neighbours is None:
                vectors = word_vectors(pool["prompt"].tolist(), asked["prompt"].tolist())
            else:
                folder = context.path(demos.neighbours)
                vectors = _features(folder, pool), _features(folder, asked)
            return shown, choose_nearest(*vectors, groups_N, groups_Q, number=demos.number)
        return shown, [
            choose_random(labels_N, groups_N, row_id, group, number=demos.number, seed=demos.seed)
            for row_id, group in zip(asked["row_id"], groups_Q, strict=True)
        ]


class _Fit:
    """Renders prompts so that they fit, and counts those that did not."""

    def __init__(
        self, template: PromptTemplate, count: Callable[[str], int], max_tokens: int
    ) -> None:
        """Args: count: tokens of a prompt and a label. max_tokens: of the two together."""
        self._template = template
        self._count = count
        self.max_tokens = max_tokens
        self.num_fewer = self.num_cut = 0
        if (least := count(template.render(""))) >= max_tokens:
            raise UserError(
                f"the instruction and a label take {least} tokens, the model reads {max_tokens}; "
                "shorten the instruction or take a model that reads more"
            )

    def __call__(
        self, prompt: str, demos: "Sequence[tuple[str, Demo]]"
    ) -> tuple[str, tuple[str, ...]]:
        """The text, and the row ids of the demonstrations that are in it."""
        left = list(demos)
        text = self._render(prompt, left)
        while (over := self._over(text)) and left:
            left.pop(0)
            text = self._render(prompt, left)
        self.num_fewer += len(left) < len(demos)
        self.num_cut += over > 0
        while over:
            own = self._count(self._render(prompt, [])) - self._count(self._render("", []))
            prompt = cut_beginning(prompt, over, own)
            text = self._render(prompt, left)
            over = self._over(text)
        return text, tuple(row_id for row_id, _ in left)

    def _render(self, prompt: str, demos: "Sequence[tuple[str, Demo]]") -> str:
        return self._template.render(prompt, [demo for _, demo in demos])

    def _over(self, text: str) -> int:
        return max(0, self._count(text) - self.max_tokens)


def _limit(
    model: Model, template: PromptTemplate, context: StageContext
) -> tuple[Callable[[str], int], int]:
    """How a prompt is counted with its longest label, and the most tokens of both together."""
    window = window_of(model, context)
    longest = max(template.labels, key=lambda label: window.count(template.render("") + label))
    return lambda text: window.count(text + longest), window.max_tokens


def _features(folder: Path, rows: pd.DataFrame) -> Any:
    """Unit feature vectors [N, D] of rows, joined by (split, row_id)."""
    table = read_features(folder)
    index = pd.MultiIndex.from_arrays([table.index["split"], table.index["row_id"]])
    positions = index.get_indexer(
        pd.MultiIndex.from_arrays([rows["split"], rows["row_id"]])  # pyright: ignore[reportArgumentType]
    )
    if (positions < 0).any():
        raise ValueError(f"{int((positions < 0).sum())} rows have no features in {folder.name}")
    return unit(table.features[positions].numpy())
