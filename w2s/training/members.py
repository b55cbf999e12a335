"""Learning several labels of a row at once: the loss of each, weighed and added up.

sum_m w_m L(z, y_m) (Cui et al. 2024, "multi-weak"; with an evidential L their Bayesian weighting).
The student reads a row once: its logits go to the loss with each member's labels in turn, so every
loss takes members, and none knows of them. Weights are given row by row, or one vector is learnt:
its gradient is the mean loss of each member's labels, added up over the parts of an update and over
replicas like any other gradient.

B rows of a part, N rows in all, M members, C classes, T tokens.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from w2s.losses.base import Batch, Loss
from w2s.training.checkpointing import State
from w2s.training.parallel import Replicas
from w2s.types import LossOutput
from w2s.weightings.base import Weighting


class MemberWeights:
    """How much each member's label counts; a learned vector moves as training goes on."""

    def __init__(
        self, weighting: Weighting, weights_NM: NDArray[np.floating], device: str = "cpu"
    ) -> None:
        """Start from the weights of N rows.

        Args:
            weighting: what they are from; of a learned one all rows start alike.
            weights_NM: in the order of the rows.
            device: of the training.
        """
        self._weighting = weighting
        self._weights_NM = torch.as_tensor(np.asarray(weights_NM), dtype=torch.float32)
        self._learned_M = self._weights_NM[0].to(device) if weighting.learned else None
        self._gradient_M = torch.zeros(self._weights_NM.shape[1], device=device)

    @property
    def learned(self) -> list[float] | None:
        """The learned weights as they are now; None: they are given."""
        return None if self._learned_M is None else self._learned_M.tolist()

    @property
    def metrics(self) -> dict[str, float | Tensor]:
        """The learned weights for the curve."""
        if self._learned_M is None:
            return {}
        return {f"member_{m}_weight": weight for m, weight in enumerate(self._learned_M)}

    def of(self, rows_B: Tensor) -> Tensor:
        """Weights [B, M] of rows."""
        if self._learned_M is not None:
            return self._learned_M.expand(len(rows_B), -1)
        return self._weights_NM.index_select(0, rows_B).to(self._gradient_M.device)

    def add(self, gradient_M: Tensor) -> None:
        """Count a part of an update: its summand of the mean loss of each member's labels."""
        self._gradient_M += gradient_M

    def restart(self) -> None:
        """Count no part of this update so far."""
        self._gradient_M.zero_()

    def state_dict(self) -> State:
        """The learned weights, between two updates."""
        return {"learned": self._learned_M}

    def load_state_dict(self, state: State) -> None:
        """Go on from learned weights."""
        if self._learned_M is not None:
            self._learned_M = state["learned"].to(self._gradient_M.device)

    def step(self, epoch: int, replicas: Replicas) -> None:
        """End an update."""
        if self._learned_M is not None:
            gradient_M = replicas.sum(self._gradient_M)
            self._learned_M = self._weighting.update(self._learned_M, gradient_M, epoch)
        self._gradient_M = torch.zeros_like(self._gradient_M)


class Objective:
    """A loss of one label a row, or of several where there are members."""

    def __init__(self, loss: Loss, members: MemberWeights | None) -> None:
        """Take in the loss and, for targets [N, M, C], the weights of the M members."""
        self._loss = loss
        self._members = members

    def __call__(
        self, model: nn.Module, batch: Batch, rows_B: Tensor, shares_B: Tensor, progress: float
    ) -> LossOutput:
        """Loss of one part of an update.

        Args:
            model: as a loss gets it.
            batch: the part; with members its targets are [B, M, C] and [N, M, C].
            rows_B: numbers of its rows.
            shares_B: what the trainer will multiply their losses by.
            progress: as a loss gets it.
        """
        if self._members is None:
            return self._loss(model, batch, progress)
        once = _Once(model)
        outputs = [
            self._loss(once, _of_member(batch, member), progress)
            for member in range(batch.targets_BC.shape[1])
        ]
        losses_BM = torch.stack([output.losses_B for output in outputs], 1).float()
        weights_BM = self._members.of(rows_B)
        # No matrix product: half-precision contexts would round it.
        self._members.add((shares_B.unsqueeze(1) * losses_BM.detach()).sum(0))
        metrics = self._members.metrics
        for output, weight in zip(outputs, weights_BM.mean(0), strict=True):
            for name, value in output.metrics.items():
                metrics[name] = metrics.get(name, 0.0) + weight * value
        return LossOutput((losses_BM * weights_BM).sum(1), metrics)

    @property
    def metrics(self) -> dict[str, float | Tensor]:
        """What is learnt beside the model, for the curve."""
        return {} if self._members is None else self._members.metrics

    def restart(self) -> None:
        """Count no part of this update so far: it is gone through again."""
        if self._members is not None:
            self._members.restart()

    def step(self, epoch: int, replicas: Replicas) -> None:
        """End an update: learned weights move.

        Args:
            epoch: passes over the rows that are complete.
            replicas: those that train together.
        """
        if self._members is not None:
            self._members.step(epoch, replicas)


class _Once(nn.Module):
    """A model that reads a part once, however often it is asked about it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._known: tuple[Tensor, Tensor] | None = None

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Logits [B, C]."""
        if self._known is None or self._known[0] is not input_ids_BT:
            self._known = input_ids_BT, self._model(input_ids_BT, attention_mask_BT)
        return self._known[1]


def _of_member(batch: Batch, member: int) -> Batch:
    """The part with one member's labels."""
    whole = batch.whole_targets_NC
    return replace(
        batch,
        targets_BC=batch.targets_BC[:, member],
        whole_targets_NC=None if whole is None else whole[:, member],
    )
