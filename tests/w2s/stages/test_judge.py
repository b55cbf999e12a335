"""Zero-shot judges: what they read, how their answers become labels, what a crash costs."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from serving.backends.scripted import ScriptedTransport
from serving.client import Scores
from serving.debate.prompts import DebatePrompts
from serving.debate.types import Turn
from serving.errors import CompletionFailed
from serving.messages import Completion
from tests.w2s.stages.given import PROMPTS, Artifacts
from tests.w2s.stages.served import Said, run_served, saved_model, turn, write_transcripts
from w2s.oversight import INVALID
from w2s.stages.judge import (
    FINISHED_FILE,
    JUDGING_FILE,
    VERDICTS_FILE,
    Judged,
    exchanged,
)
from w2s.stages.predictions import read_predictions
from w2s.templates import JudgePrompts, Verdict

SAID = Said()
TEMPLATES = JudgePrompts(separator=" | ", closing="Verdict:", verdict_closing="Say.")
TURNS = DebatePrompts(turn_template="{side} {position}: {text}", joiner=" / ")
ROWS = ("r0", "r1", "r2")


class Judge(ScriptedTransport):
    """Scores or writes what a function of the prompt says."""

    def __init__(
        self,
        score: Callable[[str], Sequence[float]] = lambda prompt: (0.5, 0.5),
        write: Callable[[str], str] = lambda prompt: "",
    ) -> None:
        super().__init__(("-",))
        self._score, self._write = score, write

    async def score(self, prompts, choices, timeout_s) -> list[Scores]:
        assert choices == (" No", " Yes")
        self.prompts.extend(prompts)
        return [tuple(map(math.log, self._score(prompt))) for prompt in prompts]

    async def send(self, prompts, sampling, seeds, timeout_s) -> list[Completion]:
        assert sampling.temperature == 0
        self.prompts.extend(prompts)
        return [Completion(self._write(prompt), 3, "stop") for prompt in prompts]


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """Three test rows, and a debate about each; A is right about r0 and r2."""
    found = Artifacts(tmp_path)
    found.prompts([("test", row_id, f"question {row_id}") for row_id in ROWS])
    debates = {
        row_id: (
            turn("A", "incorrect" if row_id == "r1" else "correct", f"one {row_id}"),
            turn("B", "correct" if row_id == "r1" else "incorrect", f"two {row_id}", 1),
        )
        for row_id in ROWS
    }
    write_transcripts(found.place(SAID), debates)
    return found


def judged(tmp_path: Path, num_positions: int = 512, **fields: object) -> Judged:
    return Judged(
        model=saved_model(tmp_path / f"model{num_positions}", num_positions),
        prompts=PROMPTS,
        **{
            "transcripts": SAID,
            "templates": TEMPLATES,
            "turn_templates": TURNS,
            "splits": ("test",),
            **fields,
        },  # pyright: ignore[reportArgumentType]
    )


def probabilities(folder: Path) -> dict[str, float]:
    """Probability of yes by row."""
    frame = read_predictions(folder)
    values_NC = np.exp(frame[["logprob_0", "logprob_1"]].to_numpy(np.float64))
    np.testing.assert_allclose(values_NC.sum(1), 1, atol=1e-6)
    return dict(zip(frame["row_id"], values_NC[:, 1].round(6).tolist(), strict=True))


def verdicts(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / VERDICTS_FILE).set_index("row_id")


def test_the_judge_reads_question_debate_and_closing_and_its_softmax_is_the_label(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    # Of what is left beside the two words nothing counts: 0.1 to 0.3 is 1 to 3.
    judge = Judge(lambda prompt: (0.1, 0.3) if "r0" in prompt else (0.2, 0.2))
    folder = run_served(judged(tmp_path), artifacts.inputs, tmp_path / "out", judge)
    assert judge.prompts[0] == ("question r0 A correct: one r0 / B incorrect: two r0 | Verdict:")
    assert probabilities(folder) == {"r0": 0.75, "r1": 0.5, "r2": 0.5}
    found = verdicts(folder)
    assert found["verdict"].tolist()[0] == "correct"
    assert found["logprob_first"].tolist() == pytest.approx([math.log(0.75), *[math.log(0.5)] * 2])
    assert found["logprob_swapped"].isna().to_numpy().all()


def test_a_judge_without_transcripts_reads_the_question_alone(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    judge = Judge()
    stage = judged(tmp_path, transcripts=None, swap=True)
    run_served(stage, artifacts.inputs, tmp_path / "out", judge)
    assert judge.prompts == [f"question {row_id} | Verdict:" for row_id in ROWS]


def test_both_orders_cancel_a_judge_that_goes_by_sides(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    judge = Judge(lambda prompt: (0.1, 0.9) if "A correct" in prompt else (0.9, 0.1))
    one_order = run_served(judged(tmp_path), artifacts.inputs, tmp_path / "one", judge)
    assert probabilities(one_order) == {"r0": 0.9, "r1": 0.1, "r2": 0.9}
    stage = judged(tmp_path, swap=True)
    both = run_served(stage, artifacts.inputs, tmp_path / "both", judge)
    assert probabilities(both) == {"r0": 0.5, "r1": 0.5, "r2": 0.5}
    assert np.exp(verdicts(both)["logprob_first"]).tolist() == pytest.approx([0.9, 0.1, 0.9])
    assert np.exp(verdicts(both)["logprob_swapped"]).tolist() == pytest.approx([0.1, 0.9, 0.1])


def test_both_orders_keep_what_a_judge_makes_of_the_arguments(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    judge = Judge(lambda prompt: (0.2, 0.8) if "correct: one" in prompt else (0.6, 0.4))
    stage = judged(tmp_path, swap=True)
    found = probabilities(run_served(stage, artifacts.inputs, tmp_path / "out", judge))
    assert found["r0"] == 0.8


def test_exchanged_sides_speak_in_their_order_within_a_round_and_rounds_stay() -> None:
    turns = (
        turn("A", "correct", "as debater B will say", 0),
        turn("B", "incorrect", "Debater A errs, A B", 0),
        turn("judge", "", "why?", 1),
        turn("A", "correct", "because", 2),
    )

    def shown(found: Sequence[Turn]) -> list[tuple[str, str, str]]:
        return [(one.side, one.position, one.text) for one in found]

    assert shown(exchanged(turns)) == [
        ("A", "incorrect", "Debater B errs, A B"),
        ("B", "correct", "as debater A will say"),
        ("judge", "", "why?"),
        ("B", "correct", "because"),
    ]
    assert exchanged(exchanged(turns)) == turns


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Answer: correct", Verdict(1, "")),
        ("I think so.\n\nAnswer: incorrect.\n", Verdict(0, "")),
        ("Answer: B", Verdict(None, "B")),
        ("Answer: correct, I think", Verdict(None, "")),
        ("Answer: correct\nOr not.", Verdict(None, "")),
        ("correct", Verdict(None, "")),
        ("Answer: Correct", Verdict(None, "")),
        ("", Verdict(None, "")),
    ],
)
def test_a_verdict_is_the_last_line_and_nothing_else(text: str, verdict: Verdict) -> None:
    assert JudgePrompts().parse(text) == verdict


def test_a_verdict_can_be_a_label_word() -> None:
    templates = JudgePrompts(labels=(" a", " b", " c"), verdict="It is (a|b|c|d)")
    assert templates.parse("It is c") == Verdict(2, "")
    assert templates.parse("It is d") == Verdict(None, "")


@pytest.mark.parametrize(
    "wrong", [{"labels": (" a", " a")}, {"verdict": "no group"}, {"verdict": "(open"}]
)
def test_templates_that_cannot_be_read_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"labels must differ|one group|cannot be read"):
        JudgePrompts(**wrong)


def test_written_verdicts_name_the_answer_or_the_debater_and_invalid_ones_are_even_odds(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    said = {"r0": "Answer: incorrect", "r1": "Answer: A", "r2": "Who knows?"}
    judge = Judge(write=lambda prompt: said[prompt.split()[1]])
    stage = judged(tmp_path, how="verdict")
    folder = run_served(stage, artifacts.inputs, tmp_path / "out", judge)
    assert judge.prompts[0].endswith("two r0 | Say.")
    # A argues that r1 is incorrect.
    assert probabilities(folder) == {"r0": 0.0, "r1": 0.0, "r2": 0.5}
    assert verdicts(folder)["verdict"].tolist() == ["incorrect", "incorrect", INVALID]
    assert verdicts(folder)["text"].tolist() == list(said.values())
    assert json.loads((folder / JUDGING_FILE).read_text()) == {"num_rows": 3, "num_invalid": 1}


def test_a_judge_that_always_names_one_side_is_at_even_odds_in_both_orders(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    stage = judged(tmp_path, how="verdict", swap=True)
    judge = Judge(write=lambda prompt: "Answer: A")
    folder = run_served(stage, artifacts.inputs, tmp_path / "out", judge)
    assert set(probabilities(folder).values()) == {0.5}
    assert json.loads((folder / JUDGING_FILE).read_text())["num_invalid"] == 0


def test_long_arguments_are_cut_alike_and_the_question_is_not(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    long = {
        row_id: (
            turn("A", "correct", "a1 a2 a3 a4 a5"),
            turn("B", "incorrect", "b1 b2 b3 b4", 1),
        )
        for row_id in ROWS
    }
    write_transcripts(artifacts.place(SAID), long)
    # Two words of the question, a bar and the slash, the closing, the label; two for each name;
    # room for two words an argument; one token is kept free.
    judge = Judge()
    stage = judged(tmp_path, num_positions=2 + 2 + 1 + 1 + 2 * 2 + 2 * 2 + 1)
    run_served(stage, artifacts.inputs, tmp_path / "out", judge)
    assert judge.prompts[0] == "question r0 A correct: a1 a2 / B incorrect: b1 b2 | Verdict:"
    judge = Judge()
    stage = judged(tmp_path, num_positions=2 + 1 + 1 + 1 + 1)
    run_served(stage, artifacts.inputs, tmp_path / "tiny", judge)
    assert judge.prompts[0] == "question r0 | Verdict:"


def test_a_text_without_turns_is_read_as_it_is(artifacts: Artifacts, tmp_path: Path) -> None:
    write_transcripts(artifacts.place(SAID), dict.fromkeys(ROWS, ()), text="pro: x con: y")
    judge = Judge()
    stage = judged(tmp_path, turn_templates=None, swap=True)
    run_served(stage, artifacts.inputs, tmp_path / "out", judge)
    assert judge.prompts == [f"question {row_id} pro: x con: y | Verdict:" for row_id in ROWS]


def test_the_last_round_can_be_all_that_is_read(artifacts: Artifacts, tmp_path: Path) -> None:
    judge = Judge()
    run_served(judged(tmp_path, rounds="last"), artifacts.inputs, tmp_path / "out", judge)
    assert judge.prompts[0] == "question r0 B incorrect: two r0 | Verdict:"


def test_a_row_without_a_transcript_is_an_error(artifacts: Artifacts, tmp_path: Path) -> None:
    write_transcripts(artifacts.place(SAID), {"r0": (turn("A", "correct", "x"),)})
    with pytest.raises(ValueError, match=r"2 of 3 rows have no transcript; first: r1"):
        run_served(judged(tmp_path), artifacts.inputs, tmp_path / "out", Judge())


@pytest.mark.parametrize("how", ["scores", "verdict"])
def test_an_attempt_after_a_crash_asks_only_for_what_is_missing(
    artifacts: Artifacts, tmp_path: Path, how: str
) -> None:
    class Dies(Judge):
        async def score(self, prompts, choices, timeout_s) -> list[Scores]:
            self._check()
            return await super().score(prompts, choices, timeout_s)

        async def send(self, prompts, sampling, seeds, timeout_s) -> list[Completion]:
            self._check()
            return await super().send(prompts, sampling, seeds, timeout_s)

        def _check(self) -> None:
            if len(self.prompts) == 4:
                raise CompletionFailed("gone")

    stage, output = judged(tmp_path, how=how, swap=True), tmp_path / "out"
    with pytest.raises(CompletionFailed):
        run_served(stage, artifacts.inputs, output, Dies())
    with (output / FINISHED_FILE).open("a") as file:
        file.write('{"row_id": "r2", "sco')
    second = Judge()
    run_served(stage, artifacts.inputs, output, second)
    assert len(second.prompts) == 6 - 4
    run_served(stage, artifacts.inputs, tmp_path / "whole", Judge())
    pd.testing.assert_frame_equal(read_predictions(output), read_predictions(tmp_path / "whole"))
