"""Who gets room for served models: scenes worked by hand on a node or two."""

from typing import Any

from sweeps.admission import (
    Decision,
    GangUse,
    Held,
    Scene,
    TrainingNeed,
    Unit,
    Wish,
    decide,
    fits,
)

TWO_CPUS = [{"CPU": 2.0}]
A, B, C = (Unit(name, 1, {"CPU": 2.0}) for name in "abc")
"""Models of which only one fits on two CPUs."""
SMALL = Unit("small", 1, {"CPU": 1.0})
FREE = Unit("free")
"""A model that takes no room."""


def up(*units: Unit, users: tuple[str, ...] = (), since: float = 0.0) -> dict[str, Held]:
    return {unit.key: Held(unit, "up", set(users), since, since) for unit in units}


def decided(**fields: Any) -> Decision:
    scene = {"now": 0.0, "nodes": TWO_CPUS, "held": {}, "turn_s": 100.0, "idle_s": 20.0}
    return decide(Scene(**{**scene, **fields}))


def test_replicas_must_each_fit_on_one_node():
    nodes = [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 2.0}]
    assert fits(nodes, (), [(2, {"GPU": 2.0})])
    assert not fits(nodes, (), [(1, {"GPU": 4.0})])
    assert not fits(nodes, (), [(3, {"GPU": 2.0})])
    assert not fits(nodes, [(1, {"GPU": 1.0})], [(2, {"GPU": 2.0})])


def test_what_does_not_fit_beside_a_model_in_use_waits():
    made = decided(held=up(A, users=("first",)), wishes=[Wish("second", (B,), 0.0)])
    assert made == Decision()


def test_stage_gets_all_its_models_or_none():
    one = Unit("one", 1, {"CPU": 1.0})
    wish = Wish("debate", (one, A), 0.0)
    assert decided(nodes=[{"CPU": 2.0}], wishes=[wish]) == Decision()
    made = decided(nodes=[{"CPU": 3.0}], wishes=[wish])
    assert (made.seat, made.start) == (["debate"], [one, A])


def test_a_model_serves_every_ready_stage_before_it_goes_for_an_older_one():
    wishes = [Wish("old", (B,), 0.0), Wish("new", (A,), 50.0)]
    made = decided(now=60.0, held=up(A), wishes=wishes)
    assert made.seat == ["new"]
    assert made.stop == []


def test_a_model_nobody_uses_stops_at_once_when_a_stage_waits_and_its_room_is_kept():
    made = decided(held=up(A), wishes=[Wish("next", (B,), 0.0)])
    assert (made.seat, made.stop, made.reserved) == ([], ["a"], [B.group])
    leaving = {"a": Held(A, "stopping")}
    made = decided(held=leaving, wishes=[Wish("next", (B,), 0.0), Wish("other", (C,), 1.0)])
    assert (made.seat, made.start, made.stop, made.reserved) == ([], [], [], [B.group])
    made = decided(wishes=[Wish("next", (B,), 0.0)])
    assert (made.seat, made.start) == (["next"], [B])


def test_no_more_models_stop_than_it_takes_and_none_in_vain():
    four = [{"CPU": 4.0}]
    smalls = [Unit(f"s{number}", 1, {"CPU": 1.0}) for number in range(4)]
    held = {unit.key: Held(unit, "up", set(), float(9 - n)) for n, unit in enumerate(smalls)}
    made = decided(nodes=four, held=held, wishes=[Wish("next", (A,), 0.0)])
    assert sorted(made.stop) == ["s2", "s3"]  # idle the longest
    held["s0"].users = held["s1"].users = held["s2"].users = {"busy"}
    assert decided(nodes=four, held=held, wishes=[Wish("next", (A,), 0.0)]).stop == []


def test_room_is_made_once_for_stages_that_wait_for_the_same_model():
    one, two, new = (Unit(name, 1, {"CPU": 1.0}) for name in ("one", "two", "new"))
    wishes = [Wish("x", (new,), 0.0), Wish("y", (new,), 1.0), Wish("z", (new, FREE), 2.0)]
    made = decided(held=up(one, two), wishes=wishes, seats=3)
    assert (made.stop, made.reserved) == (["one"], [new.group, FREE.group])


def test_models_of_most_waiting_stages_come_first_then_the_oldest_stage():
    wishes = [
        Wish("alone", (A,), 0.0),
        Wish("many 1", (B,), 1.0),
        Wish("many 2", (B,), 2.0),
        Wish("late", (C,), 3.0),
    ]
    made = decided(now=5.0, wishes=wishes, seats=1)
    assert (made.seat, made.start) == (["many 1"], [B])
    made = decided(now=5.0, wishes=[wishes[3], wishes[0]], seats=2)
    assert (made.seat, made.start) == (["alone"], [A])


def test_a_stage_that_waits_for_longer_than_a_turn_drains_what_is_in_its_way():
    held = up(A, users=("running",))
    wishes = [Wish("old", (B,), 0.0), Wish("new", (A,), 90.0)]
    assert decided(now=99.0, held=held, wishes=wishes).seat == ["new"]
    made = decided(now=101.0, held=held, wishes=wishes)
    assert (made.seat, made.stop, made.reserved) == ([], [], [B.group])
    held["a"].users.clear()
    assert decided(now=101.0, held=held, wishes=wishes).stop == ["a"]
    made = decided(now=101.0, wishes=wishes)
    assert (made.seat, made.start) == (["old"], [B])


