"""What every method with several supervisors promises, and how each makes its members."""

from dataclasses import replace

import pytest

from tests.w2s.methods.test_method_contract import finetuned, method, setup
from w2s.combiners.base import Combiner
from w2s.combiners.product import Product
from w2s.errors import UserError
from w2s.methods._boosted import Rounds
from w2s.methods._combined import MAX_MEMBERS, Combined
from w2s.methods.base import Method
from w2s.spec import available, parse
from w2s.stages.base import Stage, closure
from w2s.stages.boosting import Boosted, Residual
from w2s.stages.data import GroundTruth
from w2s.stages.debate import Debate
from w2s.stages.ensemble import Ensemble
from w2s.stages.finetune import Finetune
from w2s.stages.probe import Probe
from w2s.stages.resample import HeldOutTruth, ResampledTruth
from w2s.stages.setup import Setup
from w2s.training.config import TrainConfig
from w2s.types import SPLITS

ROUNDS = [kind for kind in available(Method) if isinstance(parse(Method, kind), Rounds)]
COMBINED = [kind for kind in available(Method) if isinstance(parse(Method, kind), Combined)]
METHODS = available(Method)
LEARNS_NOTHING = {"judge", "simulable_errors", "style_only"}
"""Methods whose supervisors are not finetuned on truth of `weak_train`."""
SIZES: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "bagging": ({"num_members": 2}, {"num_members": 4}),
    "debate_ensemble": ({"num_members": 2}, {"num_members": 4}),
    "ensemble": ({"num_seeds": 2}, {"num_seeds": 4}),
    "family_ensemble": ({"models": ["xs", "s"]}, {"models": ["xs", "s", "m"]}),
    "finetune_ensemble": ({"num_members": 2}, {"num_members": 4}),
}
"""A smaller and a larger ensemble of each kind."""
COMBINERS = {"weighted": {"kind": "weighted", "weights": [1.0, 3.0]}}


def combined(kind: str, **fields: object) -> Combined:
    found = method(kind, **fields)
    assert isinstance(found, Combined)
    return found


def ensemble_of(planned: Combined, here: Setup | None = None) -> Ensemble:
    supervision = planned.supervision(here or setup())
    assert isinstance(supervision, Ensemble)
    return supervision


def classifiers(*stages: Stage) -> list[Finetune | Probe]:
    return [each for each in closure(stages).values() if isinstance(each, Finetune | Probe)]


def keys(stages: tuple[Stage, ...]) -> list[str]:
    return [stage.key for stage in stages]


@pytest.mark.parametrize("kind", COMBINED)
def test_members_are_what_is_combined_and_all_differ(kind: str) -> None:
    planned = combined(kind)
    members = keys(planned.members(setup()))
    assert members == keys(ensemble_of(planned).members)
    assert len(set(members)) == len(members) >= 2


@pytest.mark.parametrize("kind", COMBINED)
def test_a_small_ensemble_beside_a_large_one_costs_nothing_at_any_seed(kind: str) -> None:
    small, large = (combined(kind, **fields) for fields in SIZES[kind])
    for seed in (0, 1, 5):
        few, many = keys(small.members(setup(seed))), keys(large.members(setup(seed)))
        assert few == many[: len(few)]
        assert len(few) < len(many)
        needed = closure(large.members(setup(seed))).keys()
        assert closure(small.members(setup(seed))).keys() <= needed


@pytest.mark.parametrize("kind", COMBINED)
def test_no_two_experiment_seeds_share_a_member(kind: str) -> None:
    planned = combined(kind, **SIZES[kind][1])
    by_seed = [set(keys(planned.members(setup(seed)))) for seed in range(4)]
    assert len(set.union(*by_seed)) == sum(map(len, by_seed))


def test_seeds_of_members_leave_room_for_the_most_there_can_be() -> None:
    planned = combined("finetune_ensemble", num_members=MAX_MEMBERS)
    seeds = [finetuned(member).seed for seed in (0, 1) for member in planned.members(setup(seed))]
    assert seeds == list(range(2 * MAX_MEMBERS))


