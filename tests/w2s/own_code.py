"""A model folder whose config, backbone and language model are classes of code in the folder."""

import json
from pathlib import Path

CODE = '''"""Llama with a type and a scale of its own."""

from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from .scale import SCALE

Path({marker!r}).touch()


class OwnConfig(LlamaConfig):
    model_type = "own_llama"


class OwnModel(LlamaModel):
    config_class = OwnConfig

    def forward(self, *arguments, **named):
        output = super().forward(*arguments, **named)
        output.last_hidden_state = output.last_hidden_state * SCALE
        return output


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
'''


def bring_code(folder: Path, marker: Path, scale: float = 1.0) -> None:
    """Turn the folder of a Llama into one that only its own code can read.

    Args:
        folder: as `save_pretrained` leaves it.
        marker: file that the code leaves when it runs.
        scale: by which its hidden states are those of the Llama.
    """
    config = json.loads((folder / "config.json").read_text())
    auto_map = {
        "AutoConfig": "own.OwnConfig",
        "AutoModel": "own.OwnModel",
        "AutoModelForCausalLM": "own.OwnForCausalLM",
    }
    config |= {"model_type": "own_llama", "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    (folder / "scale.py").write_text(f"SCALE = {scale}\n")
