from collections.abc import Iterator
from itertools import repeat

import pytest
import torch

from w2s.almanac.language import language
from w2s.almanac.world import World
from w2s.corpora.base import NO_TARGET, Criterion, Phase, RowGroup
from w2s.errors import CriterionMissed
from w2s.models.architecture import Architecture
from w2s.training.optim import LearningRates, Muon, orthogonalize
from w2s.training.parallel import Replicas
from w2s.training.pretraining import CurvePoint, group_loss, hidden_states, pretrain

TOKENIZER = language(World(num_quiz=8, num_dev=8)).tokenizer()
TINY = Architecture(hidden_size=16, num_heads=1, num_layers=2, intermediate_size=16)


def model(seed: int = 0):
    return TINY.build(TOKENIZER, seed)


def rows(seed: int = 0, count: int = 8) -> RowGroup:
    generator = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(20, 60, (count, 5), generator=generator)
    targets_BT = torch.full_like(ids_BT, NO_TARGET)
    targets_BT[:, 3] = ids_BT[:, 4]
    targets_BT[::2, 1] = ids_BT[::2, 2]
    return RowGroup(ids_BT, targets_BT, early_exit_BT=targets_BT != NO_TARGET)


def phase(**fields) -> Phase:
    def updates(seed: int) -> Iterator[list[RowGroup]]:
        yield from repeat([rows(seed)])

    defaults = {
        "name": "read",
        "updates": updates,
        "learning_rates": LearningRates(embedding=1e-2),
        "max_steps": 40,
        "warmup_steps": 2,
        "cooldown_steps": 10,
    }
    return Phase(**{**defaults, **fields})


def run(phases: list[Phase], seed: int = 0) -> tuple[torch.nn.Module, list[CurvePoint], list[int]]:
    trained, steps = model(), []
    curve = pretrain(
        trained,
        phases,
        seed=seed,
        replicas=Replicas(),
        on_progress=lambda step, total, metrics: steps.append(step),
    )
    return trained, curve, steps


def measure(values: list[float]) -> Criterion:
    left = iter(values)
    return Criterion(
        evaluate=lambda _: {"recall": next(left)}, thresholds={"recall": 0.9}, check_every=5
    )


def test_a_phase_without_criterion_takes_its_steps_and_learns():
    _, curve, steps = run([phase()])
    assert steps[-1] == 40
    assert curve[-1].metrics["loss"] < 0.5 * curve[0].metrics["loss"]


def test_a_phase_cools_down_as_soon_as_its_criterion_holds():
    _, curve, _ = run([phase(criterion=measure([0.2, 0.95, 0.97]))])
    assert curve[-1].step == 20
    assert curve[-1].metrics == {"recall": 0.97}


def test_a_phase_that_reaches_its_cap_fails_loudly():
    with pytest.raises(
        CriterionMissed, match=r"'read' missed .* 40 steps: recall 0\.500 \(needs 0\.9\)"
    ):
        run([phase(criterion=measure([0.5] * 20))])


def test_a_cooldown_that_loses_the_criterion_fails_loudly():
    with pytest.raises(CriterionMissed, match=r"recall 0\.700"):
        run([phase(criterion=measure([0.95, 0.7]))])


def test_the_same_seed_trains_the_same_weights_and_another_does_not():
    first, again, other = run([phase()], 1)[0], run([phase()], 1)[0], run([phase()], 2)[0]
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(first.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))


def test_shares_of_two_replicas_add_up_to_the_loss_and_its_gradient():
    whole, parts, group = model(), model(), rows(count=7)
    expected = group_loss(whole, group, slice(0, 8), early_exit_weight=0.5)
    expected.backward()
    shares = [
        group_loss(parts, group, slice(4 * rank, 4 * rank + 4), early_exit_weight=0.5)
        for rank in range(2)
    ]
    sum(shares, torch.zeros(())).backward()
    assert sum(share.item() for share in shares) == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_loss_is_the_mean_over_labelled_tokens_as_transformers_computes_it():
    trained, group = model(), rows()
    logits_BTV = trained(input_ids=group.input_ids_BT).logits
    expected = torch.nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), group.targets_BT.flatten(), ignore_index=NO_TARGET
    )
    assert group_loss(trained, group, slice(0, 8)).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_the_early_exit_reads_what_enters_the_last_layer():
    trained, group = model(), rows()
    _, penultimate_BTD = hidden_states(trained, group.input_ids_BT)
    states = trained(input_ids=group.input_ids_BT, output_hidden_states=True).hidden_states
    torch.testing.assert_close(penultimate_BTD, states[-2])


def test_orthogonalized_matrices_have_singular_values_near_one():
    matrices_NRC = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
    singular_NR = torch.linalg.svdvals(orthogonalize(matrices_NRC))
    assert singular_NR.min() > 0.6
    assert singular_NR.max() < 1.3


def test_muon_takes_the_steps_of_torch_for_matrices_of_any_shape():
    torch.manual_seed(0)
    shapes = [(8, 20), (20, 8), (8, 20), (8, 8)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    batched = Muon(ours, lr=0.02, weight_decay=0.05)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.05, adjust_lr_fn="original")
    for _ in range(3):
        for mine, yours in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            yours.grad = mine.grad.clone()
        batched.step()
        reference.step()
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, yours, atol=2e-3, rtol=0)


def test_architecture_counts_the_parameters_it_builds():
    built = sum(parameter.numel() for parameter in model().parameters())
    assert TINY.num_parameters(len(TOKENIZER)) == built
