"""The state of a training in the middle: what is saved now and then, and restored bit by bit.

Whoever holds a part of the state is a `Stateful`: the weights, the optimizer, the place in the data
order, the curve, random numbers. `Resumption` gathers the parts, asks `Checkpoints` (of whoever
runs the stage) whether one is due, and puts everything back where an earlier attempt left a
checkpoint. A state is nested dicts and lists of JSON values and tensors; it is stored as tensors
and JSON, nothing is ever unpickled.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from w2s.errors import UnusableCheckpoint
from w2s.training.parallel import Replicas
from w2s.training.sharding import laid_out_like, trained, whole

TENSOR = "tensor:"
"""Begins the string that stands for a tensor in the JSON half of a state."""

State = dict[str, Any]


class Stateful(Protocol):
    """Something with a state that a checkpoint keeps."""

    def state_dict(self) -> State:
        """Nested dicts (with string keys) and lists of JSON values and tensors."""
        ...

    def load_state_dict(self, state: State) -> Any:
        """Take such a state back; its tensors are on the CPU."""
        ...


class Checkpoints(Protocol):
    """Where the checkpoints of one stage go; made by whoever runs it."""

    def due(self) -> bool:
        """Whether it is time for the next one. Never true on a replica that does not write."""
        ...

    def save(self, tensors: dict[str, Tensor], facts: State) -> None:
        """Keep this state instead of the one before; soon, not at once.

        Args:
            tensors: on the CPU; nobody will change them.
            facts: JSON values.
        """
        ...

    def load(self) -> tuple[dict[str, Tensor], State] | None:
        """The newest state that an earlier attempt kept; None: there is none."""
        ...


class Resumption:
    """The checkpoints of one training: every replica makes one, with equal parts."""

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        parts: Mapping[str, Stateful],
        replicas: Replicas,
        device: str,
    ) -> None:
        """Gather the parts.

        Args:
            checkpoints: where they go; None: nowhere.
            parts: what makes up the state, by name.
            replicas: those that train together; the first one reads and writes.
            device: of this replica.
        """
        self._checkpoints = checkpoints
        self._parts = {"random": _RandomNumbers(device), **parts}
        self._replicas = replicas
        self._device = device

    def restore(self) -> bool:
        """Put all parts into the state of the last checkpoint; False: there is none.

        Raises:
            UnusableCheckpoint: it is not of this training.
        """
        if self._checkpoints is None:
            return False
        found = self._checkpoints.load()
        if self._replicas.size > 1:
            found = _from_first(found, self._device)
        if found is None:
            return False
        try:
            state = unpack(*found)
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
        except (KeyError, ValueError, RuntimeError, TypeError, IndexError) as error:
            raise UnusableCheckpoint(f"a checkpoint does not fit its training: {error}") from error
        return True

    def save_if_due(self) -> None:
        """Keep the state of all parts, if it is time; every replica calls this between updates."""
        if self._checkpoints is None:
            return
        due = self._checkpoints.due()
        if self._replicas.sharded:
            # Only all together can bring the parts of a tensor into one place.
            due = bool(self._replicas.sum(torch.tensor(float(due), device=self._device)))
        if due:
            packed = pack({name: part.state_dict() for name, part in self._parts.items()})
            if self._replicas.rank == 0:
                self._checkpoints.save(*packed)


@dataclass(slots=True)
class Position:
    """Where a training is in its order of updates."""

    steps: int = 0
    """Updates taken."""

    def state_dict(self) -> State:
        """The number of steps."""
        return {"steps": self.steps}

    def load_state_dict(self, state: State) -> None:
        """Go on after so many steps."""
        self.steps = state["steps"]


class Parameters:
    """The values of some parameters of a model."""

    def __init__(self, model: nn.Module) -> None:
        """Args: model: what requires a gradient is kept."""
        self._model = model

    def state_dict(self) -> State:
        """Values by name."""
        return {name: parameter.detach() for name, parameter in trained(self._model)}

    def load_state_dict(self, state: State) -> None:
        """Put the values back in place."""
        own = dict(trained(self._model))
        if own.keys() != state.keys():
            raise ValueError("it is of other parameters")
        with torch.no_grad():
            for name, parameter in own.items():
                if parameter.shape != state[name].shape:
                    raise ValueError(f"{name} has another shape")
                parameter.copy_(laid_out_like(state[name], parameter))


class Moments:
    """What an optimizer remembers of earlier steps; learning rates are not part of it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        """Args: optimizer: with all its parameters."""
        self._optimizer = optimizer

    def state_dict(self) -> State:
        """One entry a parameter, in the optimizer's order."""
        return {"moments": [dict(self._optimizer.state.get(p, {})) for p in self._parameters()]}

    def load_state_dict(self, state: State) -> None:
        """Remember what was saved."""
        pairs = zip(self._parameters(), state["moments"], strict=True)
        numbered = {
            index: {name: laid_out_like(value, parameter) for name, value in entry.items()}
            for index, (parameter, entry) in enumerate(pairs)
            if entry
        }
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": numbered})

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]


class _RandomNumbers:
    """The global random numbers of torch; data orders have generators of their own."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device.startswith("cuda")
        self._device = device

    def state_dict(self) -> State:
        state = {"cpu": torch.get_rng_state()}
        if self._on_gpu:
            state["cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def load_state_dict(self, state: State) -> None:
        torch.set_rng_state(state["cpu"])
        if self._on_gpu and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self._device)


def pack(state: State) -> tuple[dict[str, Tensor], State]:
    """A state as copies of its tensors on the CPU, by path, and the JSON values around them."""
    tensors: dict[str, Tensor] = {}

    def packed(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = whole(value).contiguous()
            return TENSOR + path
        if isinstance(value, Mapping):
            return {name: packed(item, f"{path}/{name}") for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [packed(item, f"{path}/{index}") for index, item in enumerate(value)]
        return value

    return tensors, {name: packed(value, name) for name, value in state.items()}


def unpack(tensors: Mapping[str, Tensor], facts: State) -> State:
    """The state that `pack` took apart.

    Raises:
        KeyError: a tensor is missing.
    """

    def unpacked(value: Any) -> Any:
        if isinstance(value, str) and value.startswith(TENSOR):
            return tensors[value.removeprefix(TENSOR)]
        if isinstance(value, Mapping):
            return {name: unpacked(item) for name, item in value.items()}
        if isinstance(value, list):
            return [unpacked(item) for item in value]
        return value

    return unpacked(facts)


def _from_first(
    found: tuple[dict[str, Tensor], State] | None, device: str
) -> tuple[dict[str, Tensor], State] | None:
    """What the first replica found, on all: the others may not even see the same files."""
    header: list[Any] = [None]
    tensors: dict[str, Tensor] = {}
    if found is not None:
        tensors, facts = found
        shapes = [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]
        header = [(facts, shapes)]
    dist.broadcast_object_list(header, src=0)
    if header[0] is None:
        return None
    facts, shapes = header[0]
    shared: dict[str, Tensor] = {}
    for name, shape, dtype in shapes:
        own = tensors.get(name)
        moved = torch.empty(shape, dtype=dtype) if own is None else own
        moved = moved.to(device)
        dist.broadcast(moved, src=0)
        shared[name] = moved.cpu()
    return shared, facts
