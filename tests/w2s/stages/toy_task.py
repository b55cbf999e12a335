"""A toy task and a tiny model for stages that train: the class is told by one word of the text."""

import random
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, run_stage
from w2s.models.source import PretrainedModel, fingerprint
from w2s.stages.base import Stage
from w2s.stages.data import GroundTruth, Prompts
from w2s.stages.tokens import Tokens
from w2s.tasks.base import Task
from w2s.types import SPLITS, Row, Split, TaskData

WORDS = tuple("abcdefghij")
ALONE = Conditions()


class ToyTask(Task):
    """Good words are a to e; a row has one of them or not, or is a choice of two texts."""

    kind: Literal["toy"] = "toy"
    options: bool = False
    rows_per_split: int = 24

    def load(self) -> TaskData:
        """Rows of three to six words."""
        rng = random.Random(0)
        rows: dict[Split, list[Row]] = {
            split: [self._row(rng, split, i) for i in range(self.rows_per_split)]
            for split in SPLITS
        }
        return TaskData(rows)

    def _row(self, rng: random.Random, split: str, number: int) -> Row:
        label = number % 2
        texts = tuple(self._text(rng, good=label == k) for k in (0, 1))
        return Row(
            row_id=f"{split}-{number}",
            group=f"{split}-{number}",
            prompt=" / ".join(texts) if self.options else texts[1],
            label=label,
            options=texts if self.options else (),
        )

    def _text(self, rng: random.Random, good: bool) -> str:
        words = rng.choices(WORDS[5:], k=rng.randint(2, 5))
        return " ".join([*words, rng.choice(WORDS[:5] if good else WORDS[5:])])


def tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token; the label words are `no` and `yes`."""
    vocabulary = {word: index for index, word in enumerate([*WORDS, "/", "no", "yes", "<pad>"])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>")


def save_model(folder: Path, family: str = "llama", seed: int = 0) -> PretrainedModel:
    """A language model with random weights in a folder."""
    shape = {
        "vocab_size": 16,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 32,
        "pad_token_id": 13,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return PretrainedModel(path=str(folder), fingerprint=fingerprint(folder))


def tokens_of(model: PretrainedModel, options: bool = False) -> Tokens:
    """The rows of the toy task in a model's tokens."""
    return Tokens(model=model, prompts=Prompts(task=ToyTask(options=options)))


def truth(split: Split, options: bool = False) -> GroundTruth:
    """Ground truth of a split of the toy task."""
    return GroundTruth(task=ToyTask(options=options), split=split)


def run(store: ArtifactStore, root: Stage, conditions: Conditions = ALONE) -> Path:
    """Run a stage and what it needs; returns its folder."""
    for needed in root.inputs:
        run(store, needed, conditions)
    outcome = run_stage(root, store, conditions)
    assert not outcome.cause, outcome.traceback
    return store.local(root)
