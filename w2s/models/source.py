"""A model from outside as a rung of the ladder: a local folder or a hub id.

`resolve` turns what the user wrote into a `PretrainedModel` whose fingerprint says what is in it,
and refuses what no stage could load, before any compute. `num_parameters` counts without reading
weights.

A model folder is data: weights are safetensors, code that comes with a model is not run unless the
sweep says so (`trust_remote_code`), and nothing in it leads to files elsewhere.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from w2s.errors import UserError
from w2s.spec import Spec, digest

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

CONFIG_FILE = "config.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
ADAPTER_FILE = "adapter_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
IDENTITY_FILES = (
    CONFIG_FILE,
    *TOKENIZER_FILES,
    "merges.txt",
    TOKENIZER_CONFIG_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def without_distrust(spec: Spec) -> list[str]:
    """Fields of a spec, but for a `trust_remote_code` that is off: no key knows of it then."""
    names = list(type(spec).model_fields)
    return [name for name in names if name != "trust_remote_code" or getattr(spec, name)]


class LoadOptions(TypedDict):
    """How a model's files are opened, as `from_pretrained` of transformers takes it."""

    revision: str
    """Commit, tag or branch of a hub id; `main` for a folder."""
    trust_remote_code: bool
    """Whether code that comes with the model may run."""


class PretrainedModel(Spec):
    """A pretrained decoder or encoder that the sweep did not make."""

    path: str
    """Local folder, or hub id such as `EleutherAI/pythia-70m`."""
    revision: str | None = None
    """Commit, tag or branch of a hub id; `resolve` replaces it by the commit."""
    fingerprint: str = ""
    """Digest of config, tokenizer and weights, or of the hub id and its commit; see `resolve`."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model may run, with the rights of whoever runs the
    sweep; then it is part of the fingerprint."""

    def identity_fields(self) -> Iterable[str]:
        """Where a model lies is no identity once its fingerprint says what it is.

        Whether its code may run is one for those whose code does.
        """
        return [n for n in without_distrust(self) if n != "path" or not self.fingerprint]

    @property
    def name(self) -> str:
        """Readable name: the last part of the path."""
        return Path(self.path).name

    def size(self) -> int:
        """Parameters of the backbone without its tables of words and positions."""
        return self.count.non_embedding

    @cached_property
    def count(self) -> "ParameterCount":
        """Its parameters; see `num_parameters`. Counted once, it travels with the spec."""
        return num_parameters(self.path, **self.load_options)

    @property
    def load_options(self) -> LoadOptions:
        """How its files are opened."""
        return {"revision": self.revision or "main", "trust_remote_code": self.trust_remote_code}


class ParameterCount(NamedTuple):
    """Parameters of a backbone, without its language-model head."""

    total: int
    embedding: int
    """Tables of words and positions."""

    @property
    def non_embedding(self) -> int:
        """Everything else: what does the computing."""
        return self.total - self.embedding


def resolve(source: PretrainedModel) -> PretrainedModel:
    """The source with its fingerprint, and for a hub id with the commit it stands for.

    Weights of a local folder are read once to be hashed; of a hub id nothing is downloaded, unless
    the hub does not answer: then the files in the local cache count.

    Raises:
        UserError: not a model folder, no such hub id, or weights that are not safetensors.
    """
    folder = Path(source.path).expanduser()
    if folder.is_dir():
        if source.revision is not None:
            raise UserError(
                f"model {source.path!r} is a local folder; `revision` is for hub ids, "
                f"found {source.revision!r}"
            )
        found = fingerprint(folder, trust_remote_code=source.trust_remote_code)
        _require_own_code(source)
        return source.model_copy(update={"path": str(folder), "fingerprint": found})
    if folder.exists() or not HUB_ID.fullmatch(source.path):
        found = "a file" if folder.exists() else "nothing there"
        raise UserError(
            f"model {source.path!r}: found {found}; give a folder with config.json, *.safetensors "
            "and a tokenizer, or a hub id such as EleutherAI/pythia-70m"
        )
    pinned = _resolve_hub(source)
    _require_own_code(pinned)
    return pinned


