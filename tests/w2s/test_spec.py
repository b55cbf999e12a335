"""Parsing by kind, and what is said when it fails."""

import gc
import hashlib
import json
from enum import Enum

import pytest
from pydantic import BaseModel, Field, JsonValue

from w2s.errors import UserError
from w2s.losses.base import Loss
from w2s.losses.confidence import Confidence
from w2s.losses.xent import Xent
from w2s.methods.base import Method
from w2s.spec import ByIdentity, OneOf, Spec, available, digest, encoded, parse


class Holder(Spec):
    loss: OneOf[Loss] = "xent"  # pyright: ignore[reportAssignmentType] - validated


def test_a_kind_is_the_name_of_a_file() -> None:
    assert {"xent", "confidence", "product"} <= set(available(Loss))
    assert isinstance(parse(Loss, "xent"), Xent)


def test_a_table_sets_the_fields_of_its_kind() -> None:
    loss = parse(Loss, {"kind": "confidence", "max_weight": 0.75})
    assert isinstance(loss, Confidence)
    assert loss.max_weight == 0.75


def test_the_default_of_a_field_is_parsed_too() -> None:
    assert isinstance(Holder().loss, Xent)


def test_dumping_keeps_the_fields_of_the_subclass() -> None:
    dumped = Holder(loss=Confidence(max_weight=0.9)).model_dump()
    assert dumped["loss"]["max_weight"] == 0.9


def test_an_unknown_kind_lists_those_there_are() -> None:
    with pytest.raises(UserError, match=r"unknown loss 'confidnce'; available: .*confidence.*xent"):
        parse(Loss, "confidnce")


def test_an_unknown_field_lists_the_fields() -> None:
    with pytest.raises(UserError, match=r"max_weigt: unknown key; allowed here: .*max_weight"):
        parse(Loss, {"kind": "confidence", "max_weigt": 0.5})


def test_a_value_out_of_range_is_named_with_what_was_found() -> None:
    with pytest.raises(UserError, match=r"num_members: .*greater than or equal to 2; found 1"):
        parse(Method, {"kind": "debate_ensemble", "num_members": 1})


def test_a_table_without_kind_is_refused() -> None:
    with pytest.raises(UserError, match="table with a `kind`"):
        parse(Loss, {"max_weight": 0.5})


def test_a_class_from_elsewhere_is_named_by_module() -> None:
    assert isinstance(parse(Loss, "w2s.losses.xent:Xent"), Xent)
    with pytest.raises(UserError, match="cannot load loss 'no_such_module:Loss'"):
        parse(Loss, "no_such_module:Loss")


class Colour(Enum):
    RED = "red"


class Inner(Spec):
    name: str = 'quoted " and ü'
    numbers: tuple[float, ...] = (1.0, 1e-7, 0.1)


class Outer(Spec):
    inner: Inner = Inner()
    table: dict[str, JsonValue] = Field(default_factory=lambda: {"b": [1, None], "a": True})
    colour: Colour = Colour.RED
    count: int = 3


def test_the_encoding_is_the_json_of_all_fields_with_sorted_names() -> None:
    inner = {"class": f"{__name__}.Inner", "name": 'quoted " and ü', "numbers": [1.0, 1e-7, 0.1]}
    whole = {
        "class": f"{__name__}.Outer",
        "colour": "red",
        "count": 3,
        "inner": inner,
        "table": {"a": True, "b": [1, None]},
    }
    expected = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert encoded(Outer()) == expected
    assert encoded([Outer(), 1]) == f"[{expected},1]"
    assert digest(Outer()) == hashlib.sha256(expected.encode()).hexdigest()[:16]


def test_a_spec_that_stands_in_for_itself_is_told_from_one_that_is_spelt_out() -> None:
    def stand_in(value: BaseModel) -> str | None:
        return "name" if isinstance(value, Inner) else None

    outer = Outer()
    spelt = encoded(outer)
    assert '"inner":{"key":"name"}' in encoded(outer, stand_in)
    assert encoded(outer) == spelt


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {"a"}, object(), print])
def test_what_has_no_stable_encoding_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="cannot hash"):
        encoded({"value": value} if not isinstance(value, dict) else value)


def test_what_is_remembered_of_an_object_goes_with_it() -> None:
    known: ByIdentity[str] = ByIdentity()
    first, equal = Inner(), Inner()
    known.put(first, "first")
    assert known.get(first) == "first"
    assert known.get(equal) is None
    number = id(first)
    del first
    gc.collect()
    assert number not in known._known
