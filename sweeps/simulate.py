"""A schedule on paper: which job starts when on how many GPUs, by the broker's rule.

`schedule` plays a graph of `Job`s through an imagined cluster, from one end of a job to the next.
The rule is the broker's: what begins the longest chain goes first, and a gang that holds the
wanted model makes a chain count half as much again. A job that does not fit keeps its place: others
go before it only where they are over by the time at which it can start. Of jobs that want the same
GPUs and model only the first is looked at. A gang stays warm after its
job, until others need its GPUs. Nothing here knows a stage, a store or Ray; `sweeps.demands` says
what the jobs of a sweep are.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

WARM_BONUS = 1.5
"""How much longer a chain must be to go before one whose model is held (`sweeps.board`)."""


@dataclass(frozen=True, slots=True)
class Job:
    """Something to run."""

    key: str
    """Identity."""
    name: str
    """Name for people."""
    kind: str
    """Kind, for sums."""
    seconds: float
    """How long it computes, on its GPUs or on its CPU."""
    gpus: int = 0
    """GPUs of its gang; 0: it takes one CPU and no gang."""
    model: str = ""
    """What its gang has to hold; empty: nothing."""
    load_s: float = 0.0
    """Seconds to get it there."""
    start_s: float = 0.0
    """Seconds to start a gang for it where none of its size is idle."""
    inputs: tuple[str, ...] = ()
    """Keys of the jobs that must be over before it starts."""


@dataclass(frozen=True, slots=True)
class Run:
    """When a job ran."""

    job: Job
    ready: float
    """Seconds from the start at which its inputs were there."""
    start: float
    """Seconds from the start at which it was given its GPUs or CPU."""
    end: float
    """Seconds from the start."""
    new_gang: bool = False
    """Whether a gang was started for it."""

    @property
    def waited(self) -> float:
        """Seconds for which only GPUs or CPUs were missing."""
        return self.start - self.ready


@dataclass(frozen=True, slots=True)
class Schedule:
    """All that ran."""

    runs: Mapping[str, Run]
    """By key of the job."""
    gpus: int
    """Of the cluster."""
    most_gpus: int
    """Most GPUs that jobs had at the same time."""

    @property
    def makespan(self) -> float:
        """Seconds until the last job is over."""
        return max((run.end for run in self.runs.values()), default=0.0)

    @property
    def computing(self) -> float:
        """GPU-seconds in which jobs compute."""
        return sum(run.job.gpus * run.job.seconds for run in self.runs.values())

    @property
    def starting(self) -> float:
        """GPU-seconds in which gangs start and models are loaded."""
        given = sum(run.job.gpus * (run.end - run.start) for run in self.runs.values())
        return given - self.computing

    @property
    def idle_share(self) -> float:
        """Share of the GPU-seconds until the end in which no job computes."""
        whole = self.gpus * self.makespan
        return 1.0 - self.computing / whole if whole else 0.0

    def critical_path(self) -> list[Run]:
        """The chain that ends last: each job after the input that kept it longest."""
        if not self.runs:
            return []
        run = max(self.runs.values(), key=lambda run: run.end)
        path = [run]
        while run.job.inputs:
            run = max((self.runs[key] for key in run.job.inputs), key=lambda run: run.end)
            path.append(run)
        return path[::-1]


@dataclass(slots=True)
class _Gang:
    """GPUs with workers on them."""

    gpus: int
    model: str
    idle_since: float = 0.0


Group = tuple[int, str]
"""Jobs that want the same: GPUs and model."""


@dataclass(slots=True)
class _Cluster:
    """What is free, warm and running."""

    free: int
    cpus: int
    idle: list[_Gang] = field(default_factory=list)
    ends: list[tuple[float, int, str, _Gang | None]] = field(default_factory=list)
    """Heap of (end, number, key, gang)."""

    def warm(self, gpus: int, model: str) -> _Gang | None:
        """An idle gang of a size, one that holds the model before others."""
        found = [gang for gang in self.idle if gang.gpus == gpus]
        return min(found, key=lambda gang: (gang.model != model, gang.idle_since), default=None)

    def can_start(self, gpus: int) -> bool:
        """Whether free GPUs and those of idle gangs are enough for a new gang."""
        return self.free + sum(gang.gpus for gang in self.idle) >= gpus

    def start(self, gpus: int, model: str) -> _Gang:
        """A new gang; idle ones go, the longest idle first, until there is room."""
        self.idle.sort(key=lambda gang: gang.idle_since)
        while self.free < gpus:
            self.free += self.idle.pop(0).gpus
        self.free -= gpus
        return _Gang(gpus, model)

    def room_at(self, gpus: int) -> float:
        """When so many GPUs are free, if nothing else is started."""
        room = self.free + sum(gang.gpus for gang in self.idle)
        for end, _, _, gang in sorted(self.ends, key=lambda item: item[:2]):
            room += gang.gpus if gang else 0
            if room >= gpus:
                return end
        raise AssertionError(f"{gpus} GPUs are never free")


def schedule(jobs: Iterable[Job], *, gpus: int, cpus: int) -> Schedule:
    """Run jobs on paper.

    Args:
        jobs: every input of a job must be among them, and no job may need more than `gpus`.
        gpus: of the cluster.
        cpus: of the cluster, for the jobs without GPUs.
    """
    by_key = {job.key: job for job in jobs}
    assert all(job.gpus <= gpus for job in by_key.values())
    dependents: dict[str, list[str]] = defaultdict(list)
    for job in by_key.values():
        for source in job.inputs:
            dependents[source].append(job.key)
    missing = {key: len(job.inputs) for key, job in by_key.items()}
    lengths = _chain_lengths(by_key, dependents)
    ready: dict[Group, list[tuple[float, int, str]]] = defaultdict(list)
    ready_at: dict[str, float] = {}
    order = {key: number for number, key in enumerate(by_key)}
    here = _Cluster(free=gpus, cpus=cpus)
    runs: dict[str, Run] = {}
    now, most, busy = 0.0, 0, 0

    def make_ready(key: str) -> None:
        job = by_key[key]
        ready_at[key] = now
        group = (job.gpus, job.model if job.gpus else "")
        heapq.heappush(ready[group], (-lengths[key], order[key], key))

    for key, number in missing.items():
        if not number:
            make_ready(key)
    while any(ready.values()) or here.ends:
        while (picked := _next(here, ready, by_key, lengths, now)) is not None:
            job, gang, spent = picked
            group = (job.gpus, job.model if job.gpus else "")
            heapq.heappop(ready[group])
            end = now + spent + job.seconds
            new = gang is not None and spent >= job.start_s > 0
            runs[job.key] = Run(job, ready_at[job.key], now, end, new_gang=new)
            heapq.heappush(here.ends, (end, order[job.key], job.key, gang))
            busy += job.gpus
            most = max(most, busy)
        now, _, key, gang = heapq.heappop(here.ends)
        over = [(key, gang)]
        while here.ends and here.ends[0][0] == now:
            over.append(heapq.heappop(here.ends)[2:])
        for key, gang in over:
            if gang is None:
                here.cpus += 1
            else:
                busy -= gang.gpus
                gang.idle_since = now
                here.idle.append(gang)
            for dependent in dependents[key]:
                missing[dependent] -= 1
                if not missing[dependent]:
                    make_ready(dependent)
    assert len(runs) == len(by_key)
    return Schedule(runs, gpus, most)


def _next(
    here: _Cluster,
    ready: Mapping[Group, list[tuple[float, int, str]]],
    jobs: Mapping[str, Job],
    lengths: Mapping[str, float],
    now: float,
) -> tuple[Job, _Gang | None, float] | None:
    """The job to start now, its gang, and the seconds until it computes; None: nothing fits."""
    held = {(gang.gpus, gang.model) for gang in here.idle}

    def urgency(group: Group) -> tuple[float, int]:
        length, number, _ = ready[group][0]
        return (1.0 - length) * (WARM_BONUS if group in held and group[1] else 1.0), -number

    reserved: float | None = None
    for group in sorted(
        (group for group, heap in ready.items() if heap), key=urgency, reverse=True
    ):
        job = jobs[ready[group][0][2]]
        if not job.gpus:
            if here.cpus:
                here.cpus -= 1
                return job, None, 0.0
            continue
        gang = here.warm(job.gpus, job.model)
        if gang is not None:
            spent = 0.0 if gang.model == job.model else job.load_s
        elif here.can_start(job.gpus):
            spent = job.start_s + job.load_s
        else:
            reserved = here.room_at(job.gpus) if reserved is None else reserved
            continue
        if reserved is not None and now + spent + job.seconds > reserved:
            continue
        if gang is None:
            gang = here.start(job.gpus, job.model)
        else:
            here.idle.remove(gang)
            gang.model = job.model
        return job, gang, spent
    return None


def _chain_lengths(
    jobs: Mapping[str, Job], dependents: Mapping[str, list[str]]
) -> dict[str, float]:
    """Seconds of the longest chain of jobs that begins with each."""
    lengths: dict[str, float] = {}
    todo = list(jobs)
    while todo:
        key = todo[-1]
        later = [one for one in dependents.get(key, ()) if one not in lengths]
        if later and key not in lengths:
            todo.extend(later)
            continue
        todo.pop()
        if key not in lengths:
            below = [lengths[one] for one in dependents.get(key, ())]
            lengths[key] = jobs[key].seconds + max(below, default=0.0)
    return lengths
