"""Supervisors in rounds: each learns what the ones before have wrong (Sang et al. 2024, boosting).

A round is a supervisor and a stage that reads its predictions of `weak_train`: what that leaves is
the truth artifact which the next supervisor learns, with other weights (`Reweighted`, AdaBoost) or
with what is said already as offsets (`Residual`, gradient boosting). So five rounds beside three
share the first three.

N rows, C classes, T rounds.
"""

import json
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny

from w2s.spec import Spec
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import LABELS_FILE, GroundTruth, read_truth
from w2s.stages.ensemble import ENSEMBLE_FILE, joined_members
from w2s.stages.labels import SMALLEST_PROBABILITY, probabilities_of
from w2s.stages.predictions import write_predictions
from w2s.stages.resample import weights_of

Form = Literal["textbook", "published"]
ROUND_FILE = "round.json"
SMALLEST_VOTE = 1e-6
"""A vote below is that of chance: weights are kept with seven digits."""


class Round(Spec):
    """What a round of AdaBoost came to."""

    error: float
    """Share of wrong rows: weighted, of the rows that were learnt (textbook); of rows held out from
    learning, each counted once (published)."""
    vote: float
    """Weight of the round's supervisor in the ensemble."""
    stopped: bool
    """Whether boosting ended in this round or before: all later votes are 0."""


class Reweighting(NamedTuple):
    """Weights for the next round."""

    weights_N: NDArray[np.float64]
    """Sample weights."""
    round: Round
    """How this round went."""


def textbook_round(
    weights_N: NDArray[np.float64], wrong_N: NDArray[np.bool_], num_classes: int
) -> Reweighting:
    """AdaBoost with C classes (Freund and Schapire 1997; SAMME, Zhu et al. 2009).

    The error e is the weight of the wrong rows over that of all, the vote
    (log((1 - e) / e) + log(C - 1)) / 2, with two classes the usual half of the log-odds. Weights of
    wrong rows grow by exp(vote), those of right rows shrink by it; then they are scaled to a mean
    of 1 over the rows that have any. Boosting stops with a round no better than chance, whose vote
    is 0, and after a round without error, which counts as half a row of N.
    """
    learnt_N = weights_N > 0
    least = 0.5 / max(1, int(learnt_N.sum()))
    error = float(weights_N[wrong_N].sum() / weights_N.sum())
    bounded = max(error, least)
    vote = 0.5 * float(np.log((1 - bounded) / bounded) + np.log(num_classes - 1))
    if vote < SMALLEST_VOTE:
        return Reweighting(weights_N, Round(error=error, vote=0.0, stopped=True))
    if error == 0:
        return Reweighting(weights_N, Round(error=error, vote=vote, stopped=True))
    changed_N = weights_N * np.exp(np.where(wrong_N, vote, -vote))
    scaled_N = changed_N / changed_N[learnt_N].mean()
    return Reweighting(scaled_N, Round(error=error, vote=vote, stopped=False))


def published_round(
    weights_N: NDArray[np.float64], wrong_N: NDArray[np.bool_], error: float, num_held_out: int
) -> Reweighting:
    """AdaBoost as the code of Sang et al. (2024) has it.

    The error e comes from held-out rows, each counted once. Weights of right rows are multiplied by
    1 / (2 (1 - e)), those of wrong rows by 1 / (2 e), and not scaled; the vote is log((1 - e) / e),
    below 0 for a supervisor worse than chance. Errors of 0 and 1 count as half a row.
    """
    least = 0.5 / num_held_out
    bounded = min(max(error, least), 1 - least)
    factors_N = np.where(wrong_N, 1 / (2 * bounded), 1 / (2 * (1 - bounded)))
    vote = float(np.log((1 - bounded) / bounded))
    return Reweighting(weights_N * factors_N, Round(error=error, vote=vote, stopped=False))


