"""What transcripts did to their judges, over rows and seeds: the numbers and tables of oversight.

A `Judge` is a supervisor that read transcripts (debates, consultancies, background, critique) on
one task and pair, with its seeds and members as replicates. Every number is a mean over test rows
and replicates with a 95 % interval of the paired bootstrap over both (`w2s.statistics`).

N rows, S replicates, L = S x N lines, R resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeps.report.tables import Field, Table, difference_field, percent
from sweeps.results import SweepResults, TrialResult
from w2s import metrics, oversight, statistics
from w2s.oversight import JudgeAgreement, Quartile, Rating
from w2s.resamples import TEACHING, Resamples, seed_weights
from w2s.statistics import Estimate, Resampled

Floats = NDArray[np.floating]
BOOTSTRAP_SEED = 0
HONEST = ("win_a_honest", "win_honest")
DISHONEST = ("win_a_dishonest", "win_dishonest")
WIN_RATES = (
    *("win_a", "win_a_honest", "win_a_dishonest", "win_last", "win_longer"),
    *("win_honest", "win_dishonest"),
)
MAX_COMPARED = 8
"""Judges of one task and pair whose answers are compared with each other."""


@dataclass(frozen=True, eq=False)
class Judge:
    """A supervisor that read transcripts, with and without them."""

    task: str
    """Label of the task."""
    weak: str
    """Rung of the supervisor."""
    strong: str
    """Rung of the student."""
    method: str
    """Label of the method."""
    method_kind: str
    """Its kind."""
    frame: pd.DataFrame
    """Lines of `SweepResults.oversight`, with `replicate`; rows in one order in each of them."""

    @property
    def control(self) -> bool:
        """Whether it read words that are not about the row."""
        return bool(self.frame["control"].iloc[0])

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        """Who won each line of `frame`."""
        return oversight.outcomes(self.frame)

    @property
    def num_replicates(self) -> int:
        """S."""
        return len(np.unique(self.frame["replicate"].to_numpy()))

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.frame) // self.num_replicates

    @property
    def words(self) -> str:
        """Name of the method on its pair."""
        return f"{self.method}, {self.weak} > {self.strong}"

    def by_replicate(self, values_L: Floats) -> Floats:
        """A number of each line as [S, N]."""
        return values_L.reshape(self.num_replicates, self.num_rows)

    @cached_property
    def _resamples(self) -> Resamples:
        groups = self.frame["group"].astype(str).to_numpy()[: self.num_rows]
        return Resamples(self.num_rows, seed=BOOTSTRAP_SEED, groups=groups)

    def mean(self, name: str) -> Resampled:
        """Mean of a column of `outcomes`, over the lines where it is a number."""
        values_SN = self.by_replicate(self.outcomes[name].to_numpy(float))
        known_SN = (~np.isnan(values_SN)).astype(float)
        total = self._number(np.nan_to_num(values_SN))
        return total if known_SN.all() else total / self._number(known_SN)

    def _number(self, values_SN: Floats) -> Resampled:
        weights_RS = seed_weights(len(values_SN), stream=TEACHING, seed=BOOTSTRAP_SEED)
        return statistics.over_seeds(
            values_SN.mean(1), self._resamples.means(values_SN), weights_RS
        )

    def rate(self, name: str) -> Estimate | None:
        """A win rate of `outcomes`; None where no such side spoke."""
        known = ~np.isnan(self.outcomes[name].to_numpy(float))
        return self.mean(name).estimate if known.any() else None

    @property
    def accuracy(self) -> Estimate:
        """Of the judge that read."""
        return self.mean("right_with").estimate

    @property
    def unaided(self) -> Estimate:
        """Of the judge that did not."""
        return self.mean("right_without").estimate

    @property
    def gain(self) -> Estimate:
        """Accuracy with transcripts minus accuracy without."""
        return (self.mean("right_with") - self.mean("right_without")).estimate

    def calibration_error(self, name: str) -> float:
        """ECE of the answers `with` or `without` transcripts, mean over replicates."""
        return float(np.mean([self._ece(lines, name) for lines in self._lines()]))

    def _ece(self, lines: pd.DataFrame, name: str) -> float:
        return metrics.expected_calibration_error(
            _two_classes(lines, name), lines["label"].to_numpy()
        )

    def reliability(self, name: str) -> list[metrics.ReliabilityBin]:
        """Accuracy by confidence over all replicates."""
        return metrics.reliability(_two_classes(self.frame, name), self.frame["label"].to_numpy())

    @property
    def invalid(self) -> float | None:
        """Share of verdicts that could not be read; None for a judge that gives none."""
        given = self.frame["verdict"].to_numpy(object)
        return float((given == oversight.INVALID).mean()) if (given != "").any() else None

    @property
    def kappa(self) -> float | None:
        """Mean Cohen's kappa between its replicates; None for one."""
        says_SN = self.by_replicate(self.frame["prob_with"].to_numpy(float)) > 0.5
        pairs = [metrics.cohens_kappa(a, b) for a, b in combinations(says_SN, 2)]
        known = [value for value in pairs if value == value]
        return float(np.mean(known)) if known else None

    @property
    def has_speakers(self) -> bool:
        """Whether anybody argued for anything about the row in what it read."""
        wins = self.outcomes[["win_honest", "win_dishonest"]].to_numpy(float)
        return not self.control and not np.isnan(wins).all()

    @cached_property
    def by_length(self) -> list[Quartile]:
        """Whether it is right, by quarters of the rows by length."""
        return oversight.by_length(self.frame)

    def mean_words(self, role: str) -> float:
        """Words said by the honest or the dishonest side a row."""
        honest_N = (self.frame["label"] == 1).to_numpy() == (role == "honest")
        words = self.frame[["words_incorrect", "words_correct"]].to_numpy(float)
        return float(np.where(honest_N, words[:, 1], words[:, 0]).mean())

    def _lines(self) -> list[pd.DataFrame]:
        size = self.num_rows
        return [self.frame.iloc[start : start + size] for start in range(0, len(self.frame), size)]