def fingerprint(folder: Path, *, trust_remote_code: bool = False) -> str:
    """Digest of a model folder's config, tokenizer and weights; its place on disk does not count.

    Args:
        folder: as `save_pretrained` leaves it.
        trust_remote_code: whether its code may run; then all of that is in the digest.

    Raises:
        UserError: not a model folder, or it needs code that may not run.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    _check_files(str(folder), names)
    _check_index(folder, names)
    content = [name for name in names if _is_identity(name)]
    if trust_remote_code:
        content += sorted(str(path.relative_to(folder)) for path in folder.rglob("*.py"))
    else:
        _check_config(folder, names)
    return digest({name: _sha256(folder / name) for name in content})


@cache
def num_parameters(
    location: str, revision: str = "main", trust_remote_code: bool = False
) -> ParameterCount:
    """Count the parameters of a backbone from its config alone.

    Args:
        location: local folder, or hub id.
        revision: commit, tag or branch of a hub id.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        UserError: the config cannot be read, transformers has no backbone for it, or it is an
            encoder-decoder.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(
            location, revision=revision, trust_remote_code=trust_remote_code
        )
        own = trust_remote_code and "AutoModel" in (getattr(config, "auto_map", None) or {})
        pinned = {"code_revision": revision} if own else {}
        with torch.device("meta"):
            backbone = AutoModel.from_config(config, trust_remote_code=trust_remote_code, **pinned)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the shape of model {location!r}: {error}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"model {location!r} is an encoder-decoder ({config.model_type}); "
            "the ladder takes decoders and encoders"
        )
    if isinstance(getattr(backbone, "pooler", None), torch.nn.Module):
        backbone.pooler = None
    return count_parameters(backbone)


@cache
def model_config(
    location: str, revision: str = "main", trust_remote_code: bool = False
) -> "PretrainedConfig | None":
    """Config of a model; None where there is none to read."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            location, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError):
        return None


def require_decoder(source: PretrainedModel, purpose: str) -> None:
    """Refuse an encoder where a model has to write or read on.

    Args:
        source: the model; one whose config cannot be read passes here and is refused elsewhere.
        purpose: what it is needed for, for the message.

    Raises:
        UserError: it is no causal language model.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as DECODERS
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as ENCODERS

    if not source.fingerprint and not Path(source.path).expanduser().is_dir():
        return  # A plan on paper, which looks nothing up.
    config = model_config(source.path, **source.load_options)
    if config is None:
        return
    found = config.model_type
    own = getattr(config, "auto_map", {}) if source.trust_remote_code else {}
    if "AutoModelForCausalLM" not in own and (found not in DECODERS or found in ENCODERS):
        raise UserError(
            f"{purpose} needs a language model (a decoder); {source.path!r} is of type {found!r}; "
            "take another rung or another method"
        )


def count_parameters(backbone: "nn.Module") -> ParameterCount:
    """Parameters of a backbone in memory."""
    from torch import nn

    tables = {
        id(module.weight): module.weight.numel()
        for module in backbone.modules()
        if isinstance(module, nn.Embedding)
    }
    return ParameterCount(sum(p.numel() for p in backbone.parameters()), sum(tables.values()))


def _resolve_hub(source: PretrainedModel) -> PretrainedModel:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"model {source.path!r}" + (
        f" at revision {source.revision!r}" if source.revision else ""
    )
    try:
        info = HfApi().model_info(source.path, revision=source.revision, timeout=10)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"{where}: no such local folder, and the hub has none (or it is private: set HF_TOKEN)"
        ) from error
    except Exception as unreachable:  # of whichever HTTP client the hub's library uses
        try:
            folder = Path(
                snapshot_download(
                    source.path,
                    revision=source.revision,
                    local_files_only=True,
                    allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"],
                )
            )
        except LocalEntryNotFoundError:
            raise UserError(
                f"{where}: no such local folder, not in the local hub cache, and the hub does not "
                f"answer ({type(unreachable).__name__}); give a folder with config.json, "
                "*.safetensors and a tokenizer"
            ) from unreachable
        names = [path.name for path in folder.iterdir()]
        commit = folder.name
    else:
        names = [file.rfilename for file in info.siblings or []]
        commit = str(info.sha)
    _check_files(where, sorted(names))
    # A commit pins every file, whether it was found on the hub or in the cache.
    return source.model_copy(
        update={"revision": commit, "fingerprint": digest([source.path, commit])}
    )


