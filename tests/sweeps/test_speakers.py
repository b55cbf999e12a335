"""Speakers behind a URL, from the sweep file to what they cost and where that ends."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from serving.budget import Ledger, Limits, Usage
from serving.errors import ServingInputError
from serving.models import Endpoint
from sweeps import driver
from sweeps.commands import plan as plan_command
from sweeps.load import load
from sweeps.plan import Planner
from sweeps.runtime import Runtime
from sweeps.speakers import backends, cache_folder, checked_backends, spent
from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, Outcome, run_serve_stage, run_stage
from w2s.stages.data import Prompts
from w2s.stages.models import model_key
from w2s.stages.prompt import Prompted

FILE = """
name = "s"
seeds = [0]
[task]
kind = "almanac"
world = {{ num_weak_train = 8, num_strong_train = 8, num_val = 8, num_test = 8 }}
[[ladder]]
name = "xs"
architecture = {{ hidden_size = 32, intermediate_size = 64 }}
corpus = {{ kind = "almanac", rare_share = 0.5, custom_share = 0.5 }}
[[speakers]]
name = "gpt"
model = "gpt-4o"
base_url = "{url}"
api_key_variable = "W2S_TEST_KEY"
chat = true
max_requests = {max_requests}
price_per_million = [1000.0, 2000.0]
[[blocks]]
name = "zero-shot"
pairs = "equal"
methods = [{{ kind = "judge", judge = "gpt", reads = "naive" }}]
[runtime]
store = "{store}"
"""


def write(tmp_path: Path, url: str = "http://127.0.0.1:9/v1", max_requests: int = 10) -> Path:
    path = tmp_path / "sweep.toml"
    store = tmp_path / "store"
    path.write_text(FILE.format(url=url, max_requests=max_requests, store=store))
    return path


def planner(tmp_path: Path, **fields: Any) -> Planner:
    return Planner(load(write(tmp_path, **fields))[0])


def test_a_speakers_backend_has_its_conditions_and_an_account_of_the_sweep(tmp_path: Path) -> None:
    made = planner(tmp_path)
    ((key, api),) = backends(made, tmp_path / "kept").items()
    assert key == model_key(made.speakers["gpt"])
    assert (api.base_url, api.chat, api.limits) == (
        "http://127.0.0.1:9/v1",
        True,
        Limits(max_requests=10),
    )
    ledger = api.ledger()
    ledger.book(api.account, Usage(2, 30, 4))
    ledger.close()
    assert api.account == "s/gpt"
    assert spent(made, tmp_path / "kept") == {"gpt": Usage(2, 30, 4)}


def test_a_missing_key_or_a_silent_server_is_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planner(tmp_path)
    monkeypatch.delenv("W2S_TEST_KEY", raising=False)
    with pytest.raises(ServingInputError, match="W2S_TEST_KEY is not set"):
        checked_backends(made, tmp_path)
    monkeypatch.setenv("W2S_TEST_KEY", "secret")
    with pytest.raises(ServingInputError, match=r"no answer from http://127.0.0.1:9/v1/models"):
        checked_backends(made, tmp_path)


def test_answers_are_kept_beside_the_store_or_where_the_file_says(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    assert cache_folder(Runtime(), store) == tmp_path / "store" / ".completions"
    assert cache_folder(Runtime(completions_cache="/there"), store) == Path("/there")


def test_a_plan_says_what_is_asked_what_it_costs_and_where_the_budget_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("W2S_TEST_KEY", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    arguments = argparse.Namespace(
        file=str(write(tmp_path)), overrides=[], notes=False, keys=False, cluster=None, json=False
    )
    plan_command.run(arguments)
    shown = capsys.readouterr().out
    assert "gpt-4o at http://127.0.0.1:9/v1" in shown
    assert "W2S_TEST_KEY is not in the environment" in shown
    assert "10 of 10 are left in max_requests" in shown


@pytest.fixture
def asked() -> list[str]:
    return []


def on_server(asked: list[str], use: Callable[[str], Awaitable[Any]]) -> Any:
    """What `use` makes of the URL of a chat server that says yes."""

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "gpt-4o"}]})

    async def chat(request: web.Request) -> web.Response:
        asked.append((await request.json())["messages"][0]["content"])
        top = [{"token": "Yes", "logprob": -0.1}, {"token": "No", "logprob": -2.0}]
        choice = {"message": {"content": "Yes"}, "logprobs": {"content": [{"top_logprobs": top}]}}
        usage = {"prompt_tokens": 10, "completion_tokens": 1}
        return web.json_response({"choices": [{**choice, "finish_reason": "stop"}], "usage": usage})

    async def run() -> Any:
        app = web.Application()
        app.router.add_get("/v1/models", models)
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            return await use(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
        finally:
            await runner.cleanup()

    return asyncio.run(run())


def test_a_spent_budget_ends_its_stage_and_a_higher_one_goes_on_with_the_rest(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("W2S_TEST_KEY", "secret")
    store = ArtifactStore(str(tmp_path / "store"))

    async def attempt(url: str, max_requests: int) -> Outcome:
        made = await asyncio.to_thread(planner, tmp_path, url=url, max_requests=max_requests)
        kept = tmp_path / "kept"
        remote = await asyncio.to_thread(checked_backends, made, kept)
        task = made.sweep.tasks[0]
        prompts = Prompts(task=task, data=made.data[0])
        gpt = made.speakers["gpt"]
        stage = Prompted(model=gpt, prompts=prompts, template=task.prompt_template())
        await asyncio.to_thread(run_stage, prompts, store)
        (api,) = remote.values()
        key = model_key(gpt)
        there = Endpoint(model="gpt-4o", digest=key, base_url=api.base_url, app="")
        client = api.client(there)
        outcome = await run_serve_stage(stage, store, Conditions(clients={key: client}))
        await client.aclose()
        return outcome

    def attempts(url: str) -> Awaitable[list[Outcome]]:
        async def both() -> list[Outcome]:
            return [await attempt(url, 10), await attempt(url, 100)]

        return both()

    first, second = on_server(asked, attempts)
    assert first.record is None
    assert first.cause.startswith("BudgetSpent: the budget of s/gpt is spent: 10 of 10 requests")
    assert second.record is not None
    assert len(asked) == len(set(asked)) > 10
    assert Ledger(tmp_path / "kept" / "spent.sqlite").spent("s/gpt").requests == len(asked)


def test_a_run_that_only_a_budget_has_stopped_ends_with_its_own_exit_code() -> None:
    def code(*ends: tuple[str, str]) -> int:
        entries = {
            str(i): SimpleNamespace(status=status, cause=cause)
            for i, (status, cause) in enumerate(ends)
        }
        outcome = driver.Outcome.__new__(driver.Outcome)
        outcome.book = SimpleNamespace(entries=entries)  # pyright: ignore[reportAttributeAccessIssue]
        return outcome.exit_code

    spent_out = ("failed", "stage x (k) failed: BudgetSpent: the budget of s/gpt is spent")
    assert code(("done", ""), ("stopped", "")) == 0
    assert code(("done", ""), spent_out) == 3
    assert code(spent_out, ("failed", "ArithmeticError: no number")) == 1
