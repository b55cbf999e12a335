"""The replica of a classifier that vLLM cannot run: a transformers backbone and its head.

Slower than `PooledClassifier`, and right for any decoder or encoder: one text of padding more or
less changes nothing, because a decoder's tokens see only what is on their left and an encoder gets
a mask.

N texts, T tokens, D hidden size.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI
from numpy.typing import NDArray
from ray import serve
from transformers import AutoModel, AutoTokenizer

from serving.classify import add_classify_route, flat_texts, split
from serving.client import Probabilities, Text
from serving.heads import Head, filler_id, token_ids
from serving.models import Adapter, ServedModel
from serving.replica_ports import listen_on_own_address

MAX_TOKENS = 8192
"""Tokens of a forward pass at most, padding included."""


class Backbone:
    """A transformers model in float32 that gives hidden states of texts."""

    def __init__(self, model: ServedModel, device: str = "cpu") -> None:
        """Load weights and tokenizer."""
        revision, trusted = model.revision or "main", model.trust_remote_code
        self._tokenizer = AutoTokenizer.from_pretrained(
            model.path, revision=revision, trust_remote_code=trusted
        )
        self._backbone = AutoModel.from_pretrained(
            model.path,
            revision=revision,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=trusted,
        )
        self._backbone.to(device).eval()
        self._device = device
        self._max_input = model.max_input
        self._last = model.read_token == "last"

    def hidden(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Last hidden state of the token that is read, [N, D]."""
        ids = token_ids(self._tokenizer, texts, self._max_input)
        order = np.argsort([-len(row) for row in ids], kind="stable")
        found: dict[int, NDArray[np.float32]] = {}
        start = 0
        while start < len(order):
            count = max(1, MAX_TOKENS // len(ids[order[start]]))
            part = order[start : start + count]
            found.update(zip(part, self._forward([ids[index] for index in part]), strict=True))
            start += count
        return np.stack([found[index] for index in range(len(ids))])

    @torch.inference_mode()
    def _forward(self, rows: list[list[int]]) -> NDArray[np.float32]:
        longest = max(map(len, rows))
        pad = filler_id(self._tokenizer)
        ids_NT = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        lengths_N = torch.tensor([len(row) for row in rows])
        mask_NT = (torch.arange(longest) < lengths_N[:, None]).long()
        output = self._backbone(
            input_ids=ids_NT.to(self._device), attention_mask=mask_NT.to(self._device)
        )
        places_N = lengths_N - 1 if self._last else torch.zeros_like(lengths_N)
        hidden_ND = output.last_hidden_state[torch.arange(len(rows)), places_N.to(self._device)]
        return hidden_ND.float().cpu().numpy()


@serve.ingress()
class TorchClassifier:
    """One replica."""

    async def __init__(self, model: ServedModel, on_gpu: bool) -> None:
        """Load backbone and head.

        Args:
            model: what is served; it has no adapters.
            on_gpu: whether the replica has a GPU.
        """
        listen_on_own_address()
        self._name = model.name
        self._head = Head.read(model.path)
        self._backbone = Backbone(model, "cuda" if on_gpu else "cpu")
        self._turn = asyncio.Lock()

    async def classify_batch(
        self, adapter: Adapter | None, texts: Sequence[Text]
    ) -> list[Probabilities]:
        """Class probabilities of every text.

        Raises:
            ServingInputError: texts that do not fit the head.
        """
        assert adapter is None, "adapters run on vLLM"
        flat = flat_texts(texts, self._head)
        async with self._turn:
            hidden_ND = await asyncio.to_thread(self._backbone.hidden, flat)
        return split(self._head.probabilities(hidden_ND))

    async def __serve_build_asgi_app__(self) -> Any:
        """The classify route, and a health route."""
        app = FastAPI()
        add_classify_route(app, {self._name: None}, self.classify_batch)
        app.add_api_route("/health", lambda: {})
        return app