class Reweighted(Stage):
    """Truth of `weak_train` with the weights of the next round of AdaBoost."""

    labels: SerializeAsAny[Stage]
    """Truth of `weak_train` as the round's supervisor learnt it."""
    predictions: SerializeAsAny[Stage]
    """The round's supervisor, with predictions of `weak_train`."""
    form: Form
    """Which AdaBoost: the textbook's, or that of the published code."""
    held_out: GroundTruth | None = None
    """Truth of `val` for the error of the published form; None for the textbook's."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"reweighted-{self.form}"

    def run(self, context: StageContext) -> None:
        """Write `labels.parquet` (split, row_id, label, weight) and `round.json`."""
        truth = read_truth(context.path(self.labels))
        weights_N = weights_of(truth)
        folder = context.path(self.predictions)
        probabilities_NC = probabilities_of(folder, truth["row_id"].tolist(), "weak_train")
        wrong_N = probabilities_NC.argmax(1) != truth["label"].to_numpy()
        before = context.path(self.labels) / ROUND_FILE
        if before.exists() and Round.model_validate_json(before.read_text()).stopped:
            result = Reweighting(weights_N, Round(error=0.0, vote=0.0, stopped=True))
        elif self.form == "textbook":
            result = textbook_round(weights_N, wrong_N, probabilities_NC.shape[1])
        else:
            assert self.held_out is not None
            val = read_truth(context.path(self.held_out))
            predicted_NC = probabilities_of(folder, val["row_id"].tolist(), "val")
            error = float((predicted_NC.argmax(1) != val["label"].to_numpy()).mean())
            result = published_round(weights_N, wrong_N, error, len(val))
        frame = truth.assign(weight=result.weights_N.astype(np.float32))
        frame.to_parquet(context.output_dir / LABELS_FILE, index=False)
        (context.output_dir / ROUND_FILE).write_text(result.round.model_dump_json(indent=1))


class Boosted(Stage):
    """The supervisors of all rounds of AdaBoost, weighed by their votes."""

    members: tuple[SerializeAsAny[Stage], ...] = Field(min_length=1)
    """The supervisors, first round first."""
    rounds: tuple[Reweighted, ...]
    """What their rounds came to."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"boosted-{len(self.members)}"

    def run(self, context: StageContext) -> None:
        """Write the combined predictions, and `ensemble.json`: errors and votes."""
        rounds = [_read_round(context.path(stage)) for stage in self.rounds]
        joined = joined_members(context, self.members)
        votes_T = np.array([each.vote for each in rounds])
        notes = {
            "num_members": len(rounds),
            "errors": [each.error for each in rounds],
            "votes": votes_T.tolist(),
            "stopped": [each.stopped for each in rounds],
        }
        (context.output_dir / ENSEMBLE_FILE).write_text(json.dumps(notes, indent=1))
        write_predictions(
            context.output_dir,
            joined.index["split"].tolist(),
            joined.index["row_id"].tolist(),
            np.log(np.maximum(voted(votes_T, joined.probabilities_MNC), SMALLEST_PROBABILITY)),
        )


def voted(
    votes_T: NDArray[np.float64], probabilities_TNC: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Class probabilities [N, C]: the votes' weighted sum F of softmaxes, scaled to sum to 1.

    Where a vote is below 0, a row of F may be too: the row is then raised until its smallest class
    is at 0, which leaves the order of the classes as it is. Without any vote the first round stands
    alone.
    """
    if not votes_T.any():
        return probabilities_TNC[0]
    sums_NC = np.tensordot(votes_T, probabilities_TNC, axes=1)
    raised_NC = sums_NC - np.minimum(0.0, sums_NC.min(1, keepdims=True))
    totals_N1 = raised_NC.sum(1, keepdims=True)
    equal_NC = np.full_like(raised_NC, 1 / raised_NC.shape[1])
    return np.divide(raised_NC, totals_N1, out=equal_NC, where=totals_N1 > 0)


def _read_round(folder: Path) -> Round:
    return Round.model_validate_json((folder / ROUND_FILE).read_text())


class Residual(Stage):
    """Truth of `weak_train`, with what the rounds so far say as offsets of the logits."""

    labels: SerializeAsAny[Stage]
    """Truth of `weak_train` as the first round learnt it: no offsets, maybe weights."""
    members: tuple[SerializeAsAny[Stage], ...] = Field(min_length=1)
    """The supervisors of all rounds so far, with predictions of `weak_train`."""
    shrinkage: float = Field(gt=0, le=1)
    """Factor of what every round but the first adds."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"residual-{len(self.members)}"

    def run(self, context: StageContext) -> None:
        """Write `labels.parquet` (split, row_id, label[, weight], offset_0 ... offset_{C-1})."""
        truth = read_truth(context.path(self.labels))
        row_ids = truth["row_id"].tolist()
        probabilities_TNC = np.stack(
            [probabilities_of(context.path(each), row_ids, "weak_train") for each in self.members]
        )
        logits_NC = summed_logits(probabilities_TNC, self.shrinkage)
        offsets = {f"offset_{c}": logits_NC[:, c] for c in range(logits_NC.shape[1])}
        frame = truth.assign(**{name: each.astype(np.float32) for name, each in offsets.items()})
        frame.to_parquet(context.output_dir / LABELS_FILE, index=False)


def summed_logits(probabilities_TNC: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    """F = f_1 + shrinkage (f_2 + ... + f_T), [N, C], each f the log-probabilities of a round.

    Their mean over the classes is taken off: it has no part in a softmax.
    """
    logprobs_TNC = np.log(np.maximum(probabilities_TNC, SMALLEST_PROBABILITY))
    factors_T = np.full(len(logprobs_TNC), shrinkage)
    factors_T[0] = 1.0
    sums_NC = np.tensordot(factors_T, logprobs_TNC, axes=1)
    return sums_NC - sums_NC.mean(1, keepdims=True)
