"""What a model knows and can do, measured on people it never practised on.

Each probe reads rows and returns a share of right answers. `recall` asks for facts, `customs` for
customs, `verdict` for yes or no on statements, `check` for yes or no at the end of a debate frame.

B rows, T tokens.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from w2s.almanac import language as words
from w2s.almanac.rows import Writer
from w2s.corpora.base import NO_TARGET, RowGroup

_ROWS_AT_ONCE = 512


def accuracy(model: PreTrainedModel, group: RowGroup) -> float:
    """Share of a group's targets that are the model's most likely next token."""
    right = total = 0
    for ids_BT, targets_BT in _parts(group, model.device):
        hidden_BTD = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        labelled_BT = targets_BT != NO_TARGET
        guesses_K = model.get_submodule("lm_head")(hidden_BTD[labelled_BT]).argmax(-1)
        right += int((guesses_K == targets_BT[labelled_BT]).sum())
        total += int(labelled_BT.sum())
    return right / max(total, 1)


def recall(
    model: PreTrainedModel, writer: Writer, people: range, *, rare: bool, read: bool = True
) -> float:
    """Share of facts about people that the model completes, of those it has read (or not)."""
    known_EP = writer.library.rare_EP if rare else writer.library.common_EP
    selected = np.argwhere(known_EP[people.start : people.stop] == read)
    people_B, pair_B = selected[:, 0] + people.start, selected[:, 1]
    value_EP = writer.facts.rare_EP if rare else writer.facts.common_EP
    ids_BT = writer.questions(people_B, pair_B, value_EP[people_B, pair_B], rare=rare)
    targets_BT = np.full_like(ids_BT, NO_TARGET)
    targets_BT[:, -2] = ids_BT[:, -1]
    return accuracy(model, RowGroup(torch.from_numpy(ids_BT), torch.from_numpy(targets_BT)))


def verdict(
    model: PreTrainedModel, writer: Writer, people: range, *, rare: bool, read: bool = True
) -> float:
    """Share of right verdicts on true and false statements of facts it has read (or not)."""
    known_EP = writer.library.rare_EP if rare else writer.library.common_EP
    selected = np.argwhere(known_EP[people.start : people.stop] == read)
    people_B, pair_B = np.tile(selected[:, 0] + people.start, 2), np.tile(selected[:, 1], 2)
    value_EP = writer.facts.rare_EP if rare else writer.facts.common_EP
    true_B = np.arange(len(people_B)) < len(selected)
    rng = np.random.default_rng(0)
    shift_B = np.where(true_B, 0, rng.integers(1, writer.world.num_values, size=len(people_B)))
    value_B = (value_EP[people_B, pair_B] + shift_B) % writer.world.num_values
    ids_BT = writer.questions(people_B, pair_B, value_B, rare=rare)
    return accuracy(model, _judged(writer, ids_BT, true_B))


def check(model: PreTrainedModel, writer: Writer, people: range, count: int = 400) -> float:
    """Share of right verdicts on the closing statement of random debate frames."""
    group = writer.checks(np.random.default_rng(0), count, people)
    targets_BT = torch.full_like(group.targets_BT, NO_TARGET)
    targets_BT[:, -1] = group.targets_BT[:, -1]
    return accuracy(model, RowGroup(group.input_ids_BT, targets_BT))


def customs(model: PreTrainedModel, writer: Writer, *, read: bool = True) -> float:
    """Share of customs that the model completes, among those its library holds (or lacks)."""
    selected = np.argwhere(writer.library.custom_PFV == read)
    return accuracy(model, writer.customs_of(selected, np.arange(len(selected)) % 2 == 0))


def _judged(writer: Writer, ids_BT: np.ndarray, true_B: np.ndarray) -> RowGroup:
    yes, no = writer.language.id(words.YES), writer.language.id(words.NO)
    targets_BT = np.full_like(ids_BT, NO_TARGET)
    targets_BT[:, -1] = np.where(true_B, yes, no)
    return RowGroup(torch.from_numpy(ids_BT), torch.from_numpy(targets_BT))


def _parts(group: RowGroup, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(group.input_ids_BT), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        yield group.input_ids_BT[rows].to(device), group.targets_BT[rows].to(device)
