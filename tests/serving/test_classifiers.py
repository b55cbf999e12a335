"""Classifiers of every family: what is served has the probabilities of the training stack."""

import gc
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from serving.backends.vllm import engine_kwargs
from serving.classify import flat_texts
from serving.errors import ServingInputError
from serving.heads import Head as ServedHead
from serving.heads import token_ids
from serving.models import POOLED_TYPES, Placement, ServedModel, on_vllm
from serving.torch_classifier import Backbone
from tests.serving.tiny import DECODERS, ENCODERS, save_backbone, texts
from w2s.models.classifier import (
    Classifier,
    Head,
    is_causal,
    load_backbone,
    load_classifier,
    save_classifier,
)
from w2s.training.batching import tokenize
from w2s.training.loop import predict

LONGEST = 40
TEXTS = texts(40)


def saved(folder: Path, family: str, *, bias: bool = False, options: int = 0) -> ServedModel:
    """A classifier with a random backbone and a random head."""
    save_backbone(folder, family)
    backbone = load_backbone(folder)
    generator = torch.Generator().manual_seed(1)
    weight_CD = torch.randn(1 if options else 3, 64, generator=generator) / 2
    bias_C = torch.randn(3, generator=generator) if bias else None
    save_classifier(Classifier(backbone, Head(weight_CD, bias_C, options)), folder)
    return ServedModel(
        name="m",
        path=str(folder),
        task="classify",
        read_token="last" if is_causal(backbone.config) else "first",
        max_input=LONGEST,
    )


def trained(model: ServedModel, texts_per_row: int = 1) -> NDArray[np.float64]:
    """What the training stack predicts."""
    classifier = load_classifier(Path(model.path))
    rows = tokenize(AutoTokenizer.from_pretrained(model.path), TEXTS, LONGEST)
    logprobs_NC = predict(classifier, replace(rows, texts_per_row=texts_per_row))
    return np.exp(logprobs_NC.astype(np.float64))


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_transformers_replica_has_the_probabilities_of_the_training_stack(
    family: str, tmp_path: Path
):
    model = saved(tmp_path, family)
    found = ServedHead.read(tmp_path).probabilities(Backbone(model).hidden(TEXTS))
    np.testing.assert_allclose(found, trained(model), atol=1e-5)
    assert np.ptp(found[:, 0]) > 0.2


@pytest.fixture
def _one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An engine in the process of the test."""
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, os.environ.get(name, value))
    yield
    gc.collect()


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize("family", sorted(POOLED_TYPES))
def test_vllm_has_the_probabilities_of_the_training_stack(family: str, tmp_path: Path):
    from vllm import LLM, PoolingParams, TokensPrompt

    model = saved(tmp_path, family)
    assert on_vllm(model, Placement())
    engine = LLM(model=model.path, **engine_kwargs(model, Placement()))
    ids = token_ids(AutoTokenizer.from_pretrained(model.path), TEXTS, LONGEST)
    outputs = engine.encode(
        [TokensPrompt(prompt_token_ids=row) for row in ids],
        PoolingParams(task="embed", use_activation=False),
        pooling_task="embed",
        use_tqdm=False,
    )
    hidden_ND = np.stack([output.outputs.data.float().numpy() for output in outputs])
    found = ServedHead.read(tmp_path).probabilities(hidden_ND)
    np.testing.assert_allclose(found, trained(model), atol=1e-4)
    assert np.ptp(found[:, 0]) > 0.2


def test_head_with_a_bias_and_head_over_options_are_read_as_they_were_trained(tmp_path: Path):
    for name, bias, options in (("bias", True, 0), ("options", False, 4)):
        folder = tmp_path / name
        model = saved(folder, "llama", bias=bias, options=options)
        head = ServedHead.read(folder)
        rows = [tuple(TEXTS[i : i + 4]) for i in range(0, 40, 4)] if options else TEXTS
        found = head.probabilities(Backbone(model).hidden(flat_texts(rows, head)))
        assert found.shape == ((10, 4) if options else (40, 3))
        np.testing.assert_allclose(found, trained(model, options or 1), atol=1e-5)


def test_hidden_states_become_probabilities_by_hand():
    head = ServedHead(np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), None, 0)
    # Logits 0 and log 3: a quarter and three quarters.
    hidden = np.array([[0.0, np.log(3) / 2]], np.float32)
    np.testing.assert_allclose(head.probabilities(hidden), [[0.25, 0.75]], atol=1e-7)
    options = ServedHead(np.array([[1.0]], np.float32), None, 2)
    np.testing.assert_allclose(
        options.probabilities(np.array([[0.0], [np.log(3)], [5.0], [5.0]], np.float32)),
        [[0.25, 0.75], [0.5, 0.5]],
        atol=1e-6,
    )


def test_texts_that_do_not_fit_the_head_are_refused():
    single = ServedHead(np.zeros((2, 4), np.float32), None, 0)
    options = ServedHead(np.zeros((1, 4), np.float32), None, 3)
    with pytest.raises(ServingInputError, match="reads single texts; found 2 in one"):
        flat_texts(["a", ("b", "c")], single)
    with pytest.raises(ServingInputError, match="among 3 texts; found 2 texts"):
        flat_texts([("a", "b", "c"), ("a", "b")], options)
    with pytest.raises(ServingInputError, match="among 3 texts; found one text: 'a'"):
        flat_texts(["a"], options)
