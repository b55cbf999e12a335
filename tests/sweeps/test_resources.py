import pytest

from sweeps.resources import GangShape, check_fits, left_over, slots
from w2s.errors import UserError

NODES = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 4.0}]


def test_slots_count_whole_workers_per_node() -> None:
    assert slots(GangShape(cpus_per_worker=3), NODES) == 3
    assert slots(GangShape(num_workers=2, cpus_per_worker=3), NODES) == 1
    assert slots(GangShape(num_workers=2, gpus_per_worker=1), NODES) == 2
    assert slots(GangShape(gpus_per_worker=0.5), NODES) == 8


def test_shape_that_can_never_fit_is_refused_with_what_there_is() -> None:
    check_fits(GangShape(num_workers=4, gpus_per_worker=1), NODES)
    with pytest.raises(UserError, match=r"5 worker\(s\) with 1 CPU and 1 GPU each.*8 CPU, 4 GPU"):
        check_fits(GangShape(num_workers=5, gpus_per_worker=1), NODES)
    with pytest.raises(UserError, match="9 CPU each"):
        check_fits(GangShape(cpus_per_worker=9), NODES)


def test_left_over_takes_workers_off_nodes() -> None:
    free = left_over(NODES, [(2, {"CPU": 3.0}), (1, {"CPU": 3.0})])
    assert free == [{"CPU": 2.0, "GPU": 4.0}, {"CPU": 1.0}]
