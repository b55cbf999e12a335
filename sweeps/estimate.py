"""How long the rest of a sweep will take, from what its stages have taken so far.

A stage's cost is a guess in seconds on one core. `seconds_left` takes from it only how stages of
one kind compare: what a unit of cost took is observed kind by kind, running stages included as far
as they have come. The rest then takes as long as its busiest lane needs at its present width, or as
its longest chain of stages, whichever is more.
"""

from collections import defaultdict
from dataclasses import dataclass

from sweeps.events import BrokerSnapshot, RunningStage, Work
from w2s.stages.base import Lane

MIN_SECONDS = 3.0
"""Seconds of work that must have been observed before anything is said."""
MIN_SHARE = 0.02
"""Share of a running stage that must be done before it counts as observed."""


@dataclass(slots=True)
class _Pace:
    """Work that was observed, and how long it took."""

    cost: float = 0.0
    seconds: float = 0.0

    def add(self, cost: float, seconds: float) -> None:
        self.cost += cost
        self.seconds += seconds

    @property
    def rate(self) -> float | None:
        """Seconds per unit of cost; None: unknown."""
        return self.seconds / self.cost if self.cost > 0 else None


def seconds_left(snapshot: BrokerSnapshot) -> float | None:
    """Seconds until everything that was asked for is done; None: nothing left, or not known yet."""
    if not any(work.number_left for work in snapshot.work.values()):
        return None
    rates, observed_s = _rates(snapshot)
    if observed_s < MIN_SECONDS:
        return None
    running = {stage.key: _stage_left(snapshot, stage, rates) for stage in snapshot.running}
    in_lane: defaultdict[Lane, float] = defaultdict(float)
    in_work: dict[str, list[RunningStage]] = defaultdict(list)
    for stage in snapshot.running:
        in_lane[stage.lane] += running[stage.key]
        in_work[stage.kind].append(stage)
    cost = seconds = 0.0
    for kind, work in snapshot.work.items():
        kind_cost = max(0.0, work.cost_left - sum(stage.cost for stage in in_work[kind]))
        kind_s = _planned_left(work, kind_cost, rates[kind], len(in_work[kind]))
        in_lane[work.lane] += kind_s
        cost += kind_cost
        seconds += kind_s
    mean_rate = seconds / cost if cost > 0 else 1.0
    chains = [snapshot.path_cost * mean_rate] + [
        running[stage.key] + (stage.path_cost - stage.cost) * mean_rate
        for stage in snapshot.running
    ]
    return max([*chains, *(s / _width(snapshot, lane) for lane, s in in_lane.items())])


def _rates(snapshot: BrokerSnapshot) -> tuple[dict[str, float], float]:
    """Seconds per unit of cost by kind, and the seconds that were observed.

    A kind of which nothing is known yet goes at the pace of its lane; where nothing is known of
    that either, as its cost says, or at the pace of all that was observed, if that is faster.
    """
    by_kind: dict[str, _Pace] = {kind: _Pace() for kind in snapshot.work}
    by_lane: defaultdict[Lane, _Pace] = defaultdict(_Pace)
    overall = _Pace()
    seen: list[tuple[str, Lane, float, float]] = [
        (kind, work.lane, work.cost_done, work.seconds_done) for kind, work in snapshot.work.items()
    ]
    for stage in snapshot.running:
        share = _share(stage)
        if share >= MIN_SHARE:
            elapsed = snapshot.time - stage.started
            seen.append((stage.kind, stage.lane, stage.cost * share, elapsed))
    for kind, lane, cost, seconds in seen:
        for pace in (by_kind[kind], by_lane[lane], overall):
            pace.add(cost, seconds)
    rates = {}
    for kind, work in snapshot.work.items():
        elsewhere = min(1.0, overall.rate or 1.0)
        known = (by_kind[kind].rate, by_lane[work.lane].rate, elsewhere)
        rates[kind] = next(rate for rate in known if rate is not None)
    return rates, overall.seconds


def _width(snapshot: BrokerSnapshot, lane: Lane) -> int:
    """Stages of a lane that run beside each other."""
    running = sum(stage.lane == lane for stage in snapshot.running)
    return max(1, running, snapshot.gangs if lane == "train" else 0)


def _share(stage: RunningStage) -> float:
    return min(1.0, stage.step / stage.total) if stage.total else 0.0


def _stage_left(snapshot: BrokerSnapshot, stage: RunningStage, rates: dict[str, float]) -> float:
    elapsed = snapshot.time - stage.started
    share = _share(stage)
    if share >= MIN_SHARE:
        return elapsed * (1 - share) / share
    return max(0.0, stage.cost * rates[stage.kind] - elapsed)


def _planned_left(work: Work, cost: float, rate: float, num_running: int) -> float:
    """Seconds of the planned stages of a kind, one after another."""
    if cost > 0 or not work.number_done:
        return cost * rate
    return (work.number_left - num_running) * work.seconds_done / work.number_done
