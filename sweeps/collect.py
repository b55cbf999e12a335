"""From the store and the book to `SweepResults`: the only reader of the store for people's tables.

Everything the report needs is put together here and logged to MLflow; the report itself never opens
the store.
"""

import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import numpy as np
import pandas as pd

from sweeps.book import TrialBook
from sweeps.events import StageEvent
from sweeps.plan import TRAININGS, Planner
from sweeps.pooled import (
    difficulties,
    pooled_checkpoints,
    pooled_curves,
    pooled_generations,
    pooled_oversight,
    pooled_rows,
)
from sweeps.records import PACKAGES
from sweeps.results import (
    RungSummary,
    Speech,
    SweepResults,
    SweepSummary,
    TaskSummary,
    TranscriptCount,
    TranscriptExample,
    Transcripts,
    TrialResult,
)
from sweeps.store import ArtifactStore
from w2s.models.source import PretrainedModel
from w2s.spec import digest
from w2s.stages.base import closure
from w2s.stages.checkpoints import read_compared
from w2s.stages.data import read_prompts
from w2s.stages.difficulty import difficulties as rate
from w2s.stages.evaluate import Evaluate, read_rows
from w2s.stages.models import Model, model_key
from w2s.stages.oversight import Oversight, read_overseen
from w2s.stages.pretrain import Pretrain
from w2s.stages.recursion import read_generations
from w2s.stages.transcripts import PermutedTranscripts, ShuffledTranscripts, read_transcripts
from w2s.tasks.base import shape_of

MAX_TRANSCRIPTS = 5000
"""Transcripts of all methods together that are kept to be read."""
CONTROLS = (PermutedTranscripts, ShuffledTranscripts)
"""Transcripts whose words are not about the row that they stand beside."""


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
        total, non_embedding = model.count.total, model.count.non_embedding
        return RungSummary(name=name, num_parameters=total, num_non_embedding=non_embedding)
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
    planner: Planner,
    store: ArtifactStore,
    book: TrialBook,
    summary: SweepSummary,
    *,
    num_transcripts: int,
) -> SweepResults:
    """Read evaluations, checkpoints, curves and what judges made of transcripts from the store.

    Args:
        planner: the sweep.
        store: where its artifacts are.
        book: its points.
        summary: what is swept.
        num_transcripts: transcripts to read that are kept of each method on each task and pair.
    """
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
        generations=pooled_generations(
            {key: read_generations(store.local(stage)) for key, stage in evaluations.items()}
        ),
        difficulty=difficulties(_rated(trials, summary, evaluations, store)),
        oversight=pooled_oversight(_overseen(planner, store, book, trials)),
        transcripts=_transcripts(planner, store, book, trials, num_transcripts),
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


def _judges(
    book: TrialBook, trials: Iterable[TrialResult]
) -> dict[tuple[str, ...], list[tuple[TrialResult, int, Oversight]]]:
    """Judges that read transcripts with the trial and seed they supervise in, each once.

    One list for all seeds and members of a method on a task and pair: those of trials that differ
    in the student alone are the same.
    """
    found: dict[tuple[str, ...], list[tuple[TrialResult, int, Oversight]]] = {}
    seen: set[str] = set()
    for trial in trials:
        for keys in trial.keys:
            for stage in book.entries[trial.trial_id].roles[keys.seed].oversight:
                if stage.key not in seen:
                    seen.add(stage.key)
                    unit = (trial.task, trial.weak, trial.strong, trial.method)
                    found.setdefault(unit, []).append((trial, keys.seed, stage))
    return found


def _model_names(planner: Planner) -> dict[str, str]:
    """Names of rungs and speakers by the key of the model."""
    ladders = [models.items() for models in planner.models]
    named = [item for items in (planner.speakers.items(), *ladders) for item in items]
    return {model_key(model): name for name, model in named}


def _overseen(
    planner: Planner, store: ArtifactStore, book: TrialBook, trials: Iterable[TrialResult]
) -> Iterable[tuple[str, pd.DataFrame, Mapping[str, str], bool]]:
    names = _model_names(planner)
    for judges in _judges(book, trials).values():
        for _, _, stage in judges:
            control = isinstance(stage.transcripts, CONTROLS)
            yield stage.key, read_overseen(store.local(stage)), names, control


def _transcripts(
    planner: Planner,
    store: ArtifactStore,
    book: TrialBook,
    trials: Iterable[TrialResult],
    num_transcripts: int,
) -> Transcripts:
    """A sample of what judges read about test rows: drawn by the rows' ids, nothing else."""
    names = _model_names(planner)
    units = _judges(book, trials)
    most = min(num_transcripts, MAX_TRANSCRIPTS // max(1, len(units)))
    counts, examples = [], []
    for (task, weak, strong, method), judges in units.items():
        frames = [
            _test_rows(read_overseen(store.local(stage))).assign(judge=number)
            for number, (_, _, stage) in enumerate(judges)
        ]
        frame = pd.concat(frames)
        places = zip(frame.index.tolist(), frame["judge"].to_numpy().tolist(), strict=True)
        order = [digest([row_id, number]) for row_id, number in places]
        chosen = frame.iloc[np.sort(np.argsort(order)[:most])]
        counts.append(
            TranscriptCount(
                task=task,
                weak=weak,
                strong=strong,
                method=method,
                num_shown=len(chosen),
                num_made=len(frame),
            )
        )
        for number, (trial, seed, stage) in enumerate(judges):
            mine = chosen.loc[chosen["judge"] == number]
            examples += _examples(trial, seed, stage, mine, store, names) if len(mine) else []
    return Transcripts(counts=tuple(counts), examples=tuple(examples))


def _examples(
    trial: TrialResult,
    seed: int,
    stage: Oversight,
    rows: pd.DataFrame,
    store: ArtifactStore,
    names: Mapping[str, str],
) -> Iterable[TranscriptExample]:
    said = read_transcripts(store.local(stage.transcripts))
    said = said.loc[said["split"] == "test"].set_index("row_id")
    prompts = read_prompts(store.local(stage.prompts), "test").set_index("row_id")["prompt"]
    for row_id in rows.index:
        row = rows.loc[row_id]
        turns = tuple(_speech(turn, names) for turn in json.loads(str(said.loc[row_id, "turns"])))
        yield TranscriptExample(
            row_id=str(row_id),
            task=trial.task,
            weak=trial.weak,
            strong=trial.strong,
            method=trial.method,
            trial_id=trial.trial_id,
            seed=seed,
            question=str(prompts.loc[row_id]),
            label=int(row["label"]),
            prob_with=min(1.0, float(row["prob_with"])),
            prob_without=min(1.0, float(row["prob_without"])),
            verdict=str(row["verdict"]),
            text="" if turns else str(said.loc[row_id, "text"]),
            turns=turns,
        )


def _speech(turn: Mapping[str, Any], names: Mapping[str, str]) -> Speech:
    kept = {name: value for name, value in turn.items() if name in Speech.model_fields}
    return Speech.model_validate(kept | {"model": names.get(turn["model_digest"], turn["model"])})


def _test_rows(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["split"] == "test"].set_index("row_id").sort_index()
