"""From the store and the book to `SweepResults`: the only reader of the store for people's tables.

Everything the report needs is put together here and logged to MLflow; the report itself never opens
the store.
"""

import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata

import numpy as np
import pandas as pd

from sweeps.book import TrialBook
from sweeps.events import StageEvent
from sweeps.plan import TRAININGS, Planner
from sweeps.results import (
    DebateExample,
    DebateTurn,
    DebateVerdict,
    RungSummary,
    SweepResults,
    SweepSummary,
    TaskSummary,
    TrialResult,
    difficulties,
    pooled_checkpoints,
    pooled_curves,
    pooled_rows,
)
from sweeps.store import PACKAGES, ArtifactStore
from w2s.models.source import PretrainedModel, num_parameters
from w2s.spec import digest
from w2s.stages.base import closure
from w2s.stages.checkpoints import read_compared
from w2s.stages.data import read_prompts
from w2s.stages.debate import Debate
from w2s.stages.difficulty import difficulties as rate
from w2s.stages.evaluate import Evaluate, read_rows
from w2s.stages.finetune import Finetune
from w2s.stages.models import Model
from w2s.stages.pretrain import Pretrain
from w2s.stages.transcripts import read_transcripts
from w2s.tasks.base import shape_of

NUM_DEBATES = 3
ANSWERS = ("incorrect", "correct")


def sweep_key(planner: Planner) -> str:
    """Digest of the sweep and of the data and models it names."""
    return digest([planner.sweep, planner.data, [dict(models) for models in planner.models]])


def summarise(
    planner: Planner,
    *,
    command: str,
    started: float,
    finished: float = 0.0,
    stages: Mapping[str, Mapping[str, int]] | None = None,
) -> SweepSummary:
    """What is swept, and how to do it again."""
    sweep = planner.sweep
    return SweepSummary(
        name=sweep.name,
        sweep_key=sweep_key(planner),
        description=sweep.description,
        command=command,
        started=started,
        finished=finished,
        seeds=sweep.seeds,
        objective=sweep.objective,
        tasks=tuple(
            TaskSummary(
                name=planner.task_label(index),
                num_rows={**shape_of(task).num_rows},
                num_classes=task.num_classes,
                notes=shape_of(task).notes,
            )
            for index, task in enumerate(sweep.tasks)
        ),
        ladder=tuple(_rung(rung.name, planner.models[0][rung.name]) for rung in sweep.ladder),
        blocks=tuple(block.name for block in sweep.blocks),
        stages={kind: dict(counts) for kind, counts in (stages or {}).items()},
        environment=_environment(),
        spec=sweep.model_dump(mode="json"),
    )


def _rung(name: str, model: Model) -> RungSummary:
    if isinstance(model, PretrainedModel):
        count = num_parameters(model.path, model.revision)
        return RungSummary(
            name=name, num_parameters=count.total, num_non_embedding=count.non_embedding
        )
    assert isinstance(model, Pretrain)  # The only stage that a rung can be.
    vocabulary = len(model.corpus.tokenizer())
    total = model.architecture.num_parameters(vocabulary)
    return RungSummary(name=name, num_parameters=total, num_non_embedding=model.size())


def _environment() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def stage_counts(events: Iterable[StageEvent]) -> dict[str, dict[str, int]]:
    """Number of stages by kind and end state."""
    counts: dict[str, dict[str, int]] = {}
    for event in events:
        by_state = counts.setdefault(event.kind, {})
        by_state[event.state] = by_state.get(event.state, 0) + 1
    return counts


def collect(
    planner: Planner, store: ArtifactStore, book: TrialBook, summary: SweepSummary
) -> SweepResults:
    """Read every evaluation, checkpoints, curves and a few debates from the store."""
    trials = book.results()
    evaluations = _evaluations(book, trials)
    compared = {key: read_compared(store.local(stage)) for key, stage in evaluations.items()}
    trained = {
        key: needed
        for key, needed in closure(evaluations.values()).items()
        if isinstance(needed, TRAININGS)
    }
    return SweepResults(
        summary=summary,
        trials=trials,
        rows=pooled_rows(
            (key, read_rows(store.local(stage))) for key, stage in evaluations.items()
        ),
        curves=pooled_curves(store.record(trained[key]) for key in store.present(trained.values())),
        checkpoints=pooled_checkpoints({key: run for key, run in compared.items() if run}),
        difficulty=difficulties(_rated(trials, summary, evaluations, store)),
        debates=tuple(_debates(planner, store, book)),
    )


