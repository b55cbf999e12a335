"""A model behind a URL: what it is, and what it cannot do."""

import pytest

from sweeps.config import Sweep
from sweeps.plan import Planner, Point
from w2s.errors import UserError
from w2s.models.remote import RemoteModel, require_local
from w2s.spec import digest
from w2s.stages.models import model_key

SPEAKER = {"name": "gpt", "base_url": "http://127.0.0.1:1/v1", "model": "gpt-4o", "chat": True}


def planner(**speaker: object) -> Planner:
    rungs = [
        {
            "name": name,
            "architecture": {"hidden_size": 32, "intermediate_size": 64},
            "corpus": {"kind": "almanac", "rare_share": share, "custom_share": 0.5},
        }
        for name, share in (("xs", 0.2), ("s", 0.4))
    ]
    table = {
        "name": "s",
        "tasks": ["almanac"],
        "ladder": rungs,
        "speakers": [{**SPEAKER, **speaker}],
        "blocks": [{"name": "pairs"}],
    }
    return Planner(Sweep.model_validate(table))


def test_places_and_conditions_of_a_server_are_no_identity() -> None:
    plain = planner().speakers["gpt"]
    elsewhere = planner(
        base_url="https://api.example.com/v1",
        api_key_variable="KEY",
        max_requests=3,
        tokens_per_minute=100,
        top_logprobs=5,
        price_per_million=[1.0, 2.0],
    ).speakers["gpt"]
    assert model_key(plain) == model_key(elsewhere) == digest(plain)
    other = planner(revision="2025-08-06").speakers["gpt"]
    assert model_key(other) != model_key(plain)


def test_a_speaker_is_named_by_methods_beside_the_ladder() -> None:
    made = planner()
    setup = made.experiment(Point(made.cells()[0])).setup(0)
    gpt = setup.named("gpt")
    assert gpt == RemoteModel(name="gpt", model="gpt-4o", chat=True)
    assert setup.debate(gpt).served_models == (gpt,)
    with pytest.raises(UserError, match=r"no model 'gtp'; models: weak, strong, xs, s, gpt"):
        setup.named("gtp")


def test_training_what_is_behind_a_url_is_refused_when_it_is_planned() -> None:
    made = planner()
    setup = made.experiment(Point(made.cells()[0])).setup(0)
    with pytest.raises(UserError, match=r"training needs .* speaker 'gpt' is behind a URL"):
        setup.supervisor(model=setup.named("gpt"))
    with pytest.raises(UserError, match=r"features needs"):
        require_local(setup.named("gpt"), "features")
    require_local(setup.strong, "features")
