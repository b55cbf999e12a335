"""Who gets room on the cluster for served models, and when. No Ray, no clock, no processes.

A *unit* is a model with all its replicas. A stage that talks to models (`Wish`) gets a seat when
all its units are up or fit beside what is there: all of them or none, so no stage holds one model
while it waits for another. `decide` looks at who waits, at the units and at the gangs, and says
which stages get a seat, which units start and stop, and which gangs end:

1. Stages whose units are all up go first: a unit serves every stage that is ready for it before it
   goes.
2. Of the others the one whose units serve the most waiting stages goes first, then the oldest.
   Units that nobody uses stop for it at once, and so do gangs without work.
3. Who has waited for longer than a turn goes before all others, the oldest first, and what stands
   in its way drains once it has been there for a turn: units get no new stage, gangs end after the
   stage they run. Training that waits without a single gang is one of those who wait. So models
   take turns, and so do serving and training.
4. What is needed soon starts early, in room that nobody waits for.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from sweeps.resources import Resources, left_over

T = TypeVar("T")

Group = tuple[int, Resources]
"""(number, resources of each) of replicas or workers that are started together."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A model with all its replicas."""

    key: str
    """Key of the model."""
    count: int = 1
    """Replicas at most."""
    per_replica: Resources = field(default_factory=dict)
    """Ray resources of each; empty: it takes no room."""

    @property
    def group(self) -> Group:
        """What it reserves."""
        return (self.count if self.per_replica else 0, self.per_replica)


@dataclass(slots=True)
class Held:
    """A unit that takes room."""

    unit: Unit
    state: Literal["starting", "up", "stopping"] = "starting"
    users: set[str] = field(default_factory=set)
    """Keys of the stages that have a seat at it."""
    idle_since: float = 0.0
    """When the last of them left."""
    up_since: float = 0.0
    """When it came up."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A stage that is ready but for its models."""

    stage: str
    """Its key."""
    units: tuple[Unit, ...]
    """Models it talks to."""
    since: float
    """When it became ready, or when the model it lacks was last there, if that was later."""

    @property
    def keys(self) -> frozenset[str]:
        """Keys of its units."""
        return frozenset(unit.key for unit in self.units)


@dataclass(frozen=True, slots=True)
class GangUse:
    """What a gang takes."""

    id: int
    """Number of the gang."""
    group: Group
    """Its workers."""
    since: float = 0.0
    """When it started."""
    is_useless: bool = False
    """No stage is ready for it."""
    is_ending: bool = False
    """It ends by itself."""


@dataclass(frozen=True, slots=True)
class TrainingNeed:
    """Training that waits for room."""

    group: Group
    """Workers of the gang that does not fit."""
    since: float
    """Since when."""
    is_starved: bool
    """There is no other gang that its stages could run in."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What there is and who waits."""

    now: float
    """Time in seconds, on the clock of all the others."""
    nodes: Sequence[Resources]
    """Total resources of each node."""
    held: Mapping[str, Held]
    """Units that take room, by key."""
    gangs: Sequence[GangUse] = ()
    """Gangs that take room."""
    wishes: Sequence[Wish] = ()
    """Stages that wait for a seat."""
    soon: Sequence[Unit] = ()
    """Units that stages to come will need, and that could start."""
    training: TrainingNeed | None = None
    """Training that waits."""
    seats: int = 1
    """Stages that may get a seat now."""
    turn_s: float = 120.0
    """Wait after which somebody goes before all others, and what others have at least."""
    idle_s: float = 20.0
    """Time after which a unit stops that nobody needs."""


@dataclass(slots=True)
class Decision:
    """What to do."""

    seat: list[str] = field(default_factory=list)
    """Stages that get a seat."""
    start: list[Unit] = field(default_factory=list)
    """Units to bring up."""
    stop: list[str] = field(default_factory=list)
    """Units to take down, by key."""
    end_gangs: list[int] = field(default_factory=list)
    """Gangs that end after the stage they run."""
    reserved: list[Group] = field(default_factory=list)
    """Room that is kept free for a stage whose turn it is."""


