"""Training modes, starts and checkpoints: what stages that train leave, on a toy task."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, run_stage
from tests.w2s.stages.toy_task import ToyTask, run, save_model, tokenizer, tokens_of, truth
from w2s.losses.confidence import Confidence
from w2s.losses.xent import Xent
from w2s.models.classifier import load_backbone
from w2s.models.source import PretrainedModel
from w2s.spec import Spec
from w2s.stages.base import Stage
from w2s.stages.checkpoints import read_training
from w2s.stages.features import Features, read_features
from w2s.stages.finetune import Finetune
from w2s.stages.generative import GenerativeFinetune
from w2s.stages.predictions import read_predictions
from w2s.stages.probe import Probe
from w2s.training.config import GenerativeConfig, ProbeConfig, TrainConfig

FAST = TrainConfig(learning_rate=1e-2, epochs=4, batch_size=8)
OPTIONS = pytest.mark.parametrize("options", [False, True], ids=["texts", "options"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PretrainedModel:
    return save_model(tmp_path_factory.mktemp("model"))


def finetune(model: PretrainedModel, options: bool = False, **changes: object) -> Finetune:
    fields = {
        "model": model,
        "tokens": tokens_of(model, options),
        "labels": truth("strong_train", options),
        "train_split": "strong_train",
        "loss": Xent(),
        "train": FAST,
        "seed": 0,
    }
    return Finetune.model_validate({**fields, **changes})


def probe(model: PretrainedModel, options: bool = False, **changes: object) -> Probe:
    fields = {
        "features": Features(source=model, tokens=tokens_of(model, options)),
        "labels": truth("strong_train", options),
        "train_split": "strong_train",
        "loss": Xent(),
        "train": ProbeConfig(epochs=100, learning_rate=1e-2),
        "seed": 0,
    }
    return Probe.model_validate({**fields, **changes})


def changed(spec: TrainConfig | ProbeConfig, **changes: object) -> Spec:
    return type(spec).model_validate({**dict(spec), **changes})


def logprobs(folder: Path) -> np.ndarray:
    return read_predictions(folder)[["logprob_0", "logprob_1"]].to_numpy()


def accuracy(folder: Path, split: str) -> float:
    """Against the truth of the toy task: the label of row i is i % 2."""
    frame = read_predictions(folder)
    own = (frame["split"] == split).to_numpy()
    labels = np.array([int(row_id.rpartition("-")[2]) % 2 for row_id in frame["row_id"]])
    predicted = frame[["logprob_0", "logprob_1"]].to_numpy().argmax(1)
    return float((predicted == labels)[own].mean())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.stem}.{name}": tensor
        for file in (folder / "weights").glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


@OPTIONS
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_each_mode_learns_the_toy(
    store: ArtifactStore, model: PretrainedModel, mode: str, options: bool
) -> None:
    train = changed(FAST, mode=mode, epochs=20)
    folder = run(store, finetune(model, options, train=train))
    assert accuracy(folder, "strong_train") > 0.9


@OPTIONS
def test_a_probe_learns_the_toy(
    store: ArtifactStore, model: PretrainedModel, options: bool
) -> None:
    folder = run(store, probe(model, options))
    assert accuracy(folder, "strong_train") > 0.8
    sizes = read_predictions(folder)["split"].value_counts().to_dict()
    assert sizes == {"strong_train": 24, "val": 24, "test": 24}


@OPTIONS
def test_finetuning_starts_exactly_at_its_probe(
    store: ArtifactStore, model: PretrainedModel, options: bool
) -> None:
    start = probe(model, options)
    still = changed(FAST, mode="probe_then_finetune", learning_rate=1e-12, epochs=1)
    after = run(store, finetune(model, options, start=start, train=still))
    before = logprobs(run(store, start))
    np.testing.assert_allclose(logprobs(after), before, atol=2e-5)
    assert np.abs(before - before[::-1]).max() > 0.1


def test_a_student_starts_at_the_weights_of_another(
    store: ArtifactStore, model: PretrainedModel
) -> None:
    first = finetune(model, save_weights=True)
    still = changed(FAST, learning_rate=1e-12, epochs=1)
    second = finetune(model, start=first, train=still, seed=1)
    np.testing.assert_allclose(logprobs(run(store, second)), logprobs(run(store, first)), atol=2e-5)


def test_adapters_can_start_at_the_weights_of_another(
    store: ArtifactStore, model: PretrainedModel
) -> None:
    first = finetune(model, save_weights=True)
    still = changed(FAST, mode="lora", learning_rate=1e-12, epochs=1)
    second = finetune(model, start=first, train=still, seed=1)
    np.testing.assert_allclose(logprobs(run(store, second)), logprobs(run(store, first)), atol=2e-5)


def test_merged_adapters_predict_as_they_did_apart(
    store: ArtifactStore, model: PretrainedModel
) -> None:
    adapted = finetune(model, train=changed(FAST, mode="lora"), save_weights=True)
    still = finetune(model, start=adapted, train=changed(FAST, learning_rate=1e-12, epochs=1))
    folder = run(store, adapted)
    np.testing.assert_allclose(logprobs(run(store, still)), logprobs(folder), atol=2e-5)
    names = set(weights(folder))
    assert not any("lora" in name for name in names)
    plain = run(store, finetune(model, save_weights=True))
    assert names == set(weights(plain))


def test_adapters_leave_a_warm_base_model_alone(
    store: ArtifactStore, model: PretrainedModel
) -> None:
    conditions = Conditions()
    run(store, finetune(model, train=changed(FAST, mode="lora"), save_weights=True), conditions)
    (warm,) = conditions.warm.values()
    fresh = load_backbone(model.path)
    assert warm.state_dict().keys() == fresh.state_dict().keys()
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(warm.state_dict()[name], tensor), name


def test_a_full_finetuning_after_one_with_adapters_trains_everything(
    store: ArtifactStore, model: PretrainedModel
) -> None:
    conditions = Conditions()
    run(store, finetune(model, train=changed(FAST, mode="lora")), conditions)
    whole = read_training(run(store, finetune(model), conditions))
    assert whole["num_trainable"] == whole["num_parameters"]


def test_only_adapters_and_the_head_are_trained(
    store: ArtifactStore, model: PretrainedModel
) -> None:
    whole = read_training(run(store, finetune(model)))
    adapted = read_training(run(store, finetune(model, train=changed(FAST, mode="lora"))))
    # Two blocks: four maps of 16 x 16 and three of 16 x 24, each with rank 8; a head of 2 x 16.
    assert adapted["num_trainable"] == 2 * (4 * 8 * 32 + 3 * 8 * 40) + 32
    assert whole["num_trainable"] == whole["num_parameters"] == adapted["num_parameters"]
    assert whole["num_parameters"] - whole["num_non_embedding"] == 16 * 16


def test_the_best_checkpoint_is_chosen_by_the_labels_it_was_given(
    store: ArtifactStore, model: PretrainedModel
) -> None:
    train = changed(FAST, num_checkpoints=5, checkpoint="best_val", epochs=6)
    labels = truth("val")
    stage = finetune(model, train=train, val_labels=labels, save_weights=True)
    folder = run(store, stage)
    frame = pd.read_parquet(folder / "checkpoints.parquet")
    # 24 rows in batches of 8, six epochs: 18 steps.
    assert sorted(frame["step"].unique()) == [4, 8, 11, 15, 18]
    assert frame.groupby("step")["epoch"].first().to_dict()[18] == 6
    val = frame[frame["split"] == "val"]
    predicted = np.array(val[["logprob_0", "logprob_1"]]).argmax(1)
    wanted = np.array([int(row_id.rpartition("-")[2]) % 2 for row_id in val["row_id"]])
    steps = np.array(val["step"])
    agreement = {step: (predicted == wanted)[steps == step].mean() for step in np.unique(steps)}
    best = max(agreement, key=lambda step: (agreement[step], -step))
    numbers = read_training(folder)
    assert numbers["selected_step"] == numbers["best_val_step"] == best
    assert numbers["last_step"] == 18

    chosen = frame[frame["step"] == best].set_index("row_id")
    found = read_predictions(folder).set_index("row_id")
    for column in ("logprob_0", "logprob_1"):
        np.testing.assert_array_equal(found.loc[chosen.index, column], chosen[column])
    # The labels of strong_train and the weights are those of the chosen step too.
    still = finetune(model, start=stage, train=changed(FAST, learning_rate=1e-12, epochs=1))
    np.testing.assert_allclose(logprobs(run(store, still)), logprobs(folder), atol=2e-5)


def test_checkpoints_change_nothing_but_the_choice(
    store: ArtifactStore, model: PretrainedModel
) -> None:
    plain = run(store, finetune(model))
    train = changed(FAST, num_checkpoints=3)
    watched = run(store, finetune(model, train=train, val_labels=truth("val")))
    np.testing.assert_array_equal(logprobs(plain), logprobs(watched))
    numbers = read_training(watched)
    assert numbers["selected_step"] == numbers["last_step"] == 12
    assert numbers["best_val_step"] in (4, 8, 12)
    assert read_training(plain)["best_val_step"] is None
    assert not (plain / "checkpoints.parquet").exists()


def test_agreement_with_val_is_on_the_curve(store: ArtifactStore, model: PretrainedModel) -> None:
    stage = finetune(model, train=changed(FAST, num_checkpoints=3), val_labels=truth("val"))
    for needed in stage.inputs:
        run(store, needed)
    outcome = run_stage(stage, store)
    assert outcome.record is not None
    points = {p.step: p.metrics for p in outcome.record.curve if "val_agreement" in p.metrics}
    assert sorted(points) == [4, 8, 12]


def test_choosing_without_checkpoints_is_refused() -> None:
    for config in (TrainConfig, ProbeConfig):
        with pytest.raises(ValueError, match="set num_checkpoints"):
            config(checkpoint="best_val")


@OPTIONS
def test_features_are_what_the_head_would_read(
    store: ArtifactStore, model: PretrainedModel, options: bool
) -> None:
    stage = Features(source=model, tokens=tokens_of(model, options))
    table = read_features(run(store, stage))
    assert table.features.shape == ((96, 2, 16) if options else (96, 16))
    assert table.index["split"].value_counts().to_dict() == dict.fromkeys(
        ("weak_train", "strong_train", "val", "test"), 24
    )
    frame = pd.read_parquet(store.local(stage.tokens.prompts) / "prompts.parquet")
    language_model = AutoModelForCausalLM.from_pretrained(model.path)
    for row in (0, 41, 95):
        texts = frame["options"][row] if options else [frame["prompt"][row]]
        for place, text in enumerate(texts):
            ids = torch.tensor([tokenizer()(text)["input_ids"]])
            hidden = language_model.model(input_ids=ids).last_hidden_state[0, -1]
            found = table.features[row, place] if options else table.features[row]
            torch.testing.assert_close(found, hidden, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_features_of_a_layer_are_its_output(
    store: ArtifactStore, model: PretrainedModel, layer: int
) -> None:
    stage = Features(source=model, tokens=tokens_of(model), layer=layer)
    table = read_features(run(store, stage))
    frame = pd.read_parquet(store.local(stage.tokens.prompts) / "prompts.parquet")
    base = load_backbone(model.path)
    seen: list[torch.Tensor] = []

    def before(args: Any) -> None:
        seen.append(args[0])

    def after(output: Any) -> None:
        seen.append(output)

    blocks = base.get_submodule("layers")
    for block in blocks.children():
        block.register_forward_pre_hook(lambda module, args: before(args))
        block.register_forward_hook(lambda module, args, output: after(output))
    prompt = frame["prompt"].tolist()[50]
    base(input_ids=torch.tensor([tokenizer()(prompt)["input_ids"]]))
    expected = seen[max(0, 2 * layer - 1)][0, -1]
    torch.testing.assert_close(table.features[50], expected, atol=1e-5, rtol=1e-4)


def test_a_layer_that_is_not_there_is_refused(store: ArtifactStore, model: PretrainedModel) -> None:
    stage = Features(source=model, tokens=tokens_of(model), layer=3)
    run(store, stage.tokens)
    assert "a llama model of 2 blocks has layers 0 to 2" in run_stage(stage, store).cause


def test_features_of_a_finetuned_model(store: ArtifactStore, model: PretrainedModel) -> None:
    with pytest.raises(ValueError, match="keeps no weights"):
        Features(source=finetune(model), tokens=tokens_of(model))
    tuned = finetune(model, save_weights=True)
    base, after = (
        read_features(run(store, Features(source=source, tokens=tokens_of(model)))).features
        for source in (model, tuned)
    )
    assert (base - after).abs().max() > 0.01


def test_generative_finetuning_leaves_a_model_that_expects_the_texts(
    store: ArtifactStore, model: PretrainedModel
) -> None:
    stage = GenerativeFinetune(
        model=model,
        tokens=tokens_of(model),
        train=GenerativeConfig(learning_rate=1e-2, epochs=5, batch_size=8),
        seed=0,
    )
    outcome_folder = run(store, stage)
    assert stage.size() == model.size()
    language_models = [
        AutoModelForCausalLM.from_pretrained(path)
        for path in (model.path, outcome_folder / "model")
    ]
    ids = torch.tensor([[5, 6, 7, 8, 0]])
    before, after = (m(input_ids=ids, labels=ids).loss.item() for m in language_models)
    assert after < before - 0.5
    # A student on top of it reads the base model's tokens.
    student = finetune(model).model_copy(update={"model": stage})
    assert accuracy(run(store, student), "strong_train") >= 0.5


def test_an_encoder_is_no_language_model(store: ArtifactStore, tmp_path: Path) -> None:
    encoder = save_model(tmp_path / "gpt", "gpt2")
    config = json.loads((tmp_path / "gpt" / "config.json").read_text())
    (tmp_path / "gpt" / "config.json").write_text(
        json.dumps({**config, "model_type": "bert", "architectures": ["BertModel"]})
    )
    stage = GenerativeFinetune(
        model=encoder, tokens=tokens_of(encoder), train=GenerativeConfig(), seed=0
    )
    run(store, stage.tokens)
    assert "is no decoder (bert)" in run_stage(stage, store).cause


@OPTIONS
@pytest.mark.parametrize("kind", ["lora", "probe", "probe_then_finetune"])
def test_half_precision_works_in_every_mode(
    store: ArtifactStore, model: PretrainedModel, kind: str, options: bool
) -> None:
    half = Conditions(precision="bf16")
    start = probe(model, options) if kind.startswith("probe") else None
    stage: Stage = finetune(model, options, start=start, train=changed(FAST, mode=kind, epochs=20))
    if kind == "probe":
        assert start is not None
        stage = start
    assert accuracy(run(store, stage, half), "strong_train") > 0.8


def test_a_probe_takes_losses_with_batch_statistics_and_weights(
    store: ArtifactStore, model: PretrainedModel
) -> None:
    stage = probe(model, loss=Confidence(max_weight=0.5))
    assert accuracy(run(store, stage), "strong_train") > 0.7


@OPTIONS
def test_a_head_from_label_words_starts_at_the_words_of_the_language_model(
    store: ArtifactStore, model: PretrainedModel, options: bool
) -> None:
    """Before any training, the odds of the classes are those of the next word."""
    still = changed(
        FAST, head_init="unembedding", label_words=("no", "yes"), learning_rate=1e-12, epochs=1
    )
    folder = run(store, finetune(model, options, train=still))
    language_model = AutoModelForCausalLM.from_pretrained(model.path)
    vocabulary = tokenizer().get_vocab()
    row = ToyTask(options=options).load().rows["test"][5]
    scores = []
    for text in row.options or (row.prompt,):
        ids = torch.tensor([tokenizer()(text)["input_ids"]])
        scores.append(language_model(input_ids=ids).logits[0, -1].detach())
    logits = (
        [score[vocabulary["yes"]] for score in scores]
        if options
        else [scores[0][vocabulary["no"]], scores[0][vocabulary["yes"]]]
    )
    expected = torch.stack(logits).log_softmax(0).numpy()
    frame = read_predictions(folder).set_index("row_id")
    found = [frame.loc[row.row_id, f"logprob_{label}"] for label in (0, 1)]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_word_for_each_class_is_needed(store: ArtifactStore, model: PretrainedModel) -> None:
    words = changed(FAST, head_init="unembedding", label_words=("no", "maybe", "yes"))
    stage = finetune(model, train=words)
    for needed in stage.inputs:
        run(store, needed)
    assert "each of the 2 classes of the task; label_words has 3" in run_stage(stage, store).cause
