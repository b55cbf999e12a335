"""Search spaces: a distribution per hyperparameter path.

A path names a field of the student's loss (`loss.max_weight`), of the student's recipe
(`student.learning_rate`) or of the method (`method.num_members`). In a file: `"loss.max_weight" = {
uniform = [0.0, 1.0] }`.
"""

from typing import TYPE_CHECKING, Any, Self, cast

from pydantic import BaseModel, model_validator

from w2s.spec import Spec

if TYPE_CHECKING:
    import optuna

Value = float | int | str | bool
PREFIXES = ("loss", "student", "method")


class Distribution(Spec):
    """Where the values of one hyperparameter come from: exactly one of the four."""

    uniform: tuple[float, float] | None = None
    """Any number between the two."""
    log_uniform: tuple[float, float] | None = None
    """Any positive number between the two, even on a log scale."""
    integer: tuple[int, int] | None = None
    """Any whole number between the two, both included."""
    choice: tuple[Value, ...] | None = None
    """One of these."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "a distribution is exactly one of uniform, log_uniform, integer, choice; found "
                f"{given or 'none'}"
            )
        bounds = self.uniform or self.log_uniform or self.integer
        if bounds and bounds[0] >= bounds[1]:
            raise ValueError(
                f"{given[0]}: the lower bound {bounds[0]} is not below the upper bound {bounds[1]}"
            )
        if self.log_uniform and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform needs positive bounds; found {self.log_uniform[0]}")
        if self.choice is not None and not self.choice:
            raise ValueError("choice needs at least one value")
        return self

    def suggest(self, trial: "optuna.Trial", path: str) -> Value:
        """A value for `path` from an Optuna trial."""
        if self.uniform:
            return trial.suggest_float(path, *self.uniform)
        if self.log_uniform:
            return trial.suggest_float(path, *self.log_uniform, log=True)
        if self.integer:
            return trial.suggest_int(path, *self.integer)
        assert self.choice
        return cast(Value, trial.suggest_categorical(path, self.choice))


def split_path(path: str) -> tuple[str, str]:
    """`loss.max_weight` as (`loss`, `max_weight`).

    Raises:
        ValueError: the path does not name a field of a loss, a recipe or a method.
    """
    prefix, dot, field = path.partition(".")
    if not dot or prefix not in PREFIXES or not all(field.split(".")):
        raise ValueError(
            f"search path {path!r} is not understood; "
            f"allowed: {', '.join(f'{p}.FIELD' for p in PREFIXES)}"
        )
    return prefix, field


def has_field(owner: type[BaseModel], path: str) -> bool:
    """Whether a spec has a field, given by its name or as `table.field`."""
    name, _, rest = path.partition(".")
    if name not in owner.model_fields:
        return False
    inner = owner.model_fields[name].annotation
    if not rest:
        return True
    return isinstance(inner, type) and issubclass(inner, BaseModel) and has_field(inner, rest)


def with_fields(spec: Any, values: "dict[str, Value]") -> Any:
    """A copy of a spec with some fields (`name` or `table.field`) changed, validated again."""
    if not values:
        return spec
    fields = {name: getattr(spec, name) for name in type(spec).model_fields}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        fields[name] = with_fields(fields[name], {rest: value}) if rest else value
    return type(spec).model_validate(fields)