def _rated(
    trials: Iterable[TrialResult],
    summary: SweepSummary,
    evaluations: Mapping[str, Evaluate],
    store: ArtifactStore,
) -> dict[str, pd.DataFrame]:
    """Difficulty of the test rows by task, where two rungs or more learnt from ground truth.

    The models are those of the first block with the plain method on the task, at its first seed: of
    each rung the ceiling, else the floor. None of them saw a test row.
    """
    rungs = [rung.name for rung in summary.ladder]
    blocks: dict[str, str] = {}
    models: dict[str, dict[str, str]] = {}
    for trial in trials:
        if trial.method_kind != "naive" or not trial.keys:
            continue
        if blocks.setdefault(trial.task, trial.block) != trial.block:
            continue
        found = models.setdefault(trial.task, {})
        found.setdefault(trial.weak, trial.keys[0].floor)
        found[trial.strong] = trial.keys[0].ceiling
    frames = {}
    for task, keys in models.items():
        if len(keys) < 2:
            continue
        rows = [
            _test_rows(read_rows(store.local(evaluations[keys[rung]])))
            for rung in rungs
            if rung in keys
        ]
        right_KN = np.stack([frame["correct"].to_numpy() for frame in rows])
        frames[task] = pd.DataFrame(
            {"split": "test", "row_id": rows[0].index, "difficulty": rate(right_KN)}
        )
    return frames


def _evaluations(book: TrialBook, trials: Iterable[TrialResult]) -> dict[str, Evaluate]:
    found: dict[str, Evaluate] = {}
    for trial in trials:
        roles_by_seed = book.entries[trial.trial_id].roles
        for seed in trial.seeds:
            for evaluate in roles_by_seed[seed].evaluations:
                found[evaluate.key] = evaluate
    return found


def _debates(planner: Planner, store: ArtifactStore, book: TrialBook) -> Iterable[DebateExample]:
    """Three test rows with their debate: one it helped, one it misled, one it did neither to.

    Taken from the first done trial whose supervisor read a debate; rows in the order of their ids,
    nothing else is chosen.
    """
    for entry in book.entries.values():
        if entry.status != "done":
            continue
        seed, roles = next(iter(entry.roles.items()))
        supervision = roles.supervisor.predictions
        if not isinstance(supervision, Finetune) or not isinstance(supervision.transcripts, Debate):
            continue
        plain, aided = (
            _test_rows(read_rows(store.local(role))) for role in (roles.floor, roles.supervisor)
        )
        debates = read_transcripts(store.local(supervision.transcripts)).set_index("row_id")
        prompts = read_prompts(store.local(supervision.prompts), "test").set_index("row_id")
        helped = aided["correct"] & ~plain["correct"]
        misled = ~aided["correct"] & plain["correct"]
        neither = ~aided["correct"] & ~plain["correct"]
        rest = aided["correct"] & plain["correct"]
        chosen = [
            str(rows.index[0])
            for rows in (aided[helped], aided[misled], aided[neither], aided[rest])
            if len(rows)
        ]
        for row_id in chosen[:NUM_DEBATES]:
            yield DebateExample(
                row_id=row_id,
                task=planner.task_label(entry.point.cell.task_index),
                question=str(prompts.loc[row_id, "prompt"]),
                truth=ANSWERS[int(aided.loc[row_id, "label"])],
                turns=tuple(
                    DebateTurn(speaker=turn["side"], position=turn["position"], text=turn["text"])
                    for turn in json.loads(str(debates.loc[row_id, "turns"]))
                ),
                verdicts=(
                    _verdict(f"{entry.point.cell.weak} alone, seed {seed}", plain, row_id),
                    _verdict(
                        f"{entry.point.cell.weak} with this debate, seed {seed}", aided, row_id
                    ),
                ),
            )
        return


def _test_rows(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["split"] == "test"].set_index("row_id").sort_index()


def _verdict(supervisor: str, frame: pd.DataFrame, row_id: str) -> DebateVerdict:
    label = int(frame.loc[row_id, "label"])
    return DebateVerdict(
        supervisor=supervisor,
        probability_of_truth=min(1.0, float(frame.loc[row_id, f"prob_{label}"])),
    )
