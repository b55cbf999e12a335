"""A made-up finished sweep of plausible shape: four rungs, two worlds, three seeds, every block."""

import numpy as np
import pandas as pd

from sweeps.events import CurvePoint, StageRecord
from sweeps.pooled import (
    difficulties,
    pooled_checkpoints,
    pooled_curves,
    pooled_oversight,
    pooled_rows,
)
from sweeps.results import (
    RungSummary,
    SeedKeys,
    Speech,
    SweepResults,
    SweepSummary,
    TaskSummary,
    TranscriptCount,
    TranscriptExample,
    Transcripts,
    TrialResult,
)
from w2s.spec import digest
from w2s.stages.checkpoints import Checkpoint, ComparedCheckpoints

SIZES = {"xs": 18_000, "s": 61_000, "m": 240_000, "l": 910_000}
FLOOR = {"xs": 0.64, "s": 0.73, "m": 0.83, "l": 0.94}
CEILING = {"xs": 0.65, "s": 0.75, "m": 0.86, "l": 0.97}
STUDENT = {"xs": 0.70, "s": 0.78, "m": 0.87, "l": 0.955}
"""Accuracy of the largest student by its weak rung; a smaller student loses some of it."""
SUPERVISOR = {
    "debate": 0.86,
    "debate(weak)": 0.67,
    "debate(strong, shuffled)": 0.63,
    "debate_ensemble": 0.89,
    "style_only": 0.52,
}
DEBATERS = {
    "debate": "l",
    "debate(weak)": "xs",
    "debate(strong, shuffled)": "l",
    "debate_ensemble": "l",
}
"""Who argues in the debates that a supervisor reads."""
ARMS = {"step 1": -0.02, "step 2": 0.01}
"""Arms of a chain, and how much better than its student they are."""
CHAIN = "bootstrapping(m)"