def _two_classes(frame: pd.DataFrame, name: str) -> Floats:
    values_N = frame[f"prob_{name}"].to_numpy(float)
    return np.stack([1 - values_N, values_N], axis=1)


def judges(results: SweepResults) -> list[Judge]:
    """Every judge of finished trials, each once, in the order of the trials."""
    by_key = dict(iter(results.oversight.groupby("key", observed=True, sort=False)))
    found: list[Judge] = []
    seen: set[tuple[str, ...]] = set()
    for trial in results.trials:
        keys = tuple(key for seed in trial.keys for key in seed.oversight)
        if keys and trial.status == "done" and keys not in seen:
            seen.add(keys)
            found.append(_judge(trial, [by_key[key] for key in keys]))
    return found


def _judge(trial: TrialResult, frames: Sequence[pd.DataFrame]) -> Judge:
    shared = set.intersection(*(set(frame["row_id"]) for frame in frames))
    parts = [
        frame.loc[frame["row_id"].isin(list(shared))]
        .sort_values(by="row_id")
        .assign(replicate=number)
        for number, frame in enumerate(frames)
    ]
    return Judge(
        trial.task,
        trial.weak,
        trial.strong,
        trial.method,
        trial.method_kind,
        pd.concat(parts, ignore_index=True),
    )


@dataclass(frozen=True, slots=True)
class RatedGroup:
    """Debaters that were judged alike."""

    task: str
    """Label of the task."""
    judge: str
    """Who judged, in words."""
    ratings: list[Rating]
    """Their ratings."""


def rated(found: Sequence[Judge]) -> list[RatedGroup]:
    """Ratings of debaters, by task, rung of the judge and kind of the method; no controls."""
    groups: dict[tuple[str, str, str], list[Judge]] = {}
    for judge in found:
        if not judge.control:
            groups.setdefault((judge.task, judge.weak, judge.method_kind), []).append(judge)
    made = []
    for (task, weak, kind), members in groups.items():
        frame = pd.concat([judge.frame for judge in members], ignore_index=True)
        ratings = oversight.ratings(frame, seed=BOOTSTRAP_SEED)
        if ratings:
            made.append(RatedGroup(task, f"{weak}, {kind}", ratings))
    return made