def test_a_model_has_its_turn_before_it_drains_for_whoever_waits_too_long():
    wishes = [Wish("old", (B,), 0.0), Wish("new", (A,), 90.0)]
    made = decided(now=150.0, held=up(A, users=("running",), since=60.0), wishes=wishes)
    assert (made.seat, made.stop, made.reserved) == (["new"], [], [B.group])
    made = decided(now=161.0, held=up(A, users=("running",), since=60.0), wishes=wishes)
    assert made.seat == []
    young = [GangUse(1, (1, {"CPU": 1.0}), since=60.0)]
    assert decided(now=150.0, gangs=young, wishes=wishes[:1]).end_gangs == []
    assert decided(now=161.0, gangs=young, wishes=wishes[:1]).end_gangs == [1]


def test_gangs_without_work_end_for_a_stage_at_once_and_working_ones_after_a_turn():
    wish = Wish("debate", (A,), 0.0)
    idle = [GangUse(1, (1, {"CPU": 1.0}), is_useless=True)]
    busy = [GangUse(1, (1, {"CPU": 1.0})), GangUse(2, (1, {"CPU": 1.0}))]
    assert decided(gangs=idle, wishes=[wish]).end_gangs == [1]
    assert decided(now=50.0, gangs=busy, wishes=[wish]) == Decision()
    made = decided(now=101.0, gangs=busy, wishes=[wish])
    assert (made.end_gangs, made.reserved, made.seat) == ([1, 2], [A.group], [])
    assert decided(now=101.0, gangs=busy, wishes=[Wish("s", (SMALL,), 0.0)]).end_gangs == [1]


def test_training_without_a_gang_gets_the_room_of_a_model_that_is_only_wanted_later():
    """Else a model that a stage needs could hold the room of a training that it needs as well."""
    need = TrainingNeed((1, {"CPU": 1.0}), 0.0, is_starved=True)
    assert decided(held=up(A), soon=[A], training=need).stop == ["a"]
    growing = TrainingNeed((1, {"CPU": 1.0}), 0.0, is_starved=False)
    assert decided(held=up(A), soon=[A], training=growing).stop == []
    assert decided(held=up(A), training=growing).stop == ["a"]


def test_training_that_waits_for_longer_than_a_turn_drains_models_and_stages_wait_for_it():
    need = TrainingNeed((1, {"CPU": 1.0}), 0.0, is_starved=True)
    wishes = [Wish("more", (A,), 10.0)]
    held = up(A, users=("running",))
    assert decided(now=99.0, held=held, wishes=wishes, training=need).seat == ["more"]
    assert decided(now=101.0, held=held, wishes=wishes, training=need) == Decision()
    held["a"].users.clear()
    made = decided(now=101.0, held=held, wishes=wishes, training=need)
    assert (made.seat, made.stop) == ([], ["a"])
    # What takes no room is in nobody's way.
    wishes = [Wish("light", (FREE,), 10.0)]
    assert decided(now=101.0, wishes=wishes, training=need).seat == ["light"]


def test_of_training_and_a_stage_that_both_wait_too_long_the_older_goes_first():
    held = up(C, users=("running",))
    wish = Wish("old", (A,), 0.0)
    need = TrainingNeed((1, {"CPU": 1.0}), 1.0, is_starved=True)
    assert decided(now=200.0, held=held, wishes=[wish], training=need).reserved == [A.group]
    older = TrainingNeed((1, {"CPU": 1.0}), -1.0, is_starved=True)
    assert decided(now=200.0, held=held, wishes=[wish], training=older).reserved == []


def test_models_of_stages_to_come_start_early_only_in_room_nobody_waits_for():
    assert decided(soon=[A]).start == [A]
    assert decided(soon=[A, B]).start == [A]
    blocked = [Wish("next", (B,), 0.0)]
    made = decided(held=up(C, users=("running",)), nodes=[{"CPU": 3.0}], wishes=blocked)
    assert made.start == []
    need = TrainingNeed((1, {"CPU": 3.0}), 0.0, is_starved=False)
    assert decided(soon=[A], training=need).start == []


def test_a_model_that_nobody_needs_any_more_goes_after_a_while():
    assert decided(now=19.0, held=up(A)).stop == []
    assert decided(now=20.0, held=up(A)).stop == ["a"]
    assert decided(now=20.0, held=up(A), soon=[A]).stop == []
    assert decided(now=20.0, held=up(A, users=("s",))).stop == []


def test_a_model_that_is_leaving_must_be_gone_before_it_comes_back():
    leaving = {"a": Held(A, "stopping")}
    made = decided(nodes=[{"CPU": 8.0}], held=leaving, wishes=[Wish("again", (A,), 0.0)])
    assert (made.seat, made.start) == ([], [])


def test_seats_bound_how_many_stages_run():
    wishes = [Wish(str(number), (FREE,), float(number)) for number in range(3)]
    assert decided(wishes=wishes, seats=2).seat == ["0", "1"]
    assert decided(wishes=wishes, seats=0).seat == []
