"""Checkpoints in memory, for trainings that are cut off and go on."""

import json
from typing import Any

import safetensors.torch
from torch import Tensor


class Killed(Exception):
    """Raised in the place of a kill, once a checkpoint is kept."""


class Memory:
    """Keeps one state, as bytes and JSON; the training that wrote it ends there."""

    def __init__(self, stop_after: int, ends: bool = True) -> None:
        """Keep a state once.

        Args:
            stop_after: number of the update after which it is kept, from 1; 0: never.
            ends: whether the training ends there; else it goes on undisturbed.
        """
        self._stop_after = stop_after
        self._ends = ends
        self._updates = 0
        self._kept: tuple[bytes, str] | None = None

    def due(self) -> bool:
        self._updates += 1
        return self._updates == self._stop_after

    def save(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self._kept = safetensors.torch.save(tensors), json.dumps(facts)
        if self._ends:
            raise Killed

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        if self._kept is None:
            return None
        return safetensors.torch.load(self._kept[0]), json.loads(self._kept[1])