@pytest.mark.parametrize("kind", COMBINED)
@pytest.mark.parametrize("combine", available(Combiner))
def test_any_combiner_goes_with_any_ensemble(kind: str, combine: str) -> None:
    fields = SIZES[kind][0] if kind != "ensemble" else {"of": ["naive", "debate"]}
    planned = combined(kind, **fields, combine=COMBINERS.get(combine, combine))
    here = setup()
    ensemble = ensemble_of(planned)
    truth = {each.split for each in closure([ensemble]).values() if isinstance(each, GroundTruth)}
    assert truth == planned.truth_in_labels == {"weak_train"}
    assert combine == "mean" or f"combine={combine}" in planned.label
    if not ensemble.combine.is_fitted:
        assert ensemble.held_out is None
        return
    assert isinstance(ensemble.held_out, HeldOutTruth)
    for classifier in classifiers(*ensemble.members):
        if classifier.train_split == "weak_train":
            labels = closure([classifier.labels])
            assert ensemble.held_out.key in labels
            assert "weak_train" in classifier.predicts
    assert planned.floor(here) == here.supervisor()


def test_fixed_weights_of_another_number_are_refused_before_anything_runs() -> None:
    planned = combined("finetune_ensemble", combine=COMBINERS["weighted"])
    with pytest.raises(UserError, match=r"combine\.weights has 2 numbers for 4 members"):
        planned.supervision(setup())


@pytest.mark.parametrize("kind", COMBINED)
def test_the_size_of_an_ensemble_is_chosen_on_val_and_the_method_says_so(kind: str) -> None:
    planned = combined(kind, select_size=True)
    assert planned.truth_in_labels == {"weak_train", "val"}
    ensemble = ensemble_of(planned)
    assert ensemble.size_by == setup().truth("val")
    truth = {each.split for each in closure([ensemble]).values() if isinstance(each, GroundTruth)}
    assert "test" not in truth
    assert keys(ensemble.members) == keys(combined(kind).members(setup()))


def test_debaters_of_an_ensemble_have_a_debate_each() -> None:
    planned = combined("debate_ensemble", num_members=3, debater="m")
    members = [finetuned(member) for member in planned.members(setup(1))]
    assert keys(planned.contexts(setup(1))) == [
        member.transcripts.key for member in members if member.transcripts
    ]
    assert len({member.transcripts.key for member in members if member.transcripts}) == 3
    for debate in planned.contexts(setup(1)):
        assert isinstance(debate, Debate)
        assert debate.debater == setup().ladder["m"]


def test_bagging_over_rows_changes_rows_and_nothing_else() -> None:
    here = setup(3)
    planned = combined("bagging", num_members=3, share=0.6, replace=False)
    members = [finetuned(member) for member in planned.members(here)]
    plain = finetuned(here.supervisor())
    for number, member in enumerate(members):
        sample = member.labels
        assert isinstance(sample, ResampledTruth)
        assert (sample.share, sample.replace) == (0.6, False)
        assert sample.seed == 3 * MAX_MEMBERS + number
        changed = {"labels": plain.labels, "predicts": plain.predicts}
        assert member.model_copy(update=changed) == plain
    assert keys(ensemble_of(planned, here).samples) == [member.labels.key for member in members]


def test_bagged_debaters_read_one_debate() -> None:
    planned = combined("bagging", of="debate", num_members=3)
    members = [finetuned(member) for member in planned.members(setup())]
    assert {member.transcripts.key for member in members if member.transcripts} == {
        setup().debate(setup().strong).key
    }
    assert planned.label == "bagging(debate, num_members=3)"


