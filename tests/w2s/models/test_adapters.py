"""Low-rank adapters and heads from the unembedding, on every family."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests.w2s.models.test_classifier import DECODERS, FAMILIES, rows, tiny
from w2s.errors import UserError
from w2s.models.adapters import add_adapters, merge_adapters, save_adapters
from w2s.models.classifier import (
    Classifier,
    Head,
    copy_backbone,
    fresh_head,
    load_backbone,
    load_classifier,
    prepare_backbone,
    save_classifier,
)
from w2s.models.unembedding import unembedding_rows

NUM_ADAPTED = {"opt": 6, "gpt2": 4, "gpt_neox": 4, "bert": 6, "roberta": 6, "distilbert": 6}
"""Linear maps of a block; of the others seven."""

FIRST_ADAPTER = "backbone.layers.0.mlp.up_proj.lora_A.default.weight"


def adapted(base: PreTrainedModel, targets: tuple[str, ...] = (), seed: int = 0) -> Classifier:
    backbone = copy_backbone(base, share=True)
    add_adapters(backbone, rank=2, alpha=4.0, target_modules=targets, seed=seed)
    head = fresh_head(base, 2, head_init="random", seed=1, options=False)
    return Classifier(backbone, head)


def trained(classifier: Classifier) -> list[str]:
    return [name for name, value in classifier.named_parameters() if value.requires_grad]


def take_a_step(classifier: Classifier) -> None:
    optimizer = torch.optim.SGD([p for p in classifier.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        logits = classifier(*rows())
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1])).backward()
        optimizer.step()


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_train_alone_and_merge(family: str, tmp_path: Path) -> None:
    base = prepare_backbone(tiny(family))
    before = {name: value.clone() for name, value in base.state_dict().items()}
    classifier = adapted(base)
    whole = Classifier.fresh(base, 2, seed=1)
    torch.testing.assert_close(classifier(*rows()), whole(*rows()))

    names = trained(classifier)
    assert len(names) == 2 * 2 * NUM_ADAPTED.get(family, 7) + 1
    assert all("lora_" in name or name == "head.weight" for name in names)
    take_a_step(classifier)
    found = classifier(*rows())
    assert (found - whole(*rows())).abs().max() > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())

    merge_adapters(classifier.backbone)
    torch.testing.assert_close(classifier(*rows()), found, atol=1e-5, rtol=1e-4)
    assert classifier.backbone.state_dict().keys() == base.state_dict().keys()
    save_classifier(classifier, tmp_path)
    torch.testing.assert_close(load_classifier(tmp_path)(*rows()), found, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "opt"])
def test_saved_adapters_make_a_language_model_compute_what_the_merged_one_does(
    family: str, tmp_path: Path
) -> None:
    from peft import PeftModel

    language_model = save_language_model(family, tmp_path)
    classifier = adapted(load_backbone(tmp_path))
    take_a_step(classifier)
    save_adapters(classifier.backbone, tmp_path / "adapter")
    merge_adapters(classifier.backbone)
    ids, mask = rows()
    last = mask.sum(1) - 1
    around = PeftModel.from_pretrained(language_model.eval(), str(tmp_path / "adapter"))
    states = around(ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
    read = states[torch.arange(len(ids)), last]
    assert torch.allclose(read, classifier.read(ids, mask), atol=1e-5)
    plain = Classifier(load_backbone(tmp_path), Head(torch.zeros(2, read.shape[1])))
    assert (read - plain.read(ids, mask)).abs().max() > 0.1


def test_seed_draws_the_adapters_and_nothing_else() -> None:
    base = prepare_backbone(tiny("llama"))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, same, other = (
        dict(adapted(base, seed=seed).named_parameters())[FIRST_ADAPTER] for seed in (0, 0, 1)
    )
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_named_maps_alone_are_adapted() -> None:
    names = trained(adapted(prepare_backbone(tiny("llama")), ("q_proj", "v_proj")))
    assert len(names) == 2 * 2 * 2 + 1
    assert all(".q_proj." in name or ".v_proj." in name for name in names[:-1])


def test_a_map_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"names 'query', .* gpt2 model; there are c_attn, c_fc, c_proj"
    ):
        adapted(prepare_backbone(tiny("gpt2")), ("c_fc", "query"))


def save_language_model(family: str, folder: Path, tied: bool | None = None) -> PreTrainedModel:
    """A language model of a family and a tokenizer whose ids 3 and 4 are `no` and ` yes`."""
    torch.manual_seed(0)
    shape = FAMILIES[family] if tied is None else {**FAMILIES[family], "tie_word_embeddings": tied}
    config = AutoConfig.for_model(family, **shape)
    kind = AutoModelForCausalLM if family in DECODERS else AutoModelForMaskedLM
    model = kind.from_config(config)
    model.save_pretrained(folder)
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "no": 3, "Ġyes": 4, "Ġ": 5, "m": 6, "a": 7}
    raw = Tokenizer(
        models.BPE(
            vocab={**vocabulary, "y": 8, "e": 9, "s": 10, "ye": 11, "Ġye": 12},
            merges=[("y", "e"), ("Ġ", "ye"), ("Ġye", "s")],
        )
    )
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>").save_pretrained(folder)
    return model


def output_table(model: PreTrainedModel) -> torch.Tensor:
    layer = model.get_output_embeddings()
    assert isinstance(layer, torch.nn.Linear)
    return layer.weight.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_unembedding_rows_are_those_of_the_words(family: str, tmp_path: Path) -> None:
    model = save_language_model(family, tmp_path)
    table = output_table(model)
    rows_WD = unembedding_rows(load_backbone(tmp_path), tmp_path, ["no", " yes"])
    assert rows_WD.dtype == torch.float32
    torch.testing.assert_close(rows_WD, table[[3, 4]])


@pytest.mark.parametrize("tied", [False, True])
def test_tied_and_untied_tables_are_told_apart(tied: bool, tmp_path: Path) -> None:
    model = save_language_model("llama", tmp_path, tied)
    words = model.get_parameter("model.embed_tokens.weight")
    outputs = output_table(model)
    assert torch.equal(words, outputs) == tied
    found = unembedding_rows(load_backbone(tmp_path), tmp_path, [" yes", "no"])
    torch.testing.assert_close(found, outputs[[4, 3]])


def test_a_word_of_several_tokens_is_refused_by_name(tmp_path: Path) -> None:
    save_language_model("llama", tmp_path)
    base = load_backbone(tmp_path)
    with pytest.raises(UserError, match=r"label word ' may' is not one token .* \['Ġ', 'm', 'a'"):
        unembedding_rows(base, tmp_path, ["no", " may"])


def test_a_backbone_without_an_unembedding_is_refused(tmp_path: Path) -> None:
    save_language_model("llama", tmp_path, tied=False)
    load_backbone(tmp_path).save_pretrained(tmp_path)
    assert not json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"]
    with pytest.raises(UserError, match='found none; use head_init = "random" or "zero"'):
        unembedding_rows(load_backbone(tmp_path), tmp_path, ["no"])
