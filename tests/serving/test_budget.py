"""Limits a minute and budgets, on a clock that the test turns."""

import asyncio
from pathlib import Path

import pytest

from serving.budget import Ledger, Limits, Meter, Usage
from serving.errors import BudgetSpent


class Clock:
    """Seconds that pass when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def meter(clock: Clock, ledger: Ledger | None = None, **limits: int) -> Meter:
    return Meter(Limits(**limits), "gpt", ledger or Ledger(), clock=clock, sleep=clock.sleep)


async def ask(metered: Meter, estimate: int, cost: Usage | None = None) -> None:
    async with metered.request(estimate):
        metered.charge(cost or Usage(1, estimate, 0))


def test_no_minute_has_more_requests_than_its_limit() -> None:
    clock, begun = Clock(), []

    async def run() -> None:
        metered = meter(clock, requests_per_minute=3)
        for _ in range(8):
            await ask(metered, 1)
            begun.append(clock.now - 1000)
            clock.now += 5

    asyncio.run(run())
    # Three at once, five seconds apart; each later one waits for the third before it to be a
    # minute old.
    assert begun == [0, 5, 10, 60, 65, 70, 120, 125]


def test_tokens_a_minute_count_what_answers_cost_and_not_what_was_feared() -> None:
    clock, begun = Clock(), []

    async def run() -> None:
        metered = meter(clock, tokens_per_minute=100)
        for _ in range(5):
            await ask(metered, estimate=60, cost=Usage(1, 10, 10))
            begun.append(clock.now - 1000)

    asyncio.run(run())
    # 60 fit beside 0, 20 and 40 that were spent, not beside 60: the fourth waits.
    assert begun == [0, 0, 0, 60, 60]


def test_a_request_above_the_limit_a_minute_goes_alone() -> None:
    clock, begun = Clock(), []

    async def run() -> None:
        metered = meter(clock, tokens_per_minute=100)
        for _ in range(2):
            await ask(metered, 500)
            begun.append(clock.now - 1000)

    asyncio.run(run())
    assert begun == [0, 60]


def test_a_budget_of_requests_is_used_up_and_not_overdrawn_by_requests_beside_each_other() -> None:
    done = []

    async def one(metered: Meter, number: int) -> None:
        async with metered.request(10):
            await asyncio.sleep(0)
            metered.charge(Usage(1, 5, 5))
            done.append(number)

    async def run() -> list[BaseException | None]:
        metered = meter(Clock(), max_requests=3)
        return await asyncio.gather(*(one(metered, i) for i in range(6)), return_exceptions=True)

    ends = asyncio.run(run())
    assert done == [0, 1, 2]
    assert [type(end) for end in ends] == [type(None)] * 3 + [BudgetSpent] * 3
    assert "the budget of gpt is spent: 3 of 3 requests" in str(ends[3])


def test_a_request_waits_for_those_in_flight_before_it_says_that_the_budget_is_spent() -> None:
    # Each may take 60 of 100 tokens and takes 20: one after the other, four fit.
    done = []

    async def one(metered: Meter, number: int) -> None:
        async with metered.request(60):
            await asyncio.sleep(0)
            metered.charge(Usage(1, 10, 10))
        done.append(number)

    async def run() -> Usage:
        metered = meter(Clock(), max_tokens=100)
        await asyncio.gather(*(one(metered, i) for i in range(6)), return_exceptions=True)
        return metered.spent

    assert asyncio.run(run()) == Usage(3, 30, 30)
    assert done == [0, 1, 2]


def test_a_budget_holds_over_restarts_and_grows_when_it_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "spent.sqlite"

    async def spend(max_tokens: int) -> int:
        metered = meter(Clock(), Ledger(path), max_tokens=max_tokens)
        count = 0
        while True:
            try:
                await ask(metered, 10)
            except BudgetSpent:
                return count
            count += 1

    assert [asyncio.run(spend(limit)) for limit in (30, 30, 50)] == [3, 0, 2]
    assert Ledger(path).spent("gpt") == Usage(5, 50, 0)
    assert Ledger(path).spent("other") == Usage()


def test_what_got_no_answer_in_time_is_booked_as_feared_and_what_was_refused_is_free() -> None:
    async def run() -> tuple[Usage, Usage]:
        metered = meter(Clock(), max_tokens=1000)
        with pytest.raises(RuntimeError, match="429"):
            async with metered.request(7):
                raise RuntimeError("429")
        refused = metered.spent
        with pytest.raises(TimeoutError):
            async with metered.request(7):
                raise TimeoutError
        return refused, metered.spent

    assert asyncio.run(run()) == (Usage(), Usage(1, 7, 0))
