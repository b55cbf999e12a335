"""A classification head on any transformers backbone.

* `load_backbone` reads a decoder or encoder from a folder or the hub: safetensors only, and no code
  that nobody trusts.
* `Classifier` puts a linear `Head` on one token of it; `Classifier.fresh` makes one from a backbone
  that stays untouched, so that a worker which holds a base model makes a student without reading a
  file.
* `save_classifier` / `load_classifier` keep a finetuned one; `write_head` / `read_head` a head.

B rows, T tokens, D hidden size, C classes.
"""

import copy
import json
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from serving.heads import HEAD_FILE
from w2s.errors import UserError
from w2s.models.adapters import save_adapters
from w2s.models.read_token import ReadToken

HEAD_STD = 0.02


class Head(NamedTuple):
    """What turns the hidden state of the token that is read into logits."""

    weight_CD: Tensor
    """A row per class; one row for a head that scores options."""
    bias_C: Tensor | None = None
    """Heads have none, but for those of probes, which need one for the mean of their features."""
    options: int = 0
    """Texts of a row whose scores are the logits; 0: a row is one text."""

    @property
    def num_parameters(self) -> int:
        """Numbers in it."""
        return self.weight_CD.numel() + (0 if self.bias_C is None else self.bias_C.numel())


class Classifier(nn.Module):
    """Backbone and head.

    The head reads the last real token of a decoder, found by the attention mask (never by a token
    id), and the first token of an encoder, which is where encoders are pretrained to put the
    meaning of the text.
    """

    def __init__(self, backbone: PreTrainedModel, head: Head) -> None:
        """Take over a backbone; what of it requires a gradient will be trained in place."""
        super().__init__()
        num_logits, width = head.weight_CD.shape
        self.options = head.options
        self.backbone = backbone
        with torch.device("meta"):
            self.head = nn.Linear(width, num_logits, bias=head.bias_C is not None)
        self.head.weight = nn.Parameter(head.weight_CD.detach().float())
        if head.bias_C is not None:
            self.head.bias = nn.Parameter(head.bias_C.detach().float())
        self.causal = is_causal(backbone.config)
        self._read_token = ReadToken(backbone) if self.causal else None

    @classmethod
    def fresh(
        cls,
        base: PreTrainedModel,
        num_classes: int,
        *,
        head_init: Literal["random", "zero"] = "random",
        seed: int = 0,
        options: bool = False,
    ) -> "Classifier":
        """A new classifier on a copy of a backbone; the backbone can be used again.

        Args:
            base: pretrained backbone, on any device.
            num_classes: C.
            head_init: N(0, 0.02) or zeros.
            seed: of the random head; equal on every device.
            options: a one-logit head that scores each of a row's C texts.
        """
        head = fresh_head(base, num_classes, head_init=head_init, seed=seed, options=options)
        return cls(copy_backbone(base), head)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.options or self.head.out_features

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Logits of each row.

        Args:
            input_ids_BT: token ids, padded on the right.
            attention_mask_BT: 1 on real tokens, 0 on padding.

        Returns:
            [B, C] float32, also under autocast; with options, C texts of a row follow one another
            in the input, [B x C, T].
        """
        read_BD = self.read(input_ids_BT, attention_mask_BT)
        with torch.autocast(read_BD.device.type, enabled=False):
            logits = self.head(read_BD.float())
            # FSDP hooks into what a model returns, which must be no view for that.
            return logits.view(-1, self.options).clone() if self.options else logits

    def read(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Last hidden state of the token that the head reads, [B, D]."""
        if self._read_token is None:
            output = self.backbone(input_ids=input_ids_BT, attention_mask=attention_mask_BT)
            return output.last_hidden_state[:, 0]
        rows_B = torch.arange(len(input_ids_BT), device=input_ids_BT.device)
        last_B = attention_mask_BT.sum(1) - 1
        self._read_token.at(rows_B, last_B)
        # Under causal attention no real token sees the padding to its right, so a decoder needs
        # no mask; without one, attention takes its fast path.
        output = self.backbone(input_ids=input_ids_BT)
        return output.last_hidden_state[rows_B, last_B]


def fresh_head(
    base: PreTrainedModel,
    num_classes: int,
    *,
    head_init: Literal["random", "zero"],
    seed: int,
    options: bool,
) -> Head:
    """A head without any training, on the device of the backbone; see `Classifier.fresh`."""
    weight_CD = torch.zeros(1 if options else num_classes, hidden_size(base.config))
    if head_init == "random":
        weight_CD.normal_(0.0, HEAD_STD, generator=torch.Generator().manual_seed(seed))
    return Head(weight_CD.to(base.device), options=num_classes if options else 0)


