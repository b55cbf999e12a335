"""Transcripts that are too long for a reader lose words of their arguments and nothing else."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.w2s.stages.served import Said, saved_model
from w2s.stages.base import StageContext
from w2s.stages.data import PROMPTS_FILE, Prompts
from w2s.stages.tokens import Tokens, read_tokens
from w2s.stages.transcripts import TRANSCRIPTS_FILE, shortened
from w2s.tasks.almanac import Almanac

TEXT = "A: a b c d e B: f g h A: i"
TURNS = json.dumps([{"text": "a b c d e"}, {"text": "f g h"}, {"text": "i"}])


def words(text: str) -> int:
    return len(text.split())


def cut_to(most: int, turns: str = TURNS) -> str:
    return shortened(TEXT, turns, lambda text: f"is it so {text}", words, most)


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (15, "A: a b c d e B: f g h A: i"),
        (14, "A: a b c d B: f g h A: i"),
        (13, "A: a b c B: f g h A: i"),
        (12, "A: a b B: f g A: i"),
        (11, "A: a b B: f g A: i"),
        (10, "A: a B: f A: i"),
        (9, "A: a B: f A: i"),
        (8, "A:  B:  A: "),
        (1, "A:  B:  A: "),
    ],
)
def test_arguments_are_cut_at_the_same_number_of_words(most: int, expected: str) -> None:
    assert cut_to(most) == expected


def test_a_text_whose_turns_are_not_known_is_one_argument() -> None:
    for turns in ("[]", json.dumps([{"text": "something else"}])):
        assert cut_to(7, turns) == "A: a b c"


def test_words_of_many_tokens_are_counted_by_the_reader() -> None:
    text = "aaaaaaaa b c d e f g h"
    cut = shortened(text, "[]", lambda shorter: shorter, len, 12)
    assert cut == "aaaaaaaa b c"


def test_a_reader_of_few_tokens_keeps_the_question_and_every_speaker(tmp_path: Path) -> None:
    model = saved_model(tmp_path / "model", num_positions=12)
    prompts, said = Prompts(task=Almanac()), Said()
    rows = {"row_id": ["r0", "r1"], "split": "test"}
    for name in ("prompts", "said", "tokens"):
        (tmp_path / name).mkdir()
    frame = pd.DataFrame({**rows, "prompt": "is it so", "group": "g"})
    frame.to_parquet(tmp_path / "prompts" / PROMPTS_FILE)
    frame = pd.DataFrame({**rows, "text": [TEXT, "A: a"], "turns": [TURNS, "[]"]})
    frame.to_parquet(tmp_path / "said" / TRANSCRIPTS_FILE)
    inputs = {prompts.key: tmp_path / "prompts", said.key: tmp_path / "said"}
    Tokens(model=model, prompts=prompts, transcripts=said).run(
        StageContext(tmp_path / "tokens", inputs)
    )
    # Two arguments lose a word each at a time, so one token stays free; a text cut on the left
    # would fill all twelve.
    assert read_tokens(tmp_path / "tokens").rows.lengths.tolist() == [11, 5]