class World:
    """Makes scored rows of one task, each evaluation once."""

    def __init__(self, task: str, num_rows: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self.task = task
        self.frames: dict[str, pd.DataFrame] = {}
        self._num_rows = num_rows
        self.checkpoints: dict[str, ComparedCheckpoints] = {}
        self.overseen: dict[str, tuple[pd.DataFrame, bool]] = {}
        self._difficulty = generator.random(2 * num_rows)
        self._label = generator.integers(0, 2, 2 * num_rows)
        self._split = np.array(["val"] * num_rows + ["test"] * num_rows)

    def evaluation(self, name: str, accuracy: float, seed: int) -> str:
        """Key of an evaluation with about this accuracy; rows differ in difficulty."""
        key = digest([self.task, name, seed])
        if key not in self.frames:
            generator = np.random.default_rng(int(key[:8], 16))
            luck = 0.5 * self._difficulty + 0.5 * generator.random(2 * self._num_rows)
            right = luck < np.quantile(luck, accuracy + generator.normal(0, 0.008))
            predicted = np.where(right, self._label, 1 - self._label)
            sure = 0.5 + 0.5 * generator.beta(3, 2, 2 * self._num_rows)
            prob_1 = np.where(predicted == 1, sure, 1 - sure)
            self.frames[key] = pd.DataFrame(
                {
                    "split": self._split,
                    "row_id": [f"{self.task}-{i}" for i in range(2 * self._num_rows)],
                    "group": [f"{self.task}-e{i // 5}" for i in range(2 * self._num_rows)],
                    "label": self._label,
                    "prob_0": 1 - prob_1,
                    "prob_1": prob_1,
                    "predicted": predicted,
                    "correct": right,
                }
            )
        return key

    def trial(
        self,
        block: str,
        weak: str,
        strong: str,
        *,
        method: str = "naive",
        loss: str = "xent",
        seeds: tuple[int, ...] = (0, 1, 2),
        student: float | None = None,
        hyperparameters: dict[str, float | int | str | bool] | None = None,
    ) -> TrialResult:
        """A finished trial."""
        searched = hyperparameters is not None
        keys = []
        for seed in seeds:
            floor = self.evaluation(f"floor {weak}", FLOOR[weak], seed)
            supervisor, members = floor, ()
            if method in SUPERVISOR:
                supervisor = self.evaluation(f"{method} {weak}", SUPERVISOR[method], seed)
            if method == "debate_ensemble":
                members = tuple(
                    self.evaluation(f"member {i} {weak}", SUPERVISOR["debate"], seed)
                    for i in range(4)
                )
            reached = student
            if reached is None:
                reach = 1 - 0.6 * (1 - CEILING[strong] / CEILING["l"])
                base = SUPERVISOR.get(method, STUDENT[weak])
                reached = min((base + 0.01) * reach, CEILING[strong])
            arms = {}
            if method == CHAIN:
                arms = {
                    name: self.evaluation(f"{name} {weak} {strong}", reached + more, seed)
                    for name, more in ARMS.items()
                }
            name = f"student {weak} {strong} {method} {loss} {hyperparameters}"
            keys.append(
                SeedKeys(
                    seed=seed,
                    floor=floor,
                    supervisor=supervisor,
                    student=self.evaluation(name, reached, seed),
                    ceiling=self.evaluation(f"ceiling {strong}", CEILING[strong], seed),
                    members=members,
                    arms=arms,
                    oversight=tuple(
                        self.oversight(method, judged, floor) for judged in members or (supervisor,)
                    )
                    if method in DEBATERS
                    else (),
                )
            )
        for seed_keys in keys:
            self._keep_checkpoints(seed_keys.student)
        frames = [self.frames[seed_keys.student] for seed_keys in keys]
        scores = [frame.loc[frame["split"] == "val", "correct"].mean() for frame in frames]
        return TrialResult(
            trial_id=digest([block, self.task, weak, strong, method, loss, hyperparameters]),
            block=block,
            task=self.task,
            weak=weak,
            strong=strong,
            method=method,
            method_kind=method.partition("(")[0],
            loss=loss,
            hyperparameters=hyperparameters or {},
            searched=searched,
            objective=float(np.mean(scores)) if scores else None,
            keys=tuple(keys),
        )

    def oversight(self, method: str, judged: str, unaided: str) -> str:
        """Key of what debates of three turns did to a judge."""
        key = digest(["oversight", method, judged, unaided])
        if key not in self.overseen:
            generator = np.random.default_rng(int(key[:8], 16))
            frame = self.frames[judged]
            position_a = np.where(generator.random(len(frame)) < 0.5, "correct", "incorrect")
            words = generator.integers(5, 40, (len(frame), 2))
            made = frame[["split", "row_id", "group", "label"]].assign(
                prob_with=frame["prob_1"],
                prob_without=self.frames[unaided]["prob_1"],
                verdict="",
                position_a=position_a,
                position_last=position_a,
                words_correct=words[:, 0],
                words_incorrect=words[:, 1],
                model_correct=f"key of {DEBATERS[method]}",
                model_incorrect=f"key of {DEBATERS[method]}",
            )
            self.overseen[key] = made, "shuffled" in method
        return key

    def _keep_checkpoints(self, key: str) -> None:
        """Checkpoints of a student that is best before its end."""
        frame = self.frames[key]
        last = float(frame.loc[frame["split"] == "test", "correct"].mean())
        self.checkpoints[key] = ComparedCheckpoints(
            curve=tuple(
                Checkpoint(
                    step=50 * step,
                    epoch=step / 2,
                    test_accuracy=last + 0.01 * (4 - step) * (step - 1),
                    val_agreement=0.6 + 0.05 * min(step, 3),
                )
                for step in (1, 2, 3, 4)
            ),
            steps={"last": 200, "best_val": 150, "oracle": 100},
        )

    def difficulty(self) -> pd.DataFrame:
        """Difficulty of every row, 0 to the number of rungs."""
        frame = next(iter(self.frames.values()))
        levels = np.minimum(self._difficulty * (len(SIZES) + 1), len(SIZES)).astype(int)
        return frame[["split", "row_id"]].assign(difficulty=levels)


def trials_of(world: World) -> list[TrialResult]:
    """Every block of the sweep in one world."""
    rungs = list(SIZES)
    found = [
        world.trial("pairs", weak, strong)
        for i, weak in enumerate(rungs)
        for strong in rungs[i + 1 :]
    ]
    generator = np.random.default_rng(7)
    for _ in range(8):
        weight, rate = float(generator.uniform(0, 1)), float(10 ** generator.uniform(-4, -2.5))
        found.append(
            world.trial(
                "losses",
                "xs",
                "l",
                loss="confidence",
                student=0.72 - 0.05 * (weight - 0.6) ** 2 - 0.02 * (np.log10(rate) + 3) ** 2,
                hyperparameters={"loss.max_weight": weight, "student.learning_rate": rate},
            )
        )
    found.append(world.trial("losses", "xs", "l"))
    found.append(world.trial("losses", "xs", "l", loss="product", student=0.69))
    found.append(world.trial("methods", "xs", "l"))
    found += [world.trial("methods", "xs", "l", method=method) for method in SUPERVISOR]
    found.append(world.trial("methods", "xs", "l", method=CHAIN, student=0.75))
    found += [world.trial("controls", rung, rung, student=FLOOR[rung]) for rung in ("xs", "l")]
    found.append(world.trial("controls", "xs", "l", method="shuffled_labels", student=0.5))
    failed = world.trial("methods", "xs", "l", method="debate(strong, permuted)", seeds=())
    return [
        *found,
        failed.model_copy(
            update={
                "status": "failed",
                "objective": None,
                "cause": "StageFailed: stage debate-l-s0 (9f3a61c07b2e4d18) failed: "
                "ServingError: the endpoint did not answer within 120 s <3 attempts>",
            }
        ),
    ]


def curves() -> list[StageRecord]:
    """Training curves of a ladder and of some finetunes."""
    records = []
    for kind, names in {
        "pretrain": [f"pretrain-{rung}" for rung in SIZES],
        "finetune": [f"finetune-{rung}-xent-s{seed}" for rung in SIZES for seed in range(3)],
    }.items():
        for index, name in enumerate(names):
            steps = np.arange(0, 400, 10)
            loss = 0.3 + (2 + index * 0.1) * np.exp(-steps / (60 + 10 * index))
            points = tuple(
                CurvePoint(
                    step=int(step), total=400, metrics={"loss": float(y)}, time=1e9 + float(step)
                )
                for step, y in zip(steps, loss, strict=True)
            )
            records.append(
                StageRecord(
                    key=digest(name),
                    name=name,
                    kind=kind,
                    identity={"class": kind, "seed": index, "train": {"learning_rate": 1e-3}},
                    started=1e9 + index,
                    finished=1e9 + 30 + index,
                    host="here",
                    curve=points,
                )
            )
    return records


def summary(tasks: tuple[str, ...] = ("world 0", "world 1"), num_rows: int = 1000) -> SweepSummary:
    """The sweep of these trials."""
    return SweepSummary(
        name="almanac",
        sweep_key="0123456789abcdef",
        description="A weak model that knows little supervises a strong one that knows more.",
        command="w2s run examples/almanac.toml",
        started=1_700_000_000.0,
        finished=1_700_000_612.0,
        seeds=(0, 1, 2),
        tasks=tuple(
            TaskSummary(
                name=task,
                num_rows={
                    "weak_train": 800,
                    "strong_train": 800,
                    "val": num_rows,
                    "test": num_rows,
                },
                notes=("7 questions of test are in the train set; dropped from training",),
            )
            for task in tasks
        ),
        ladder=tuple(
            RungSummary(name=name, num_parameters=3 * size, num_non_embedding=size)
            for name, size in SIZES.items()
        ),
        blocks=("pairs", "losses", "methods", "controls"),
        stages={
            "pretrain": {"cached": 4},
            "finetune": {"cached": 20, "done": 31},
            "debate": {"done": 6, "failed": 1},
        },
        environment={"python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0", "platform": "Linux"},
        spec={
            "name": "almanac",
            "seeds": [0, 1, 2],
            "tasks": [{"kind": "almanac", "seed": 0}],
            "blocks": [
                {"name": "pairs"},
                {
                    "name": "losses",
                    "space": {"student.learning_rate": {"log_uniform": [1e-4, 3e-3]}},
                },
            ],
        },
    )


def transcripts() -> Transcripts:
    """Three debates, the last one with everything that a turn can have."""
    turns = (
        Speech(side="A", position="correct", text="Tola in R1 . it region R2", model="l"),
        Speech(side="B", position="incorrect", text="R2 holds Mab , not Tola", model="l", round=1),
        Speech(side="A", position="correct", text="Mab in R1 .", model="l", round=2),
    )
    full = (
        *turns[:2],
        Speech(side="judge", position="", text="Is that so?", model="xs", round=2),
        Speech(
            side="A",
            position="correct",
            text="It says <v_quote>Mab in R1</v_quote> and <u_quote>so on</u_quote>.",
            model="l",
            round=3,
            thinking="Nobody reads </script><b>this</b>.",
            candidates=(
                "Mab.",
                "It says <v_quote>Mab in R1</v_quote> and <u_quote>so on</u_quote>.",
            ),
        ),
    )
    examples = tuple(
        TranscriptExample(
            row_id=f"world 0-{i}",
            task="world 0",
            weak="xs",
            strong="l",
            method="debate",
            trial_id="0123456789abcdef",
            seed=i,
            question=f"Tola lies in region <{i}>. Is that right?",
            label=0,
            prob_with=0.7 - 0.3 * i,
            prob_without=0.59,
            verdict="" if i < 2 else "INVALID",
            turns=turns if i < 2 else full,
        )
        for i in range(3)
    )
    count = TranscriptCount(
        task="world 0", weak="xs", strong="l", method="debate", num_shown=3, num_made=3000
    )
    return Transcripts(counts=(count,), examples=examples)


def results(num_rows: int = 1000, tasks: tuple[str, ...] = ("world 0", "world 1")) -> SweepResults:
    """The whole sweep."""
    worlds = [World(task, num_rows, seed) for seed, task in enumerate(tasks)]
    trials = tuple(trial for world in worlds for trial in trials_of(world))
    frames = {key: frame for world in worlds for key, frame in world.frames.items()}
    return SweepResults(
        summary=summary(tasks, num_rows),
        trials=trials,
        rows=pooled_rows(frames.items()),
        curves=pooled_curves(curves()),
        checkpoints=pooled_checkpoints(
            {key: run for world in worlds for key, run in world.checkpoints.items()}
        ),
        difficulty=difficulties({world.task: world.difficulty() for world in worlds}),
        oversight=pooled_oversight(
            (key, frame, {f"key of {rung}": rung for rung in SIZES}, control)
            for world in worlds
            for key, (frame, control) in world.overseen.items()
        ),
        transcripts=transcripts(),
    )
