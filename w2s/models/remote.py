"""A model behind somebody's URL: it can be asked for text and for scores, and for nothing else."""

from w2s.errors import UserError
from w2s.spec import Spec


class RemoteModel(Spec):
    """A model of an OpenAI-compatible server, as stages name it.

    Its identity is the name that the sweep gives it, its id at the provider and the form in which
    it is asked. The URL, the key, limits and prices are none: they are places and conditions. Two
    servers that give different models the same id must therefore be given different names. What
    the provider changes behind an id cannot be seen; `revision` is for telling that.
    """

    name: str
    """Name of the speaker in the sweep."""
    model: str
    """Id of the model at the provider."""
    revision: str = ""
    """What tells versions behind one id apart, such as a date; written by hand."""
    chat: bool = False
    """Whether prompts go as a user's message of a chat; else as texts to go on from."""
    system: str = ""
    """System message of every chat; empty: none."""

    def size(self) -> int:
        """Parameters, which nobody tells; its requests take no time of this machine."""
        return 0


def require_local(model: object, purpose: str) -> None:
    """Refuse a remote model where weights or a tokenizer are needed.

    Args:
        model: any base model.
        purpose: what it is needed for, for the message.

    Raises:
        UserError: the model is behind a URL.
    """
    if isinstance(model, RemoteModel):
        raise UserError(
            f"{purpose} needs a model's weights and tokenizer; speaker {model.name!r} is behind a "
            "URL and can only be asked for text and scores; take a rung of the ladder, or a "
            "speaker whose `model` is a folder or a hub id"
        )
