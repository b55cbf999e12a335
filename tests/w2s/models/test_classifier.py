"""The classifier on every supported family: what it reads, and that shortcuts change nothing."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedModel,
    T5Config,
    T5Model,
)

from w2s.errors import UserError
from w2s.models.classifier import (
    Classifier,
    load_backbone,
    load_classifier,
    prepare_backbone,
    save_classifier,
)
from w2s.models.read_token import TOKENWISE

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SHAPE, "num_key_value_heads": 1, "head_dim": 8}
DECODERS = {
    "gemma": GROUPED,
    "gemma2": GROUPED,
    "gpt2": {**SHAPE, "n_inner": 24},
    "gpt_neox": SHAPE,
    "llama": GROUPED,
    "mistral": GROUPED,
    "opt": {**SHAPE, "ffn_dim": 24, "word_embed_proj_dim": 16},
    "qwen2": {**SHAPE, "num_key_value_heads": 1},
    "qwen3": GROUPED,
}
ENCODERS = {
    "bert": SHAPE,
    "distilbert": {
        "vocab_size": 40,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 24,
        "max_position_embeddings": 32,
    },
    "roberta": {**SHAPE, "pad_token_id": 1, "bos_token_id": 0},
}
FAMILIES = {**DECODERS, **ENCODERS}


def tiny(family: str) -> PreTrainedModel:
    """A backbone with random weights, larger than usual so that every part matters."""
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(family, **FAMILIES[family]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1).add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def rows() -> tuple[Tensor, Tensor]:
    """Three rows of 4, 7 and 2 tokens; id 0 is ordinary text in them."""
    ids = torch.tensor([[5, 0, 9, 0, 0, 0, 0], [7, 3, 3, 0, 8, 4, 6], [0, 11, 0, 0, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1] * 7, [1, 1, 0, 0, 0, 0, 0]])
    return ids, mask


def row_lengths(mask: Tensor) -> list[int]:
    return mask.sum(1).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family: str) -> None:
    if family == "roberta":
        pytest.skip("RoBERTa itself places tokens by counting those that are not the padding id")
    classifier = Classifier.fresh(prepare_backbone(tiny(family)), 3, seed=1)
    ids, mask = rows()
    padded = classifier(ids, mask)
    for index, length in enumerate(row_lengths(mask)):
        alone = classifier(ids[index : index + 1, :length], mask[index : index + 1, :length])
        torch.testing.assert_close(padded[index : index + 1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_equal_those_of_the_whole_model(family: str) -> None:
    """Whole: all tokens of all blocks, with the mask, the activation as published."""
    plain = tiny(family)
    classifier = Classifier.fresh(prepare_backbone(copy.deepcopy(plain)), 3, seed=1)
    head = classifier.head.weight.detach().clone()
    ids, mask = rows()
    if family == "roberta":
        ids = ids.masked_fill(mask == 0, 1)

    hidden = plain(input_ids=ids, attention_mask=mask).last_hidden_state
    place = mask.sum(1) - 1 if family in DECODERS else torch.zeros(3, dtype=torch.long)
    expected = hidden[torch.arange(3), place] @ head.T
    found = classifier(ids, mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

    targets = torch.tensor([0, 1, 2])
    torch.nn.functional.cross_entropy(expected, targets).backward()
    torch.nn.functional.cross_entropy(found, targets).backward()
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    compared = 0
    for name, parameter in classifier.backbone.named_parameters():
        if gradients[name] is not None:
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-3)
            compared += 1
    assert compared > 10


def test_every_family_with_a_shortcut_is_tested() -> None:
    assert set(TOKENWISE) <= set(DECODERS)


@pytest.mark.parametrize("family", DECODERS)
def test_decoder_reads_the_last_real_token(family: str) -> None:
    classifier = Classifier.fresh(prepare_backbone(tiny(family)), 2, seed=1)
    ids, mask = rows()
    before = classifier(ids, mask)
    ids[0, 3], ids[0, 4] = 12, 13  # its last token, and padding
    after = classifier(ids, mask)
    assert (before[0] - after[0]).abs().max() > 1e-3
    torch.testing.assert_close(before[1:], after[1:])


def test_fresh_classifier_leaves_the_base_alone() -> None:
    base = prepare_backbone(tiny("llama"))
    before = {name: value.clone() for name, value in base.state_dict().items()}
    ids, mask = rows()
    for _ in range(2):
        classifier = Classifier.fresh(base, 2, seed=0)
        classifier(ids, mask).sum().backward()
        with torch.no_grad():
            for parameter in classifier.parameters():
                parameter.add_(1.0)
    for name, value in base.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in base.parameters())


def test_head_follows_seed_and_kind() -> None:
    base = prepare_backbone(tiny("llama"))
    first = Classifier.fresh(base, 5, seed=3).head.weight
    assert first.shape == (5, 16)
    assert torch.equal(first, Classifier.fresh(base, 5, seed=3).head.weight)
    assert not torch.equal(first, Classifier.fresh(base, 5, seed=4).head.weight)
    assert float(first.detach().std()) == pytest.approx(0.02, rel=0.3)
    assert not Classifier.fresh(base, 5, head_init="zero").head.weight.any()


def test_logits_are_float32_under_autocast() -> None:
    classifier = Classifier.fresh(prepare_backbone(tiny("llama")), 2, seed=1)
    ids, mask = rows()
    exact = classifier(ids, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = classifier(ids, mask)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.1)


def test_language_model_folder_gives_its_bare_decoder(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **GROUPED))
    model.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    assert not any("lm_head" in name for name, _ in backbone.named_parameters())
    ids, mask = rows()
    expected = model.eval().model(input_ids=ids, attention_mask=mask).last_hidden_state
    found = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found, expected)


def test_dropout_is_off(tmp_path: Path) -> None:
    config = AutoConfig.for_model("gpt2", **{**SHAPE, "resid_pdrop": 0.5, "embd_pdrop": 0.5})
    AutoModel.from_config(config).save_pretrained(tmp_path)
    classifier = Classifier.fresh(load_backbone(tmp_path), 2, seed=1)
    ids, mask = rows()
    assert torch.equal(classifier(ids, mask), classifier(ids, mask))


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_saved_classifier_comes_back(family: str, tmp_path: Path) -> None:
    classifier = Classifier.fresh(prepare_backbone(tiny(family)), 3, seed=1)
    save_classifier(classifier, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}
    ids, mask = rows()
    assert torch.equal(load_classifier(tmp_path)(ids, mask), classifier(ids, mask))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    model = tiny("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_backbone(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    AutoConfig.for_model("llama", **{**GROUPED, "num_hidden_layers": 3}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"are missing, e\.g\. layers\.2"):
        load_backbone(tmp_path)


def test_encoder_decoder_is_refused(tmp_path: Path) -> None:
    config = T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="encoder-decoder"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(("family", "part"), [("llama", "mlp"), ("gpt2", "attn.c_proj")])
def test_last_block_computes_only_what_is_read(family: str, part: str) -> None:
    classifier = Classifier.fresh(prepare_backbone(tiny(family)), 2, seed=1)
    seen: list[tuple[int, ...]] = []
    name = "layers" if family == "llama" else "h"
    for block in classifier.backbone.get_submodule(name).children():
        block.get_submodule(part).register_forward_hook(
            lambda module, args, output: seen.append(tuple(args[0].shape))
        )
    ids, mask = rows()
    classifier(ids, mask)
    assert [shape[1] for shape in seen] == [7, 1]
