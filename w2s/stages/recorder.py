"""What a training writes beside its predictions, and the choice among its checkpoints.

`CheckpointRecorder` collects predictions of `val` and `test` along the way and compares those of
`val` with the labels it was given: the share of rows on which the most probable classes are the
same, ties to the earlier. It writes `checkpoints.parquet`: step, epoch, split, row_id, logprob_0,
...

N rows, C classes.
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from w2s.stages.checkpoints import CHECKPOINTS_FILE, TRAINING_FILE
from w2s.stages.predictions import Targets


class CheckpointRecorder:
    """Predictions along one training."""

    def __init__(
        self,
        index: pd.DataFrame,
        val_targets: Targets | None,
        choice: Literal["last", "best_val"],
        epochs: int,
    ) -> None:
        """Expect predictions of the rows of `index`.

        Args:
            index: split and row_id of N rows of `val` and `test`.
            val_targets: labels of those of `val`, in order; None: checkpoints are not compared.
            choice: which one is selected.
            epochs: of the whole training.
        """
        assert choice == "last" or val_targets is not None
        self.best_step: int | None = None
        """Steps taken at the checkpoint that agrees best with the labels of `val`, so far."""
        self._index = index[["split", "row_id"]]
        self._in_val = (index["split"] == "val").to_numpy()
        self._val_targets = val_targets
        self._choice = choice
        self._epochs = epochs
        self._best_agreement = -1.0
        self._epoch_of: dict[int, float] = {}
        self._logprobs: dict[int, NDArray[np.float32]] = {}

    def add(self, step: int, num_steps: int, logprobs_NC: NDArray[np.float32]) -> dict[str, float]:
        """Take in a checkpoint; returns its `val_agreement` where there are labels of `val`."""
        self._epoch_of[step] = step / num_steps * self._epochs
        self._logprobs[step] = logprobs_NC
        if self._val_targets is None:
            return {}
        labels_N = self._val_targets.probabilities_NC.argmax(1)
        same_N = logprobs_NC[self._in_val].argmax(1) == labels_N
        agreement = float(same_N[self._val_targets.weights_N > 0].mean())
        if agreement > self._best_agreement:
            self._best_agreement, self.best_step = agreement, step
        return {"val_agreement": agreement}

    def keeps(self, step: int) -> bool:
        """Whether the weights at this step would be chosen if the training ended here."""
        return self._choice == "best_val" and self.best_step == step

    def selected_step(self, num_steps: int) -> int:
        """Steps taken at the checkpoint that the predictions are of."""
        return num_steps if self.best_step is None or self._choice == "last" else self.best_step

    def logprobs_at(self, step: int) -> NDArray[np.float32] | None:
        """Log-probabilities [N, C] of a checkpoint; None: there was none at this step."""
        return self._logprobs.get(step)

    def state_dict(self) -> dict[str, Any]:
        """The checkpoints so far."""
        import torch

        return {
            "best_step": self.best_step,
            "best_agreement": self._best_agreement,
            "steps": list(self._logprobs),
            "epochs": list(self._epoch_of.values()),
            "logprobs": [torch.from_numpy(found_NC) for found_NC in self._logprobs.values()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after these checkpoints."""
        self.best_step, self._best_agreement = state["best_step"], state["best_agreement"]
        self._epoch_of = dict(zip(state["steps"], state["epochs"], strict=True))
        found = (logprobs_NC.numpy() for logprobs_NC in state["logprobs"])
        self._logprobs = dict(zip(state["steps"], found, strict=True))

    def write(self, folder: Path) -> None:
        """Write `checkpoints.parquet`, if there was a checkpoint."""
        frames = [
            self._index.assign(
                step=step,
                epoch=self._epoch_of[step],
                **{f"logprob_{c}": logprobs_NC[:, c] for c in range(logprobs_NC.shape[1])},
            )
            for step, logprobs_NC in self._logprobs.items()
        ]
        if frames:
            frame = pd.concat(frames, ignore_index=True)
            frame.to_parquet(folder / CHECKPOINTS_FILE, index=False)


def write_training(
    folder: Path,
    recorder: CheckpointRecorder,
    *,
    num_steps: int,
    num_parameters: int,
    num_non_embedding: int,
    num_trainable: int,
    num_tokens: int,
    training_flops: float,
    member_weights: list[float] | None = None,
) -> None:
    """Write `training.json`: the steps that were chosen, and how much was trained and read.

    Args:
        folder: artifact folder.
        recorder: of the training.
        num_steps: optimizer steps.
        num_parameters: of the classifier, head included.
        num_non_embedding: of these, all but tables of words and positions.
        num_trainable: parameters that had a gradient.
        num_tokens: tokens read, without padding; 0 for a probe.
        training_flops: operations of forward and backward passes; 0 where they were not counted.
        member_weights: learned weights of an ensemble's members at the end; None: none are learned.
    """
    numbers: dict[str, float | list[float] | None] = {
        "selected_step": recorder.selected_step(num_steps),
        "best_val_step": recorder.best_step,
        "last_step": num_steps,
        "num_parameters": num_parameters,
        "num_non_embedding": num_non_embedding,
        "num_trainable": num_trainable,
        "num_tokens": num_tokens,
        "training_flops": training_flops,
    }
    if member_weights is not None:
        numbers["member_weights"] = member_weights
    (folder / TRAINING_FILE).write_text(json.dumps(numbers, indent=1), encoding="utf-8")
