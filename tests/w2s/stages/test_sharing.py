"""Equal stages are one object; nothing else is."""

import gc
import pickle
import weakref

from pydantic import BaseModel, SerializeAsAny

from tests.toys import Number
from w2s.spec import Spec
from w2s.stages.base import Stage


class Recipe(Spec):
    share: float = 0.5


class Made(Stage):
    of: tuple[SerializeAsAny[Stage], ...] = ()
    recipe: Recipe = Recipe()
    flag: bool = False
    table: dict[str, int] = {}  # noqa: RUF012 - a field


class Place(Spec):
    path: str
    digest: str

    def identity_fields(self) -> tuple[str, ...]:
        return ("digest",)


class Placed(Stage):
    place: Place


def test_a_stage_that_is_composed_again_is_the_same_object() -> None:
    first = Made(of=(Number(value=1), Number(value=2)), recipe=Recipe(share=0.25))
    again = Made(of=(Number(value=1), Number(value=2)), recipe=Recipe(share=0.25))
    assert again is first
    assert again.of[0] is Number(value=1)


def test_what_differs_in_any_field_is_another_stage() -> None:
    made = [
        Made(),
        Made(of=(Number(value=1),)),
        Made(of=(Number(value=2),)),
        Made(recipe=Recipe(share=1)),
        Made(flag=True),
        Made(table={"a": 1}),
    ]
    assert len({stage.key for stage in made}) == len(made)
    assert [Number(value=0).value, Number(value=1, fails=True).fails] == [0, True]


def test_fields_without_identity_are_kept_apart() -> None:
    # Equal keys, but only one of them lies where its maker said.
    here = Placed(place=Place(path="here", digest="d"))
    there = Placed(place=Place(path="there", digest="d"))
    assert here.key == there.key
    assert (here.place.path, there.place.path) == ("here", "there")


def test_inputs_of_equal_keys_are_kept_apart() -> None:
    class Above(Stage):
        below: Placed

    here = Above(below=Placed(place=Place(path="here", digest="d")))
    there = Above(below=Placed(place=Place(path="there", digest="d")))
    assert here.key == there.key
    assert there.below.place.path == "there"


def test_a_table_as_a_field_is_no_obstacle() -> None:
    assert Made(table={"a": 1}).key == Made(table={"a": 1}).key


def test_a_stage_is_forgotten_with_its_last_holder() -> None:
    stage = Made(of=(Number(value=77),))
    seen = weakref.ref(stage)
    del stage
    gc.collect()
    assert seen() is None


def test_a_new_version_of_a_class_makes_new_stages() -> None:
    class Versioned(Stage):
        value: int = 0

    first = Versioned()
    before = first.key
    Versioned.version = 2
    assert Versioned().key != before


def test_a_pickled_stage_keeps_its_key() -> None:
    stage = Made(of=(Number(value=3),))
    copied = pickle.loads(pickle.dumps(stage))
    assert copied.key == stage.key
    assert isinstance(copied, BaseModel)
    assert copied == stage


def test_a_copy_with_another_field_has_its_own_key() -> None:
    stage = Made(recipe=Recipe(share=0.1))
    changed = stage.model_copy(update={"recipe": Recipe(share=0.2)})
    assert changed.key == Made(recipe=Recipe(share=0.2)).key
    assert stage.recipe.share == 0.1
