"""Parsing by kind, and what is said when it fails."""

import pytest

from w2s.errors import UserError
from w2s.losses.base import Loss
from w2s.losses.confidence import Confidence
from w2s.losses.xent import Xent
from w2s.methods.base import Method
from w2s.spec import OneOf, Spec, available, parse


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
