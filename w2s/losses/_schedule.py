"""How the weight of a loss's term rises over training."""


def ramp(progress: float, warmup_fraction: float) -> float:
    """Linear from 0 at the start to 1 at the end of the warm-up, then 1; continuous.

    Args:
        progress: share of training done, 0 to 1.
        warmup_fraction: share of training over which it rises; 0: 1 from the start.
    """
    return 1.0 if warmup_fraction == 0 else min(1.0, progress / warmup_fraction)
