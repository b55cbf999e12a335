"""Heads that read a part of a model, on every supported family."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.w2s.models.test_classifier import FAMILIES, rows, tiny
from w2s.errors import UserError
from w2s.losses.xent import Xent
from w2s.models.classifier import Classifier, load_classifier, prepare_backbone, save_classifier
from w2s.models.part import cut_after, drawn, narrow_head
from w2s.training.batching import TokenRows
from w2s.training.config import TrainConfig
from w2s.training.loop import finetune


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_cut_after_a_block_reads_its_output_through_the_last_norm(
    tmp_path: Path, family: str
) -> None:
    ids, mask = rows()
    if family == "roberta":
        ids = ids.masked_fill(mask == 0, 1)
    backbone = prepare_backbone(tiny(family))
    cut_after(backbone, 1)
    classifier = Classifier.fresh(backbone, 2, seed=1)
    read = classifier.read(ids, mask)

    whole = tiny(family)
    states = whole(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    place = mask.sum(1) - 1 if classifier.causal else torch.zeros(3, dtype=torch.long)
    hidden = states[1][torch.arange(3), place]
    for name in ("norm", "ln_f", "final_layer_norm"):
        if hasattr(whole, name):
            hidden = getattr(whole, name)(hidden)
    if family == "opt":
        hidden = whole.get_submodule("decoder.final_layer_norm")(hidden)
    torch.testing.assert_close(read, hidden, atol=1e-5, rtol=1e-4)

    save_classifier(classifier, tmp_path)
    loaded = load_classifier(tmp_path)
    torch.testing.assert_close(loaded(ids, mask), classifier(ids, mask))
    assert loaded.backbone.config.num_hidden_layers == 1


@pytest.mark.parametrize("layer", [0, 3])
def test_a_block_that_is_not_there_is_refused(layer: int) -> None:
    with pytest.raises(UserError, match="of 2 blocks has 1 to 2, and -1 for the last"):
        cut_after(prepare_backbone(tiny("llama")), layer)


def test_floor_of_the_share_is_drawn_by_seed_and_at_least_one() -> None:
    assert [int(drawn(10, share, 0).sum()) for share in (0.1, 0.3, 0.55, 0.7, 0.01)] == [
        1, 3, 5, 7, 1,
    ]  # fmt: skip
    assert int(drawn(1024, 0.3, 0).sum()) == 307
    assert torch.equal(drawn(100, 0.5, 1), drawn(100, 0.5, 1))
    assert not torch.equal(drawn(100, 0.5, 1), drawn(100, 0.5, 2))


def test_dimensions_that_are_not_read_stay_unread_and_unlearnt() -> None:
    classifier = Classifier.fresh(prepare_backbone(tiny("llama")), 2, seed=1)
    narrow_head(classifier, 0.3, seed=5)
    unread = drawn(16, 0.3, seed=5) == 0
    texts = TokenRows.from_lists([[5, 3, 9], [7, 3, 3, 8], [2, 11], [4, 4, 1]])
    before = classifier.head.weight.detach().clone()
    config = TrainConfig(learning_rate=1e-2, epochs=5, batch_size=2, weight_decay=0.1)
    finetune(classifier, texts, np.eye(2)[[0, 1, 1, 0]], Xent(), config, seed=0)
    after = classifier.head.weight.detach()
    assert not before[:, unread].any()
    assert not after[:, unread].any()
    assert (after[:, ~unread] != before[:, ~unread]).all()

    hidden = torch.randn(3, 16, requires_grad=True)
    classifier.head(hidden).sum().backward()
    assert hidden.grad is not None
    assert not hidden.grad[:, unread].any()
