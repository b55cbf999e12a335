"""The graph of stages."""

from tests.toys import Number, Sum
from w2s.stages.base import closure


def test_closure_lists_inputs_before_readers_each_once() -> None:
    one, two = Number(value=1), Number(value=2)
    middle = Sum(inputs_=(one, two), tag="middle")
    top = Sum(inputs_=(middle, one), tag="top")
    assert [stage.name for stage in closure([top, middle]).values()] == [
        "number 1",
        "number 2",
        "sum-middle",
        "sum-top",
    ]