def copy_backbone(base: PreTrainedModel, *, share: bool = False) -> PreTrainedModel:
    """A backbone of its own.

    Args:
        base: what is copied; it stays as it is.
        share: the modules are new (they can be hooked into, wrapped and moved) but the memory is
            that of the base, so nothing may write to it; else the copy's own. Either way all
            parameters require a gradient.
    """
    if share:
        aliases: dict[int, Tensor] = {id(buffer): buffer.detach() for buffer in base.buffers()}
        for parameter in base.parameters():
            aliases[id(parameter)] = nn.Parameter(parameter.detach())
        return copy.deepcopy(base, aliases)
    copied = copy.deepcopy(base)
    copied.requires_grad_(True)
    return copied


def is_causal(config: PretrainedConfig) -> bool:
    """Whether tokens see only what is on their left (a decoder)."""
    if getattr(config, "is_decoder", False):
        return True
    kind = config.model_type
    if kind not in CONFIG_MAPPING:  # a model with code of its own
        return "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    return (
        kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        and kind != "xlnet"
        and not getattr(config, "use_bidirectional_attention", False)
    )


def hidden_size(config: PretrainedConfig) -> int:
    """Width of the last hidden state. OPT-350m projects it back to its word embeddings' size."""
    return getattr(config, "word_embed_proj_dim", None) or config.hidden_size


def load_backbone(
    location: str | Path,
    *,
    revision: str = "main",
    trust_remote_code: bool = False,
    device: str = "cpu",
) -> PreTrainedModel:
    """Load a pretrained backbone without its language-model head, in float32.

    Args:
        location: local folder, or hub id.
        revision: commit, tag or branch of a hub id.
        trust_remote_code: whether code that comes with the model may run.
        device: where the weights go.

    Raises:
        UserError: there are no safetensors weights, they do not fit the config, the model needs
            code that may not run, or it is not a plain decoder or encoder.
    """
    try:
        loaded = AutoModel.from_pretrained(
            str(location),
            revision=revision,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load a model from {str(location)!r}: {error}") from error
    backbone, report = loaded
    if getattr(backbone.config, "is_encoder_decoder", False):
        raise UserError(
            f"{str(location)!r} is an encoder-decoder ({backbone.config.model_type}); "
            "a classifier needs a decoder or an encoder"
        )
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise UserError(
            f"the weights in {str(location)!r} do not fit its config: "
            f"{len(missing)} are missing, e.g. {missing[0]}"
        )
    backbone = prepare_backbone(backbone)
    # The type stub of the model's own `to` is wrong.
    nn.Module.to(backbone, device)
    return backbone


def prepare_backbone(backbone: PreTrainedModel) -> PreTrainedModel:
    """Ready a bare transformers model for a classifier, in place; what it computes stays the same.

    No key-value cache, no pooler (the head reads a token), and GPT-2's tanh GELU as one kernel in
    place of eight. Evaluation mode also in training: dropout is off.
    """
    backbone.config.use_cache = False
    if isinstance(getattr(backbone, "pooler", None), nn.Module):
        delattr(backbone, "pooler")
        backbone.register_module("pooler", None)
    for module in list(backbone.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(module, name, GELUTanh())
    return backbone.eval()


def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Write the backbone (config and safetensors, loadable by itself) and the head to a folder.

    Adapters must have been merged.
    """
    classifier.backbone.save_pretrained(folder)
    _write_index(folder)
    head = classifier.head
    write_head(Head(head.weight, head.bias, classifier.options), folder)


def _write_index(folder: Path) -> None:
    """Say which file holds the backbone: engines that serve it would read the head for a part."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.exists():
        with safe_open(folder / SAFE_WEIGHTS_NAME, framework="pt") as file:
            weight_map = dict.fromkeys(file.keys(), SAFE_WEIGHTS_NAME)
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def save_adapted(classifier: Classifier, folder: Path) -> None:
    """Write the adapters and the head of a classifier to a folder; see `save_adapters`."""
    save_adapters(classifier.backbone, folder)
    head = classifier.head
    write_head(Head(head.weight, head.bias, classifier.options), folder)


def load_classifier(folder: Path, device: str = "cpu") -> Classifier:
    """Read what `save_classifier` wrote."""
    return Classifier(load_backbone(folder), read_head(folder)).to(device)


def write_head(head: Head, folder: Path) -> None:
    """Write a head to a folder."""
    tensors = {"weight": head.weight_CD, "options": torch.tensor(head.options)}
    if head.bias_C is not None:
        tensors["bias"] = head.bias_C
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / HEAD_FILE,
    )


def read_head(folder: Path, device: str = "cpu") -> Head:
    """Read what `write_head` wrote."""
    tensors = load_file(folder / HEAD_FILE, device=device)
    return Head(tensors["weight"], tensors.get("bias"), int(tensors["options"]))