@dataclass(frozen=True, slots=True)
class Agreeing:
    """Two judges of one task on the same rows."""

    task: str
    """Label of the task."""
    first: str
    """One of them, in words."""
    second: str
    """The other."""
    agreement: JudgeAgreement
    """How far they say the same."""


def agreements(found: Sequence[Judge]) -> list[Agreeing]:
    """Agreement of the judges of each task with each other, and with themselves unaided."""
    made = []
    for task in dict.fromkeys(judge.task for judge in found):
        mine = [judge for judge in found if judge.task == task and not judge.control]
        mine = mine[:MAX_COMPARED]
        for judge in mine:
            made.append(
                Agreeing(
                    task,
                    judge.words,
                    "the same without transcripts",
                    _agreement(judge.frame, "prob_without"),
                )
            )
        for first, second in combinations(mine, 2):
            both = first.frame.merge(
                second.frame[["row_id", "replicate", "prob_with"]],
                on=["row_id", "replicate"],
                suffixes=("", "_other"),
            )
            made.append(
                Agreeing(task, first.words, second.words, _agreement(both, "prob_with_other"))
            )
    return made


def _agreement(frame: pd.DataFrame, other: str) -> JudgeAgreement:
    return oversight.judge_agreement(
        frame["prob_with"].to_numpy(float),
        frame[other].to_numpy(float),
        seed=BOOTSTRAP_SEED,
        groups=frame["group"].astype(str).tolist(),
    )


# Tables.


def judges_table(found: Sequence[Judge], several_tasks: bool) -> Table:
    """Accuracy with and without transcripts, calibration, INVALID, agreement of replicates."""
    rows = [
        (
            *_who(judge, several_tasks),
            percent(judge.accuracy),
            percent(judge.unaided),
            difference_field(judge.gain),
            *(_number(judge.calibration_error(name), 3) for name in ("with", "without")),
            _number(None if judge.invalid is None else 100 * judge.invalid, 1),
            _number(judge.kappa, 2),
            _size(judge),
        )
        for judge in found
    ]
    return Table(
        "Judges with and without transcripts",
        (
            *_who_columns(several_tasks),
            *("accuracy with", "without", "difference, points", "ECE with", "ECE without"),
            *("INVALID, %", "kappa of replicates", "rows x replicates"),
        ),
        tuple(rows),
        "Without: the weak model alone, or the same judge asked without a transcript. Replicates "
        "are seeds and members of an ensemble. INVALID: answers of a judge by verdict that could "
        "not be read; each counts as one half.",
    )


def wins_table(found: Sequence[Judge], several_tasks: bool) -> Table | None:
    """Win rates by position and by truth, without controls; None where nobody argued."""
    rows = [
        (
            *_who(judge, several_tasks),
            *(_rate_field(judge.rate(name), name) for name in WIN_RATES),
            *(_number(judge.mean_words(role), 0) for role in oversight.ROLES),
            _size(judge),
        )
        for judge in found
        if judge.has_speakers
    ]
    if not rows:
        return None
    return Table(
        "Who convinces the judge",
        (
            *_who_columns(several_tasks),
            *("A wins, %", "A where honest", "A where dishonest", "last speaker", "longer side"),
            *("honest side", "dishonest side", "words, honest", "words, dishonest"),
            "rows x replicates",
        ),
        tuple(rows),
        "A side wins where the judge finds its position more probable; a tie is half a win. The "
        "honest side defends the truth. In colour: the interval excludes 50 %, to the good or not. "
        "A consultant has no opponent, so that its two win rates need not add up to 100 %.",
    )


def length_table(found: Sequence[Judge], several_tasks: bool) -> Table | None:
    """Accuracy by quarters of the rows by length; None where all transcripts are of one length."""
    rows = []
    for judge in found:
        parts = judge.by_length
        if len(parts) < 2:
            continue
        fields = [
            Field(f"{100 * part.right.mean():.1f} ({part.words:.0f} words)", part.right.mean())
            for part in parts
        ]
        blank = [Field("-", -1.0, "faint")] * (4 - len(fields))
        rows.append((*_who(judge, several_tasks), *fields, *blank))
    if not rows:
        return None
    return Table(
        "Accuracy by length of the transcript",
        (*_who_columns(several_tasks), "shortest quarter", "second", "third", "longest"),
        tuple(rows),
        "Percent of rows, and the mean number of words in the transcript. Rows of one length stay "
        "together, so that there may be fewer than four parts.",
    )