def _check_files(where: str, names: list[str]) -> None:
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
    needed = "a model folder has config.json, *.safetensors and a tokenizer"
    if CONFIG_FILE not in names:
        raise UserError(f"{where} is not a model folder: no config.json; found {listed}; {needed}")
    if ADAPTER_FILE in names:
        raise UserError(
            f"{where} holds an adapter ({ADAPTER_FILE}), which changes the model beside it or "
            "leads to another; merge it first (peft's merge_and_unload) and save the whole model"
        )
    if not any(name.endswith(".safetensors") for name in names):
        pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
        # Loading a pickle runs whatever code is in it.
        advice = (
            f"; {pickled[0]} is pickled and is never loaded: convert it where you trust it "
            "(AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW), and the tokenizer "
            "likewise)"
            if pickled
            else ""
        )
        raise UserError(f"{where} has no safetensors weights; found {listed}; {needed}{advice}")
    if not any(name in names for name in TOKENIZER_FILES):
        raise UserError(
            f"{where} has no tokenizer (any of {', '.join(TOKENIZER_FILES)}); "
            f"found {listed}; {needed}"
        )


def _check_config(folder: Path, names: list[str]) -> None:
    """Refuse a model or tokenizer that only code of its own can read."""
    config = _table(folder / CONFIG_FILE)
    tokenizer = _table(folder / TOKENIZER_CONFIG_FILE) if TOKENIZER_CONFIG_FILE in names else {}
    needs = []
    if "auto_map" in config:
        from transformers import CONFIG_MAPPING

        if config.get("model_type") not in CONFIG_MAPPING:
            needs.append(CONFIG_FILE)
    if "auto_map" in tokenizer:
        from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

        if tokenizer_class_from_name(str(tokenizer.get("tokenizer_class"))) is None:
            needs.append(TOKENIZER_CONFIG_FILE)
    if needs:
        code = [name for name in names if name.endswith(".py")]
        raise UserError(
            f"model {str(folder)!r} needs code of its own ({', '.join(needs)} has `auto_map`; "
            f"found {', '.join(code) or 'no such code'}), and code that comes with a model runs "
            "only where the sweep says so: take a model that transformers knows, or read that "
            "code and write `trust_remote_code = true` beside `model`"
        )


def _require_own_code(source: PretrainedModel) -> None:
    """Refuse, before any of it runs, code of another repository: nothing pins that."""
    if not source.trust_remote_code:
        return
    from transformers import PretrainedConfig
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    revision = source.load_options["revision"]
    tables = (
        PretrainedConfig.get_config_dict(source.path, revision=revision)[0],
        get_tokenizer_config(source.path, revision=revision),
    )
    named = [value for table in tables for value in (table.get("auto_map") or {}).values()]
    references = [each for value in named for each in _references(value)]
    outside = {each.partition("--")[0] for each in references if "--" in each} - {source.path}
    if outside:
        raise UserError(
            f"model {source.path!r} runs code of another repository "
            f"({', '.join(sorted(outside))}), which nothing pins; copy that code beside the model, "
            "and name it in its config"
        )


def _references(value: Any) -> list[str]:
    return [each for each in (value if isinstance(value, list | tuple) else [value]) if each]


def _check_index(folder: Path, names: list[str]) -> None:
    """Refuse an index of weights that leads out of the folder."""
    for name in names:
        if name.endswith(".safetensors.index.json"):
            files = _table(folder / name).get("weight_map", {})
            outside = sorted({str(file) for file in files.values() if file not in names})
            if outside:
                raise UserError(
                    f"model {str(folder)!r}: {name} names {outside[0]!r}, which is no file of this "
                    "folder; download or save the model again"
                )


def _table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # Whoever loads it says what is wrong with it.
        return {}
    return table if isinstance(table, dict) else {}


def _is_identity(name: str) -> bool:
    return name in IDENTITY_FILES or name.endswith(".safetensors")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
