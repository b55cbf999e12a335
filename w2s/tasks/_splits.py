"""Names of a source's splits, for the tasks whose data are anybody's."""

from collections.abc import Mapping

from w2s.spec import Spec
from w2s.tasks._dataset import Part


class SplitNames(Spec):
    """Which splits of a source each part of a task is made of; none: it is cut off from others."""

    train: tuple[str, ...] = ("train",)
    """Splits that are read together and halved into `weak_train` and `strong_train`."""
    val: tuple[str, ...] = ("validation",)
    """Splits of `val`; in a folder they may be missing."""
    test: tuple[str, ...] = ("test",)
    """Splits of `test`; in a folder they may be missing."""

    def by_part(self) -> Mapping[Part, tuple[str, ...]]:
        """The names, by part."""
        return {"train": self.train, "val": self.val, "test": self.test}