def ratings_table(groups: Sequence[RatedGroup], several_tasks: bool) -> Table | None:
    """Elo of debaters; None where nobody was opposed."""
    rows = [
        (
            *([Field(group.task)] if several_tasks else []),
            Field(group.judge),
            Field(rating.model),
            Field(rating.role, tone="good" if rating.role == "honest" else "bad"),
            Field(
                f"{rating.elo.point:+.0f} [{rating.elo.low:+.0f}, {rating.elo.high:+.0f}]",
                rating.elo.point,
            ),
            Field(f"{rating.num_rows:,}", rating.num_rows),
            Field(str(rating.group + 1), rating.group),
        )
        for group in groups
        for rating in group.ratings
    ]
    if not rows:
        return None
    return Table(
        "Persuasiveness and truth",
        (
            *(["task"] if several_tasks else []),
            *("judge", "debater", "role", "Elo", "debates", "group"),
        ),
        tuple(rows),
        "Elo points by maximum likelihood (Bradley and Terry 1952) from the judge's choices; 400 "
        "points are odds of 10 to 1, the mean of a group is 0. Groups did not meet, so that their "
        "ratings cannot be compared. Debates help a judge where honest debaters are rated above "
        "dishonest ones. One drawn debate is added to each pair that met.",
    )


def agreements_table(found: Sequence[Agreeing], several_tasks: bool) -> Table | None:
    """Agreement between judges; None where there is none to compare."""
    rows = [
        (
            *([Field(each.task)] if several_tasks else []),
            Field(each.first),
            Field(each.second),
            percent(each.agreement.share),
            _number(each.agreement.kappa, 2),
            Field(f"{each.agreement.num_rows:,}", each.agreement.num_rows),
        )
        for each in found
    ]
    if not rows:
        return None
    return Table(
        "Agreement between judges",
        (
            *(["task"] if several_tasks else []),
            *("judge", "and", "same answer, %", "Cohen's kappa", "answers"),
        ),
        tuple(rows),
        "Kappa is agreement beyond what their rates of answers give by chance: 1 is always, 0 is "
        f"chance. The first {MAX_COMPARED} judges of a task, replicate by replicate.",
    )


def _who(judge: Judge, several_tasks: bool) -> tuple[Field, ...]:
    named = (Field(f"{judge.weak} > {judge.strong}"), Field(judge.method))
    return (Field(judge.task), *named) if several_tasks else named


def _who_columns(several_tasks: bool) -> tuple[str, ...]:
    return ("task", "weak > strong", "method") if several_tasks else ("weak > strong", "method")


def _size(judge: Judge) -> Field:
    return Field(f"{judge.num_rows:,} x {judge.num_replicates}", len(judge.frame))


def _number(value: float | None, digits: int) -> Field:
    if value is None or math.isnan(value):
        return Field("-", -math.inf, "faint")
    return Field(f"{value:.{digits}f}", value)


def _rate_field(rate: Estimate | None, name: str) -> Field:
    if rate is None:
        return Field("-", -1.0, "faint")
    field = percent(rate)
    if rate.low <= 0.5 <= rate.high:
        return field
    # Honesty should win, dishonesty lose, and neither place nor length matter.
    welcome = rate.point > 0.5 if name in HONEST else rate.point < 0.5 and name in DISHONEST
    return Field(field.text, field.sort, "good" if welcome else "bad")


def all_tables(
    results: SweepResults, found: Sequence[Judge], groups: Sequence[RatedGroup]
) -> tuple[Table, ...]:
    """Every table of oversight; none where no judge read anything."""
    if not found:
        return ()
    several = len(results.summary.tasks) > 1
    made = (
        judges_table(found, several),
        wins_table(found, several),
        length_table(found, several),
        ratings_table(groups, several),
        agreements_table(agreements(found), several),
    )
    return tuple(table for table in made if table is not None)
