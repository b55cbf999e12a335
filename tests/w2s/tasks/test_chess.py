import json
from pathlib import Path
from typing import Any

import chess
import pandas as pd
import pytest

from w2s.errors import UserError
from w2s.tasks import chess as chess_task
from w2s.tasks._source import Example, Source
from w2s.tasks.chess import Chess, count_scores, move_list, score_move
from w2s.types import SPLITS

SOURCE = Path(__file__).parents[2] / "fixtures" / "chess"
MATE_IN_ONE = {
    # After 1. f3 e5 the opponent plays 2. g4, and Qh4 mates.
    "FEN": "rnbqkbnr/pppp1ppp/8/4p3/8/5P2/PPPPP1PP/RNBQKBNR w KQkq - 0 2",
    "Moves": "g2g4 d8h4",
    "PGN": "1. f3 e5",
}


def examples(*rows: dict[str, Any], **fields: Any) -> tuple[list[Example], Source]:
    source = Source(str(SOURCE), "train")
    task = Chess(path=str(SOURCE), **fields)
    return list(task.examples(pd.DataFrame(list(rows)), source)), source


def raw(split: str = "train") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SOURCE / f"{split}.jsonl").open()]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (" Nf3", "right"),
        ("Nf3 1... e5 2. Bc4", "right"),
        (" e4", "legal"),
        (" Ng1f3", "legal"),
        (" Nf4", "illegal"),
        (" Qxf7+", "illegal"),
        (" castle", "unreadable"),
        (" --", "unreadable"),
        ("", "unreadable"),
        ("\n", "unreadable"),
    ],
)
def test_a_move_is_right_legal_illegal_or_unreadable(text: str, score: str) -> None:
    assert score_move(chess.STARTING_FEN, text, " Nf3") == score


def test_the_target_is_matched_letter_by_letter() -> None:
    board = chess.Board(MATE_IN_ONE["FEN"])
    board.push_uci("g2g4")
    assert score_move(board.fen(), " Qh4#", " Qh4#") == "right"
    assert score_move(board.fen(), " Qh4", " Qh4#") == "legal"


def test_a_move_that_two_pieces_can_make_is_illegal_as_written() -> None:
    fen = "4k3/8/8/8/8/8/8/R4RK1 w - - 0 1"
    assert score_move(fen, " Rd1", " Rad1") == "illegal"


def test_scores_are_counted() -> None:
    assert count_scores(["right", "illegal", "right"]) == {
        "right": 2,
        "legal": 0,
        "illegal": 1,
        "unreadable": 0,
    }


def test_a_move_list_numbers_each_half_move_and_ends_with_the_number_to_play() -> None:
    moves = [chess.Move.from_uci(uci) for uci in ("d2d4", "g8f6", "g1f3", "d7d5")]
    board = chess.Board()
    assert move_list(board, moves) == "1. d4 1... Nf6 2. Nf3 2... d5 3."
    assert move_list(board, moves[:3]) == "1. d4 1... Nf6 2. Nf3 2..."
    assert board.fen() == chess.STARTING_FEN


def test_a_choice_is_between_the_solution_and_another_legal_move() -> None:
    (example,), _ = examples(MATE_IN_ONE)
    shown = "FEN: rnbqkbnr/pppp1ppp/8/4p3/6P1/5P2/PPPPP2P/RNBQKBNR b KQkq - 0 2"
    assert example.options[example.label] == f"{shown}\nBest move: Qh4#"
    other = example.options[1 - example.label].removeprefix(f"{shown}\nBest move: ")
    assert score_move(shown.removeprefix("FEN: "), other, "Qh4#") == "legal"
    assert example.prompt.startswith(f"{shown}\nA: ")


def test_a_position_can_be_the_moves_of_its_game() -> None:
    (example,), _ = examples(MATE_IN_ONE, position="pgn")
    assert example.options[example.label] == "1. f3 1... e5 2. g4 2... Qh4#"