def fits(nodes: Sequence[Resources], taken: Sequence[Group], wanted: Sequence[Group]) -> bool:
    """Whether groups can be placed on nodes beside what is taken, each member on one node."""
    free = left_over(nodes, taken)
    for count, needs in wanted:
        for _ in range(count):
            place = next(
                (n for n in free if all(n.get(name, 0.0) >= need for name, need in needs.items())),
                None,
            )
            if place is None:
                return False
            for name, need in needs.items():
                place[name] -= need
    return True


def decide(scene: Scene) -> Decision:
    """What to start, stop and run now; see the module."""
    return _Decider(scene).run()


def _fewest(order: Sequence[T], are_enough: Callable[[Sequence[T]], bool]) -> list[T] | None:
    """The shortest beginning that is enough, less those it can do without; None: all are not."""
    found = next((list(order[:n]) for n in range(len(order) + 1) if are_enough(order[:n])), None)
    for one in list(found or ()):
        assert found is not None
        rest = [other for other in found if other != one]
        if are_enough(rest):
            found = rest
    return found


class _Decider:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._made = Decision()
        self._draining: set[str] = set()
        """Units that shall go for somebody whose turn it is."""
        self._promised: set[str] = set()
        """Units that have their room kept free."""
        self._kept: list[Group] = []
        """Room that is kept free for training."""
        self._used: set[str] = set()
        """Units of stages that get a seat now."""
        self._is_blocked = False
        """A stage waits for room."""

    def run(self) -> Decision:
        scene, made = self._scene, self._made
        waiting = sorted(scene.wishes, key=lambda wish: wish.since)
        lacking = [wish for wish in waiting if self._missing(wish)]
        need = scene.training
        training_first = (
            need is not None
            and need.is_starved
            and need.since <= min((wish.since for wish in lacking), default=need.since)
        )
        training_late = False
        if need is not None and training_first:
            self._evict_for_training(need)
            if training_late := self._is_late(need.since):
                self._clear_for_training(need)
        elif lacking and self._is_late(lacking[0].since) and scene.seats:
            head = lacking[0]
            waiting.remove(head)
            if not self._admit(head):
                self._is_blocked = True
                self._clear_for(head)
        waiting = self._seat_where_up(waiting)
        served_with = self._served_with()
        tried: set[frozenset[str]] = set()
        for wish in sorted(waiting, key=lambda wish: (-served_with[wish.keys], wish.since)):
            if len(made.seat) >= scene.seats:
                break
            if wish.keys in tried:
                continue  # like another that does not fit
            if training_late and any(unit.per_replica for unit in self._missing(wish)):
                self._is_blocked = True
            elif not self._admit(wish):
                self._is_blocked = True
                tried.add(wish.keys)
                self._evict_for(wish)
        if need is not None and not training_first and not self._is_blocked:
            self._evict_for_training(need)
        if need is None and not self._is_blocked:
            self._start_early()
        self._stop_idle()
        return made

    # Training

    def _is_late(self, since: float) -> bool:
        return self._scene.now - since > self._scene.turn_s

    def _evict_for_training(self, need: TrainingNeed) -> None:
        """Stop units that nobody uses, where that lets a gang start."""
        keep = self._useful()
        if not need.is_starved:
            keep.update(unit.key for unit in self._scene.soon)
        idle = [held for held in self._idle() if held.unit.key not in keep]
        if self._stop_enough(idle, [need.group]):
            self._kept.append(need.group)

    def _clear_for_training(self, need: TrainingNeed) -> None:
        """Drain units for a gang whose turn it is."""
        if self._kept:
            return
        going, _ = self._in_the_way([need.group], keep=(), gangs=())
        self._drain(going)
        self._kept.append(need.group)

    # Seats

    def _missing(self, wish: Wish) -> list[Unit]:
        """Units that are not there to stay."""
        held, stopped = self._scene.held, set(self._made.stop)
        started = {unit.key for unit in self._made.start}
        return [
            unit
            for unit in wish.units
            if unit.key not in started
            and (unit.key not in held or held[unit.key].state == "stopping" or unit.key in stopped)
        ]

    def _useful(self) -> set[str]:
        """Units of stages that lack none: they could have a seat at once."""
        able = [wish for wish in self._scene.wishes if not self._missing(wish)]
        return {unit.key for wish in able for unit in wish.units}

    def _seat_where_up(self, waiting: Sequence[Wish]) -> list[Wish]:
        """Seat those whose units are there; returns the others."""
        left = []
        for wish in waiting:
            has_seat = len(self._made.seat) < self._scene.seats
            drained = any(unit.key in self._draining for unit in wish.units)
            if self._missing(wish):
                left.append(wish)
            elif has_seat and not drained:
                self._give_seat(wish)
        return left

    def _admit(self, wish: Wish) -> bool:
        """Seat a stage if what it lacks fits now."""
        if any(unit.key in self._draining for unit in wish.units):
            return False
        missing = self._missing(wish)
        leaving = {key for key, held in self._scene.held.items() if held.state == "stopping"}
        leaving.update(self._made.stop)
        if any(unit.key in leaving for unit in missing):
            return False  # it must be gone before it can come back
        if not fits(self._scene.nodes, self._taken(), [unit.group for unit in missing]):
            return False
        self._made.start.extend(missing)
        self._give_seat(wish)
        return True

    def _give_seat(self, wish: Wish) -> None:
        self._made.seat.append(wish.stage)
        self._used.update(unit.key for unit in wish.units)

    def _served_with(self) -> dict[frozenset[str], int]:
        """For the units of each wish, how many waiting stages could run on them."""
        numbers = Counter(wish.keys for wish in self._scene.wishes)
        return {
            keys: sum(count for other, count in numbers.items() if other <= keys)
            for keys in numbers
        }

    # Room

    def _taken(self, without: Collection[str] = (), gangs: Collection[int] = ()) -> list[Group]:
        """What is taken once some units and gangs are gone."""
        scene, made = self._scene, self._made
        units = [held.unit.group for key, held in scene.held.items() if key not in without]
        started = [unit.group for unit in made.start]
        workers = [gang.group for gang in scene.gangs if gang.id not in gangs]
        # First, or room that is kept would be left out where others have it for now.
        return [*made.reserved, *self._kept, *units, *started, *workers]

    def _idle(self) -> list[Held]:
        """Units that nobody uses, the longest idle first."""
        found = [
            held
            for held in self._scene.held.values()
            if self._is_idle(held) and held.state != "stopping" and held.unit.per_replica
        ]
        return sorted(found, key=lambda held: held.idle_since)

    def _is_idle(self, held: Held) -> bool:
        return not held.users and held.unit.key not in self._used

    def _going(self) -> set[str]:
        """Units that take room for a moment more."""
        leaving = {key for key, held in self._scene.held.items() if held.state == "stopping"}
        return leaving | set(self._made.stop)

    def _ending(self) -> set[int]:
        ending = {gang.id for gang in self._scene.gangs if gang.is_ending}
        return ending | set(self._made.end_gangs)

    def _stop_enough(self, idle: Sequence[Held], wanted: Sequence[Group]) -> bool:
        """Stop as many of these units as it takes; none where all of them would not be enough."""
        going, ending = self._going(), self._ending()

        def are_enough(chosen: Sequence[str]) -> bool:
            return fits(self._scene.nodes, self._taken({*going, *chosen}, ending), wanted)

        found = _fewest([held.unit.key for held in idle], are_enough)
        self._stop(found or ())
        return found is not None

    def _evict_for(self, wish: Wish) -> None:
        """Make room for a stage where nobody has to be disturbed; keep it for that stage."""
        scene = self._scene
        mine = {unit.key for unit in wish.units}
        soon = {unit.key for unit in scene.soon}
        idle = [held for held in self._idle() if held.unit.key not in mine]
        idle.sort(key=lambda held: held.unit.key in soon)
        missing = [unit for unit in self._missing(wish) if unit.key not in self._promised]
        wanted = [unit.group for unit in missing]
        useless = [gang.id for gang in scene.gangs if gang.is_useless and not gang.is_ending]
        enough = self._stop_enough(idle, wanted)
        if not enough and useless:
            before = list(self._made.end_gangs)
            self._made.end_gangs.extend(useless)
            enough = self._stop_enough(idle, wanted)
            if not enough:
                self._made.end_gangs = before
        if enough:
            self._promise(missing)

    def _clear_for(self, head: Wish) -> None:
        """Drain what stands in the way of the stage whose turn it is."""
        mine = frozenset(unit.key for unit in head.units)
        missing = self._missing(head)
        wanted = [unit.group for unit in missing]
        going, gangs = self._in_the_way(wanted, mine, self._scene.gangs)
        self._drain(going)
        self._made.end_gangs.extend(gangs)
        self._promise(missing)

    def _promise(self, units: Sequence[Unit]) -> None:
        """Keep room free for units until they can start."""
        self._made.reserved.extend(unit.group for unit in units)
        self._promised.update(unit.key for unit in units)

    def _drain(self, keys: Collection[str]) -> None:
        """Units get no new stage, and stop when the last one has left."""
        self._draining.update(keys)
        self._stop([key for key in keys if self._is_idle(self._scene.held[key])])

    def _in_the_way(
        self, wanted: Sequence[Group], keep: Collection[str], gangs: Sequence[GangUse]
    ) -> tuple[set[str], list[int]]:
        """Units and gangs that must go before groups fit, in the order that costs least.

        None where those that have had their turn are not enough.
        """
        scene, useful = self._scene, self._useful()
        units = [
            held
            for key, held in scene.held.items()
            if key not in keep
            and held.unit.per_replica
            and held.state != "stopping"
            and (
                (self._is_idle(held) and key not in useful)
                or (held.state == "up" and self._is_late(held.up_since))
            )
        ]
        units.sort(key=lambda held: (len(held.users), held.idle_since))
        going, ending = self._going(), self._ending()
        alive = [
            gang
            for gang in gangs
            if gang.id not in ending and (gang.is_useless or self._is_late(gang.since))
        ]
        # Gangs without work first, those with some last.
        order: list[str | int] = [gang.id for gang in alive if gang.is_useless]
        order.extend(held.unit.key for held in units)
        order.extend(gang.id for gang in alive if not gang.is_useless)

        def split(chosen: Sequence[str | int]) -> tuple[set[str], list[int]]:
            new_units = {one for one in chosen if isinstance(one, str)}
            return new_units, [one for one in chosen if isinstance(one, int)]

        def are_enough(chosen: Sequence[str | int]) -> bool:
            new_units, new_gangs = split(chosen)
            taken = self._taken(going | new_units, ending | set(new_gangs))
            return fits(scene.nodes, taken, wanted)

        return split(_fewest(order, are_enough) or ())

    def _stop(self, keys: Sequence[str]) -> None:
        self._made.stop.extend(key for key in keys if key not in self._made.stop)

    # Early and late

    def _start_early(self) -> None:
        scene, made = self._scene, self._made
        there = {*scene.held, *(unit.key for unit in made.start)}
        for unit in scene.soon:
            new = unit.key not in there
            if new and fits(scene.nodes, self._taken(), [unit.group]):
                made.start.append(unit)
                there.add(unit.key)

    def _stop_idle(self) -> None:
        scene = self._scene
        needed = {unit.key for unit in scene.soon}
        needed.update(unit.key for wish in scene.wishes for unit in wish.units)
        self._stop(
            [
                key
                for key, held in scene.held.items()
                if not held.users
                and held.state == "up"
                and key not in needed
                and scene.now - held.idle_since >= scene.idle_s
            ]
        )
