"""What stages read and write: run for real on a small world with an untrained model."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from serving.backends.scripted import ScriptedTransport
from serving.client import BatchingClient
from serving.debate.protocols.sequential import Sequential
from serving.errors import CompletionFailed
from sweeps.store import ArtifactStore
from sweeps.worker import run_stage
from w2s.almanac.world import World
from w2s.corpora.base import Corpus
from w2s.losses.xent import Xent
from w2s.methods.base import Method
from w2s.models.architecture import Architecture
from w2s.models.source import PretrainedModel
from w2s.spec import parse
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import GroundTruth, Prompts, read_prompts
from w2s.stages.debate import FINISHED_FILE, Debate
from w2s.stages.ensemble import Ensemble, ShuffledLabels
from w2s.stages.evaluate import read_evaluation, read_rows
from w2s.stages.finetune import Finetune
from w2s.stages.models import model_key
from w2s.stages.predictions import read_predictions, read_targets, write_predictions
from w2s.stages.setup import Setup
from w2s.stages.style import style_features
from w2s.stages.transcripts import PermutedTranscripts, ShuffledTranscripts, read_transcripts
from w2s.tasks.almanac import Almanac
from w2s.tasks.base import load
from w2s.training.config import TrainConfig

WORLD = World(
    seed=100, num_quiz=8, num_dev=8, num_weak_train=8, num_strong_train=10, num_val=6, num_test=12
)
TASK = Almanac(world=WORLD)


class Given(Stage):
    """Stands for a stage whose files a test writes by hand."""

    tag: str


def context(folder: Path, **inputs: tuple[Stage, Path]) -> StageContext:
    folder.mkdir(parents=True, exist_ok=True)
    return StageContext(
        output_dir=folder, inputs={stage.key: path for stage, path in inputs.values()}
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PretrainedModel:
    folder = tmp_path_factory.mktemp("model")
    corpus = parse(Corpus, {"kind": "almanac", "rare_share": 0.5, "custom_share": 0.5}).bind(TASK)
    tokenizer = corpus.tokenizer()
    architecture = Architecture(hidden_size=32, num_layers=1, num_heads=1, intermediate_size=32)
    architecture.build(tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return PretrainedModel(path=str(folder), fingerprint="untrained")


def setup(model: PretrainedModel) -> Setup:
    train = TrainConfig(epochs=1, batch_size=8, learning_rate=1e-3)
    return Setup(
        task=TASK,
        data="",
        weak=model,
        strong=model,
        ladder={"xs": model},
        loss=Xent(),
        supervisor_train=train,
        student_train=train,
        ceiling_train=train,
        protocol=Sequential(),
        seed=0,
    )


def run(store: ArtifactStore, root: Stage) -> Path:
    for needed in root.inputs:
        run(store, needed)
    outcome = run_stage(root, store)
    assert not outcome.cause, outcome.traceback
    return store.local(root)


def columns_of(folders: Mapping[str, Path]) -> dict[str, set[str]]:
    return {
        str(file.relative_to(folder.parent)): set(pd.read_parquet(file).columns)
        for folder in folders.values()
        for file in folder.rglob("*.parquet")
    }


@pytest.mark.parametrize("kind", ["naive", "finetune_ensemble", "shuffled_labels"])
def test_no_file_handed_to_a_student_has_a_ground_truth_column(
    store: ArtifactStore, model: PretrainedModel, kind: str
) -> None:
    here = setup(model)
    student = here.student(parse(Method, kind).labels(here))
    run(store, student)
    handed = columns_of({needed.key: store.local(needed) for needed in student.inputs})
    assert len(handed) == 2
    for file, columns in handed.items():
        assert not columns & {"label", "correct", "gt_label", "ground_truth"}, file
    tokens = [columns for file, columns in handed.items() if "index" in file]
    assert tokens == [{"split", "row_id"}]


def test_the_truth_of_each_split_is_a_file_of_its_own(store: ArtifactStore) -> None:
    folder = run(store, GroundTruth(task=TASK, split="weak_train"))
    frame = pd.read_parquet(folder / "labels.parquet")
    assert set(frame["split"]) == {"weak_train"}
    assert frame["label"].tolist() == [row.label for row in load(TASK).rows["weak_train"]]


def test_a_chain_of_stages_ends_in_scores_of_every_test_row(
    store: ArtifactStore, model: PretrainedModel
) -> None:
    here = setup(model)
    student = here.student(here.supervisor())
    folder = run(store, here.evaluate(student, supervisor=here.supervisor()))
    rows = read_rows(folder)
    truth = {row.row_id: row.label for row in load(TASK).rows["test"]}
    test = rows[rows["split"] == "test"].set_index("row_id")
    assert test["label"].to_dict() == truth
    assert test["correct"].tolist() == (test["predicted"] == test["label"]).tolist()
    np.testing.assert_allclose(test["prob_0"] + test["prob_1"], 1.0, atol=1e-5)
    evaluation = read_evaluation(folder)
    assert evaluation["test"]["accuracy"] == pytest.approx(test["correct"].mean())
    assert 0 <= evaluation["test"]["agreement"] <= 1
    assert set(evaluation) == {"val", "test"}


def test_the_same_stage_gives_the_same_predictions_twice(
    tmp_path: Path, model: PretrainedModel
) -> None:
    here = setup(model)
    first, second = (
        read_predictions(run(ArtifactStore(str(tmp_path / name)), here.supervisor()))
        for name in "ab"
    )
    pd.testing.assert_frame_equal(first, second)


def test_predictions_cover_the_rows_to_be_labelled_and_to_be_scored_but_not_the_trained_ones(
    store: ArtifactStore, model: PretrainedModel
) -> None:
    frame = read_predictions(run(store, setup(model).supervisor()))
    sizes = {split: len(rows) for split, rows in load(TASK).rows.items() if split != "weak_train"}
    assert frame["split"].value_counts().to_dict() == sizes


def test_weights_are_kept_only_when_asked(store: ArtifactStore, model: PretrainedModel) -> None:
    plain = setup(model).supervisor()
    kept = plain.model_copy(update={"save_weights": True})
    assert not (run(store, plain) / "weights").exists()
    assert (run(store, kept) / "weights" / "head.safetensors").exists()


def test_labels_are_joined_by_id_not_by_position(tmp_path: Path) -> None:
    write_predictions(
        tmp_path,
        ["strong_train"] * 3 + ["test"],
        ["c", "a", "b", "a"],
        np.log([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [1.0, 1e-9]]),
    )
    targets = read_targets(tmp_path, "strong_train", ["a", "b", "c"], 2)
    np.testing.assert_allclose(
        targets.probabilities_NC, [[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]], atol=1e-6
    )
    with pytest.raises(ValueError, match="1 of 2 rows of strong_train have no label"):
        read_targets(tmp_path, "strong_train", ["a", "d"], 2)


def test_an_ensemble_is_the_mean_of_probabilities_by_row(tmp_path: Path) -> None:
    one, two = Given(tag="one"), Given(tag="two")
    for stage, ids, probabilities in (
        (one, ["a", "b"], [[0.9, 0.1], [0.4, 0.6]]),
        (two, ["b", "a"], [[0.2, 0.8], [0.5, 0.5]]),
    ):
        (tmp_path / stage.tag).mkdir()
        write_predictions(tmp_path / stage.tag, ["test"] * 2, ids, np.log(probabilities))
    both = context(tmp_path / "out", one=(one, tmp_path / "one"), two=(two, tmp_path / "two"))
    Ensemble(members=(one, two)).run(both)
    frame = read_predictions(tmp_path / "out").set_index("row_id")
    assert np.exp(frame.loc["a", "logprob_0"]) == pytest.approx((0.9 + 0.5) / 2, abs=1e-6)
    assert np.exp(frame.loc["b", "logprob_0"]) == pytest.approx((0.4 + 0.2) / 2, abs=1e-6)


def test_an_ensemble_of_different_rows_is_refused(tmp_path: Path) -> None:
    one, two = Given(tag="one"), Given(tag="two")
    for stage, ids in ((one, ["a", "b"]), (two, ["a", "c"])):
        (tmp_path / stage.tag).mkdir()
        write_predictions(tmp_path / stage.tag, ["test"] * 2, ids, np.log([[0.5, 0.5]] * 2))
    both = context(tmp_path / "out", one=(one, tmp_path / "one"), two=(two, tmp_path / "two"))
    with pytest.raises(ValueError, match="other rows than the first member"):
        Ensemble(members=(one, two)).run(both)


def test_shuffled_labels_keep_the_labels_of_a_split_and_lose_the_rows(tmp_path: Path) -> None:
    given = Given(tag="labels")
    (tmp_path / "in").mkdir()
    probabilities = np.linspace(0.01, 0.99, 40)
    ids = [f"r{index}" for index in range(40)]
    write_predictions(
        tmp_path / "in",
        ["strong_train"] * 30 + ["test"] * 10,
        ids,
        np.log(np.stack([probabilities, 1 - probabilities], 1)),
    )
    ShuffledLabels(labels=given, seed=0).run(
        context(tmp_path / "out", given=(given, tmp_path / "in"))
    )
    before, after = (read_predictions(tmp_path / name) for name in ("in", "out"))
    for split in ("strong_train", "test"):
        old, new = (
            frame.loc[frame["split"] == split, "logprob_0"].to_numpy() for frame in (before, after)
        )
        assert sorted(old) == sorted(new)
        assert (old != new).mean() > 0.7


def transcripts(folder: Path, num_rows: int = 20) -> Given:
    given = Given(tag="transcripts")
    folder.mkdir()
    pd.DataFrame(
        {
            "split": ["test"] * num_rows,
            "row_id": [f"r{index}" for index in range(num_rows)],
            "text": [f"text {index}" for index in range(num_rows)],
            "turns": ["[]"] * num_rows,
        }
    ).to_parquet(folder / "transcripts.parquet")
    return given


def test_a_shuffled_transcript_is_never_the_rows_own(tmp_path: Path) -> None:
    given = transcripts(tmp_path / "in")
    ShuffledTranscripts(transcripts=given, seed=3).run(
        context(tmp_path / "out", given=(given, tmp_path / "in"))
    )
    before, after = (read_transcripts(tmp_path / name) for name in ("in", "out"))
    assert sorted(before["text"]) == sorted(after["text"])
    assert not (before["text"] == after["text"]).to_numpy().any()


def test_permuted_transcripts_keep_markers_and_equalities_and_change_values(tmp_path: Path) -> None:
    given = Given(tag="debates")
    (tmp_path / "in").mkdir()
    prompts = [row.prompt for row in load(TASK).rows["test"]]
    values = [prompt.split()[-1] for prompt in prompts]
    texts = [f"pro: in {value} . it region {value} con: in {value}" for value in values]
    frame = pd.DataFrame(
        {
            "split": "test",
            "row_id": [f"r{i}" for i in range(len(texts))],
            "text": texts,
            "turns": "[]",
        }
    )
    frame.to_parquet(tmp_path / "in" / "transcripts.parquet")
    PermutedTranscripts(transcripts=given, task=TASK, seed=0).run(
        context(tmp_path / "out", given=(given, tmp_path / "in"))
    )
    after = read_transcripts(tmp_path / "out")["text"].tolist()
    assert [TASK.mask_transcript(text) for text in after] == [
        TASK.mask_transcript(text) for text in texts
    ]
    assert np.mean([new != old for new, old in zip(after, texts, strict=True)]) > 0.5


class Stubborn(ScriptedTransport):
    """Answers a number of requests, then none."""

    left: int = 5

    async def send(self, prompts, sampling, seeds, timeout_s):
        if self.left == 0:
            raise CompletionFailed("out of answers")
        self.left -= 1
        return await super().send(prompts, sampling, seeds, timeout_s)


def test_a_debate_goes_on_where_a_failed_attempt_stopped(
    store: ArtifactStore, model: PretrainedModel, tmp_path: Path
) -> None:
    here = setup(model)
    debate = here.debate(model).model_copy(
        update={"splits": ("weak_train", "strong_train", "test")}
    )
    assert isinstance(debate, Debate)
    prompts = run(store, here.prompts)
    folder = tmp_path / "attempt"
    folder.mkdir()

    def attempt(transport: ScriptedTransport) -> None:
        clients = {model_key(model): BatchingClient(transport)}
        given = StageContext(output_dir=folder, inputs={here.prompts.key: prompts}, clients=clients)
        asyncio.run(debate.run(given))

    replies = ("in Ab . it region Cd", "in Ef . it region Gh")
    with pytest.raises(CompletionFailed):
        attempt(Stubborn(replies))
    finished = [
        json.loads(line)["question_id"]
        for line in (folder / FINISHED_FILE).read_text().splitlines()
    ]
    assert 0 < len(finished) < len(read_prompts(prompts))
    (folder / FINISHED_FILE).open("a").write('{"cut off')
    second = ScriptedTransport(replies)
    attempt(second)
    frame = read_transcripts(folder)
    expected = sum(len(load(TASK).rows[split]) for split in debate.splits)
    assert len(frame) == expected
    assert len(second.prompts) == 3 * (expected - len(finished))
    assert frame["row_id"].is_unique


def test_style_features_see_equalities_only_when_asked() -> None:
    same, different = "pro: <value:1> con: <value:1>", "pro: <value:1> con: <value:2>"
    for kind in ("words", "positions"):
        features = style_features([same, different], kind).toarray()
        np.testing.assert_array_equal(features[0], features[1])
    features = style_features([same, different], "equalities").toarray()
    assert (features[0] != features[1]).any()


def test_a_finetune_is_named_after_its_model_labels_and_seed(model: PretrainedModel) -> None:
    here = setup(model)
    assert here.supervisor().name.endswith("-truth-xent-s0")
    assert isinstance(here.student(here.supervisor()), Finetune)
    assert here.student(here.supervisor()).name.endswith("-weak-xent-s0")
    assert Prompts(task=TASK).name == "prompts-almanac"