def test_another_mate_is_never_the_wrong_move(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ra8 and Rb8 both mate; the hash would put Rb8 first.
    monkeypatch.setattr(chess_task, "digest", lambda *parts: ("b1b8" not in parts, *parts))
    row = {"FEN": "7k/6pp/8/4p3/8/8/8/RR4K1 b - - 0 1", "Moves": "e5e4 a1a8"}
    (example,), _ = examples(row)
    assert example.options[example.label].endswith(" Ra8#")
    assert not example.options[1 - example.label].endswith("#")


def test_a_forced_move_is_no_choice() -> None:
    # The king on a1 is in check by the queen on b2, which it can only take.
    row = {"FEN": "7k/8/8/8/8/8/1q6/K7 b - - 0 1", "Moves": "h8h7 a1b2"}
    found, source = examples(row)
    assert found == []
    assert source.notes() == ["source split train: 1 puzzles have no other move and were dropped."]


def test_prompts_and_targets_are_the_same_puzzles_as_the_choices() -> None:
    task = Chess(path=str(SOURCE))
    choices = task.load()
    questions = task.generation()
    for split in SPLITS:
        assert [question.row_id for question in questions[split]] == [
            row.row_id for row in choices.rows[split]
        ]
    solutions = {}
    for row in raw():
        board = chess.Board(row["FEN"])
        opponent, solution = row["Moves"].split()
        board.push_uci(opponent)
        solutions[board.fen()] = f" {board.san(chess.Move.from_uci(solution))}"
    every = [question for split in SPLITS for question in questions[split]]
    assert {question.fen: question.target for question in every}.items() <= solutions.items()
    assert {score_move(item.fen, item.target, item.target) for item in every} == {"right"}
    by_moves = Chess(path=str(SOURCE), position="pgn").generation()
    replayed = [question for split in SPLITS for question in by_moves[split]]
    assert {item.fen: item.target for item in replayed}.items() <= solutions.items()
    assert all(item.prompt.endswith(".") for item in replayed)


def test_generation_is_no_classification() -> None:
    task = Chess(path=str(SOURCE), form="generation")
    with pytest.raises(UserError, match="form = 'choice'"):
        task.load()
    assert task.generation() == Chess(path=str(SOURCE)).generation()


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_easy_puzzles_train_and_hard_ones_test(tmp_path: Path) -> None:
    write(tmp_path, "train", raw()[:30])
    write(tmp_path, "validation", raw()[30:])
    data = Chess(path=str(tmp_path), max_rating=1600, min_test_rating=1700).load()
    ratings = {}
    for row in raw():
        board = chess.Board(row["FEN"])
        board.push_uci(row["Moves"].split()[0])
        ratings[f"FEN: {board.fen()}"] = row["Rating"]
    found = {
        split: [ratings[row.prompt.partition("\n")[0]] for row in data.rows[split]]
        for split in SPLITS
    }
    assert min(found["test"]) >= 1700
    assert max(max(found[split]) for split in ("weak_train", "strong_train", "val")) <= 1600


def test_one_rating_says_not_what_is_tested_where_there_is_no_test_split() -> None:
    with pytest.raises(UserError, match="give both max_rating and min_test_rating"):
        Chess(path=str(SOURCE), max_rating=1300).load()


def test_ratings_apply_to_their_own_split_where_there_is_a_test_split(tmp_path: Path) -> None:
    rows = raw()
    write(tmp_path, "train", rows[:24])
    write(tmp_path, "test", rows[24:])
    task = Chess(path=str(tmp_path), max_rating=2000, min_test_rating=900)
    for name, part, low, high in (("train", rows[:24], 0, 2000), ("test", rows[24:], 900, 3000)):
        source = Source(str(tmp_path), name)
        kept = [row for row in part if low <= row["Rating"] <= high]
        assert 0 < len(kept) < len(part)
        assert len(list(task.examples(pd.DataFrame(part), source))) == len(kept)


def test_a_limit_on_what_is_read_takes_the_same_puzzles_from_any_order() -> None:
    rows = raw()
    found, source = examples(*rows, max_puzzles=10)
    other, _ = examples(*reversed(rows), max_puzzles=10)
    assert len(found) == 10
    assert set(found) == set(other)
    assert source.notes() == ["source split train: 34 more puzzles were not read (max_puzzles)."]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"FEN": "no position"}, "column 'FEN': found 'no position'"),
        ({"Moves": "g2g4"}, "column 'Moves': found 'g2g4'; needed: the opponent's move"),
        ({"Moves": "g2g5 d8h4"}, "column 'Moves': found 'g2g5', which is no legal move"),
        ({"Moves": "g2g4 Qh4#"}, "column 'Moves': found 'Qh4#', which is no legal move"),
        ({"PGN": "1. e4 e5"}, "column 'PGN': found '1. e4 e5', which does not lead to 'FEN'"),
    ],
)
def test_a_wrong_puzzle_is_named_by_file_row_and_column(
    change: dict[str, str], problem: str
) -> None:
    with pytest.raises(UserError) as caught:
        examples(MATE_IN_ONE, {**MATE_IN_ONE, **change}, position="pgn")
    assert "train.jsonl', row 2" in str(caught.value)
    assert problem in str(caught.value)


def test_a_rating_that_is_no_number_is_named() -> None:
    rows = [{**MATE_IN_ONE, "Rating": 900}, {**MATE_IN_ONE, "Rating": "high"}]
    with pytest.raises(UserError, match="row 2, column 'Rating': found 'high'"):
        examples(*rows, max_rating=1000, min_test_rating=2000)