@pytest.mark.parametrize("mode", ["full", "lora", "probe"])
def test_bagging_over_features_and_layers_changes_what_the_head_reads(mode: str) -> None:
    recipe = TrainConfig.model_validate({"mode": mode, "epochs": 3})
    here = replace(setup(1), supervisor_train=recipe)

    def read(member: Stage) -> tuple[int, float, int]:
        if isinstance(member, Probe):
            train = member.train
            assert member.features.layer == train.layer
            return train.layer, train.feature_share, train.feature_seed
        train = finetuned(member).train
        return train.head_layer, train.head_share, train.head_seed

    features = combined("bagging", over="features", feature_share=0.3, num_members=2)
    first = MAX_MEMBERS
    assert [read(member) for member in features.members(here)] == [
        (-1, 0.3, first),
        (-1, 0.3, first + 1),
    ]
    layers = combined("bagging", over="layers", layers=[1, 2])
    assert [read(member) for member in layers.members(here)] == [(1, 1.0, 0), (2, 1.0, 0)]
    assert ensemble_of(layers, here).samples == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"replace": False}, "gives every member the same rows"),
        ({"over": "layers"}, "two different `layers` or more; found none"),
        ({"over": "layers", "layers": [2, 2]}, "two different `layers` or more; found 2, 2"),
        ({"layers": [1, 2]}, '`layers` goes with over = "layers"'),
        ({"of": "style_only"}, "learns nothing from weak_train"),
    ],
)
def test_bagging_that_would_change_nothing_is_refused(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        combined("bagging", **fields).supervision(setup())


def test_an_ensemble_over_methods_takes_their_supervision_at_each_seed() -> None:
    planned = combined("ensemble", of=["naive", {"kind": "debate", "debater": "weak"}], num_seeds=2)
    here = setup(1)
    first, second = here.at_seed(MAX_MEMBERS), here.at_seed(MAX_MEMBERS + 1)
    naive, debate = method("naive"), method("debate", debater="weak")
    assert keys(planned.members(here)) == [
        naive.supervision(first).key,
        debate.supervision(first).key,
        naive.supervision(second).key,
        debate.supervision(second).key,
    ]
    assert planned.label == "ensemble(naive + debate(weak), num_seeds=2)"
    budget = {"kind": "ground_truth_mixing", "share": 0.5}
    within = combined("ensemble", of=["naive", budget])
    assert within.truth_in_labels == {"weak_train", "strong_train"}


def test_models_of_a_family_are_supervisors_by_their_names() -> None:
    here = setup()
    planned = combined("family_ensemble", models=["xs", "m", "strong"])
    models = [finetuned(member).model for member in planned.members(here)]
    assert models == [here.ladder[name] for name in ("xs", "m", "l")]
    between = [finetuned(member).model for member in combined("family_ensemble").members(here)]
    assert between == [here.ladder[name] for name in ("xs", "s", "m")]
    assert planned.floor(here) == here.supervisor()
    with pytest.raises(UserError, match=r"two models or more; found weak"):
        combined("family_ensemble", models=["weak", "xs"]).supervision(here)
    with pytest.raises(UserError, match=r"with none between it and the strong; name some"):
        combined("family_ensemble").supervision(setup(strong="s"))


def test_a_debate_ensemble_can_differ_in_finetuning_alone() -> None:
    planned = combined("debate_ensemble", num_members=3, differ_in="finetuning")
    members, debates = planned.members(setup()), planned.contexts(setup())
    assert len(set(keys(members))) == 3
    assert len(debates) == 3
    assert len(set(keys(debates))) == 1
    own = combined("debate_ensemble", num_members=3)
    assert keys(own.members(setup()))[0] == keys(members)[0]


def boosted(kind: str, **fields: object) -> Rounds:
    found = method(kind, **fields)
    assert isinstance(found, Rounds)
    return found


@pytest.mark.parametrize("kind", ROUNDS)
def test_fewer_rounds_beside_more_cost_nothing(kind: str) -> None:
    for seed in (0, 1):
        few, many = (
            classifiers(boosted(kind, num_rounds=number).supervision(setup(seed)))
            for number in (3, 5)
        )
        assert (len(few), len(many)) == (3, 5)
        assert {stage.key for stage in few} < {stage.key for stage in many}


@pytest.mark.parametrize("kind", ROUNDS)
def test_no_two_experiment_seeds_share_a_round(kind: str) -> None:
    first, second = (
        {stage.key for stage in classifiers(boosted(kind).supervision(setup(seed)))}
        for seed in (0, 1)
    )
    assert not first & second


@pytest.mark.parametrize("kind", ROUNDS)
def test_the_first_round_is_the_plain_supervisor_of_any_boosting(kind: str) -> None:
    plain = setup().supervisor(predicts=SPLITS)
    found = [stage.key for stage in classifiers(boosted(kind).supervision(setup()))]
    assert found[0] == plain.key
    assert boosted(kind).floor(setup()) == setup().supervisor()


@pytest.mark.parametrize("kind", ROUNDS)
def test_what_learns_nothing_from_weak_train_cannot_be_boosted(kind: str) -> None:
    with pytest.raises(UserError, match="learns nothing from weak_train"):
        boosted(kind, of="style_only").supervision(setup())


@pytest.mark.parametrize(
    ("kind", "form", "held_out"),
    [("adaboost", "textbook", None), ("adaboost_published", "published", "val")],
)
def test_each_round_of_adaboost_learns_the_weights_of_the_one_before(
    kind: str, form: str, held_out: str | None
) -> None:
    planned = boosted(kind, num_rounds=3)
    supervision = planned.supervision(setup())
    assert isinstance(supervision, Boosted)
    first, second, third = (finetuned(member) for member in planned.members(setup()))
    assert [second.labels, third.labels] == list(supervision.rounds[:2])
    assert [each.predictions for each in supervision.rounds] == [first, second, third]
    assert supervision.rounds[0].labels == setup().truth("weak_train")
    assert supervision.rounds[1].labels == second.labels
    for each in supervision.rounds:
        assert each.form == form
        assert (each.held_out and each.held_out.split) == held_out
    assert {finetuned(each).seed for each in supervision.members} == {0}
    assert all(finetuned(each).start is None for each in supervision.members)


def test_gradient_boosting_adds_up_what_is_learnt_on_top_of_the_rounds_before() -> None:
    planned = boosted("gradient_boosting", num_rounds=3, shrinkage=0.25)
    supervision = planned.supervision(setup())
    assert isinstance(supervision, Ensemble)
    assert supervision.combine == Product(powers=(1.0, 0.25, 0.25))
    first, second, third = (finetuned(member) for member in supervision.members)
    assert isinstance(second.labels, Residual)
    assert isinstance(third.labels, Residual)
    assert second.labels.members == (first,)
    assert third.labels.members == (first, second)
    # A round by itself is a correction: it is not scored as a supervisor.
    assert planned.members(setup()) == ()
    assert list(planned.arms(setup())) == ["rounds 1", "rounds 2"]


def test_boosted_debaters_read_one_debate() -> None:
    members = classifiers(boosted("adaboost", of="debate", num_rounds=3).supervision(setup()))
    transcripts = {
        stage.transcripts.key
        for stage in members
        if isinstance(stage, Finetune) and stage.transcripts is not None
    }
    assert transcripts == {setup().debate(setup().strong).key}


def test_an_ensemble_of_boosted_and_bagged_supervisors_combines_what_they_combined() -> None:
    planned = combined(
        "ensemble",
        of=[{"kind": "adaboost", "num_rounds": 2}, {"kind": "bagging", "num_members": 2}],
        combine="stacking",
    )
    ensemble = ensemble_of(planned)
    assert [type(member).__name__ for member in ensemble.members] == ["Boosted", "Ensemble"]
    assert ensemble.held_out is not None
    for stage in classifiers(ensemble):
        assert ensemble.held_out.key in closure([stage.labels])


@pytest.mark.parametrize("kind", [*METHODS])
def test_any_method_can_be_a_member_bagged_or_boosted_if_its_supervisor_learns(kind: str) -> None:
    outer: list[tuple[str, dict[str, object]]] = [
        ("ensemble", {"of": [kind], "num_seeds": 2}),
        ("bagging", {"of": kind, "num_members": 2}),
        ("adaboost", {"of": kind, "num_rounds": 2}),
        ("gradient_boosting", {"of": kind, "num_rounds": 2}),
    ]
    for name, fields in outer:
        planned = method(name, **fields)
        if name == "gradient_boosting" and kind in ROUNDS:
            with pytest.raises(UserError, match="cannot stand within gradient_boosting"):
                planned.supervision(setup())
            continue
        if kind in LEARNS_NOTHING and name != "ensemble":
            with pytest.raises(UserError, match="learns nothing from weak_train"):
                planned.supervision(setup())
            continue
        needed = closure([planned.supervision(setup())]).values()
        truth = {each.split for each in needed if isinstance(each, GroundTruth)}
        # What a method only does to labels has no part in its supervision.
        assert truth <= planned.truth_in_labels
        seeds = (0, 1) if name == "ensemble" else (0,)
        read = [stage for seed in seeds for stage in method(kind).contexts(setup(seed))]
        assert keys(planned.contexts(setup())) == keys(tuple(read))


def test_the_same_supervisor_twice_is_refused() -> None:
    with pytest.raises(UserError, match="combines 2 supervisors of which 1 differ"):
        combined("ensemble", of=["naive", "bootstrapping"]).supervision(setup())
    with pytest.raises(UserError, match="combines 1 supervisors of which 1 differ"):
        combined("ensemble", of=["naive"]).supervision(setup())


def test_corrections_of_others_are_not_judged_by_how_right_they_are() -> None:
    for fields in ({"combine": "stacking"}, {"select_size": True}):
        inner = {"kind": "finetune_ensemble", **fields}
        with pytest.raises(UserError, match=r"it asks how right its supervisors are"):
            method("gradient_boosting", of=inner).supervision(setup())
    method("gradient_boosting", of="finetune_ensemble").supervision(setup())
    method("adaboost", of="gradient_boosting").supervision(setup())
