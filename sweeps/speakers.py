"""Speakers behind a URL, as the serving layer knows them: who answers, on which conditions.

`backends` turns the sweep's speakers into backends by the key under which stages ask for them.
`spent` says what they have cost so far. The key to a server is read here, in the driver's
environment, because the process that asks may run on another node.
"""

from pathlib import Path

from serving.backends.openai_api import OpenaiApi
from serving.budget import Limits, Usage
from serving.models import Placement, ServedModel
from sweeps.config import SpeakerEntry
from sweeps.plan import Planner
from sweeps.runtime import Runtime
from sweeps.store import ArtifactStore
from w2s.models.remote import RemoteModel
from w2s.stages.models import model_key

CACHE_FOLDER = ".completions"


def remote_entries(planner: Planner) -> dict[str, SpeakerEntry]:
    """The sweep's speakers behind a URL, by the key of their model."""
    return {
        model_key(model): entry
        for entry in planner.sweep.speakers
        if isinstance(model := planner.speakers[entry.name], RemoteModel)
    }


def backends(planner: Planner, folder: Path) -> dict[str, OpenaiApi]:
    """What serves each speaker behind a URL, by the key of its model; keys are not looked up.

    Args:
        planner: the sweep.
        folder: where answers and spending are kept.
    """
    return {
        key: OpenaiApi(
            base_url=_url(entry),
            api_key_variable=entry.api_key_variable,
            chat=entry.chat,
            system=entry.system,
            top_logprobs=entry.top_logprobs,
            token_limit=entry.token_limit,
            max_requests_in_flight=entry.requests_in_flight,
            limits=Limits(
                requests_per_minute=entry.requests_per_minute,
                tokens_per_minute=entry.tokens_per_minute,
                max_requests=entry.max_requests,
                max_tokens=entry.max_tokens,
            ),
            account=account(planner.sweep.name, entry.name),
            folder=str(folder),
        )
        for key, entry in remote_entries(planner).items()
    }


def checked_backends(planner: Planner, folder: Path) -> dict[str, OpenaiApi]:
    """The backends with their keys, after each server has answered.

    Raises:
        ServingInputError: a key is not in the environment, a server does not answer or refuses the
            key, or it has no such model.
    """
    found = {key: api.with_key() for key, api in backends(planner, folder).items()}
    for key, entry in remote_entries(planner).items():
        found[key].deploy(ServedModel(name="speaker", path=entry.model, digest=key), Placement())
    return found


def spent(planner: Planner, folder: Path) -> dict[str, Usage]:
    """What the speakers behind a URL have cost in this sweep so far, by name."""
    found = {}
    for key, api in backends(planner, folder).items():
        ledger = api.ledger()
        found[remote_entries(planner)[key].name] = ledger.spent(api.account)
        ledger.close()
    return found


def account(sweep: str, speaker: str) -> str:
    """Name under which a speaker's spending is booked: a budget is of one sweep."""
    return f"{sweep}/{speaker}"


def cache_folder(runtime: Runtime, store: ArtifactStore) -> Path:
    """Folder of answers and spending; for a store behind a URL one of this machine."""
    if runtime.completions_cache is not None:
        return Path(runtime.completions_cache).expanduser().absolute()
    return store.local_dir / CACHE_FOLDER


def _url(entry: SpeakerEntry) -> str:
    assert entry.base_url is not None, "a speaker without a URL is no remote one"
    return entry.base_url
