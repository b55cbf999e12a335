"""Chess puzzles (Lichess; Burns et al. 2023, appendix A.2): the best move of a position.

A puzzle is a position, the opponent's move that leads to the position to solve, and the solution.
It is asked in one of two forms:

* `choice`, for classifiers: the solution's first move against another legal move of the same
  position. The options are whole texts (position and move), their order and the other move are
  drawn by content. A move that mates as well is never the other move.
* `generation`, as in the paper: `generation()` gives prompts and targets, the target one move in
  SAN after a space (` Qxc1+`), and `score_move` compares a generated text with it.

The position is written as FEN or, where the data have the game, as the paper's list of moves that
ends with the number of the move to find (`1. d4 1... Nf6 2. Nf3 2...`).

The published data are one file. Where training is on easy and testing on hard puzzles, their rating
decides what is held out; otherwise the position does.
"""

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from w2s.errors import UserError
from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source, digest
from w2s.tasks.base import PromptTemplate
from w2s.types import Row, Split, TaskData

if TYPE_CHECKING:
    from chess import Board, Move

MoveScore = Literal["right", "legal", "illegal", "unreadable"]
"""What a generated text is: the target, another legal move, an illegal move, no move at all."""

FEN = "FEN: "
ASK = "\nBest move:"

SCORES: tuple[MoveScore, ...] = ("right", "legal", "illegal", "unreadable")


def score_move(fen: str, text: str, target_san: str) -> MoveScore:
    """How good a generated text is as the next move of a position.

    Only the first word of the text counts. `right` is the paper's exact match: the same letters as
    the target, signs of check included; the target's move spelled otherwise is `legal`.

    Args:
        fen: position to move in.
        text: what a model wrote after the prompt.
        target_san: the solution in SAN; a space before it is no part of it.
    """
    import chess

    words = text.split()
    if not words:
        return "unreadable"
    if words[0] == target_san.strip():
        return "right"
    try:
        # A null move can be written, but it is no move of chess.
        return "legal" if chess.Board(fen).parse_san(words[0]) else "unreadable"
    except (chess.IllegalMoveError, chess.AmbiguousMoveError):
        return "illegal"
    except chess.InvalidMoveError:
        return "unreadable"


def count_scores(scores: Iterable[MoveScore]) -> dict[MoveScore, int]:
    """How many texts have each score; all four are there. Accuracy is the share of `right`."""
    counted = Counter(scores)
    return {score: counted[score] for score in SCORES}


def move_list(board: "Board", moves: Iterable["Move"]) -> str:
    """The paper's prompt: each half-move with its number, then the number of the move to find.

    Args:
        board: where the moves begin; unchanged.
        moves: legal moves from there.
    """
    board = board.copy(stack=False)
    words = []
    for move in moves:
        words += [_number(board), board.san(move)]
        board.push(move)
    return " ".join([*words, _number(board)])


def _number(board: "Board") -> str:
    return f"{board.fullmove_number}{'.' if board.turn else '...'}"


@dataclass(frozen=True, slots=True)
class MoveQuestion:
    """A puzzle as a language model is asked it."""

    row_id: str
    """Id of the row that asks the same puzzle as a choice."""
    group: str
    """Group of that row."""
    prompt: str
    """The position; the move comes next."""
    target: str
    """The solution's first move in SAN, after a space."""
    fen: str
    """The position to move in, for `score_move`."""


class Chess(DatasetTask):
    """Which of two legal moves solves a puzzle."""

    kind: Literal["chess"] = "chess"
    path: str = "Lichess/chess-puzzles"
    form: Literal["choice", "generation"] = "choice"
    """Classification of two moves, or prompts and targets for a language model."""
    position: Literal["fen", "pgn"] = "fen"
    """How a position is written: FEN, or the game's moves; the latter needs a column `PGN` with the
    moves up to `FEN`."""
    max_rating: int | None = Field(default=None, ge=1)
    """Highest rating of the puzzles of training and `val`; None: all."""
    min_test_rating: int | None = Field(default=None, ge=1)
    """Lowest rating of the puzzles of `test`; None: all."""
    max_puzzles: int | None = Field(default=150_000, ge=10)
    """Puzzles to read of a split, those that come first by a hash of their position; None: all."""

    hub_lacks: ClassVar[tuple[Part, ...]] = ("val", "test")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        rated = self.max_rating is not None or self.min_test_rating is not None
        return (
            "FEN",
            "Moves",
            *(("PGN",) if self.position == "pgn" else ()),
            *(("Rating",) if rated else ()),
        )

    def load(self) -> TaskData:
        """The puzzles as choices.

        Raises:
            UserError: as of any data set, and for the form `generation`.
        """
        if self.form == "generation":
            raise UserError(
                "task 'chess' in the form 'generation' has texts for targets, no classes; "
                "for classifiers use form = 'choice'"
            )
        return super().load()

    def generation(self) -> dict[Split, list[MoveQuestion]]:
        """The puzzles of the four splits as prompts and targets: the same as `choice` has.

        Raises:
            UserError: as of `load`.
        """
        data = self.model_copy(update={"form": "choice"}).load()
        return {split: list(map(_question, rows)) for split, rows in data.rows.items()}

    def prompt_template(self) -> PromptTemplate:
        """The prompt's question, answered by A or B."""
        return PromptTemplate(question="{prompt}\nAnswer:", labels=(" A", " B"))

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One example a puzzle."""
        columns = ("FEN", "Moves", "PGN") if self.position == "pgn" else ("FEN", "Moves")
        chosen = self._chosen(frame, source)
        cells = [frame[name].iloc[chosen].tolist() for name in columns]
        for row, *values in zip(chosen, *cells, strict=True):
            texts = [source.text(row, *named) for named in zip(columns, values, strict=True)]
            if "" in texts:
                source.drop(f"rows have an empty {columns[texts.index('')]!r} and were dropped")
                continue
            example = _choice(source, row, *texts)
            if example is None:
                source.drop("puzzles have no other move and were dropped")
            else:
                yield example

    def _chosen(self, frame: pd.DataFrame, source: Source) -> list[int]:
        """Rows of the puzzles with the asked-for ratings, at most `max_puzzles`."""
        rows = np.arange(len(frame))
        if "Rating" in self.columns:
            low, high = self._ratings(source)
            ratings = np.asarray(pd.to_numeric(frame["Rating"], errors="coerce"), dtype=float)
            if np.isnan(ratings).any():
                row = int(np.isnan(ratings).argmax())
                found = frame["Rating"].iat[row]
                raise source.error(row, "Rating", f"found {found!r}; allowed: a number")
            rows = np.flatnonzero((ratings >= low) & (ratings <= high))
            if len(rows) < len(frame):
                source.drop(
                    f"puzzles were left out for their rating (kept: {low:g} to {high:g})",
                    len(frame) - len(rows),
                )
        if self.max_puzzles is not None and len(rows) > self.max_puzzles:
            source.drop("more puzzles were not read (max_puzzles)", len(rows) - self.max_puzzles)
            fens = frame["FEN"].tolist()
            hashes = {row: digest(str(fens[row])) for row in rows.tolist()}
            return sorted(sorted(hashes, key=hashes.__getitem__)[: self.max_puzzles])
        return rows.tolist()

    def _ratings(self, source: Source) -> tuple[float, float]:
        """Lowest and highest rating of the puzzles of a split of the source."""
        low, high = self.min_test_rating or 0, self.max_rating or float("inf")
        if self._lacks_test():
            return low, high
        return (low, float("inf")) if source.split in self.source_splits["test"] else (0, high)

    def _lacks_test(self) -> bool:
        found = self._found()
        return found is None or not found["test"]

    def _parts(self, notes: list[str]) -> dict[Part, list[Row]]:
        """As of any data set; of one with ratings but no test split the rating decides."""
        if "Rating" not in self.columns or not self._lacks_test():
            return super()._parts(notes)
        if self.max_rating is None or self.min_test_rating is None:
            raise UserError(
                f"data {self.path!r} have no test split, so the rating decides what is tested: "
                "give both max_rating and min_test_rating"
            )
        found = self._found()
        names = [None] if found is None else found["train"]
        easy = self.model_copy(update={"min_test_rating": None})
        hard = self.model_copy(update={"max_rating": None})
        parts: dict[Part, list[Row]] = {
            "train": easy._read(names, notes),
            "test": hard._read(names, notes),
        }
        if found is not None and found["val"]:
            parts["val"] = easy._read(found["val"], notes)
        return parts


def _choice(source: Source, row: int, fen: str, moves: str, pgn: str = "") -> Example | None:
    """The solution's first move against another one; None where there is no other."""
    import chess

    try:
        board = chess.Board(fen)
    except ValueError as error:
        raise source.error(row, "FEN", f"found {fen!r}, which is no position: {error}") from error
    if len(moves.split()) < 2:
        raise source.error(
            row, "Moves", f"found {moves!r}; needed: the opponent's move and the solution, in UCI"
        )
    before, solution = moves.split()[:2]
    game = _game(source, row, pgn, board) if pgn else None
    last = _push(source, row, board, before)
    shown = f"{FEN}{board.fen()}" if game is None else move_list(chess.Board(), [*game, last])
    position = shown + ASK if game is None else shown

    key = board.epd()
    right = _legal(source, row, board, solution)
    others = [move for move in board.legal_moves if move != right]
    others.sort(key=lambda move: digest(key, move.uci()))
    wrong = next((move for move in others if not _as_good(board, move, right)), None)
    if wrong is None:
        return None
    sans = [board.san(move) for move in (right, wrong)]
    first, second = sorted(sans, key=lambda san: digest(key, san))
    return Example(
        prompt=f"{shown}\nA: {first}\nB: {second}\nWhich move is better, A or B?",
        label=(first, second).index(sans[0]),
        group=key,
        options=(f"{position} {first}", f"{position} {second}"),
    )


def _as_good(board: "Board", move: "Move", right: "Move") -> bool:
    """Whether a move may well be as good as the solution: it mates, or promotes another way."""
    if (move.from_square, move.to_square) == (right.from_square, right.to_square):
        return True
    board.push(move)
    mates = board.is_checkmate()
    board.pop()
    return mates


def _legal(source: Source, row: int, board: "Board", uci: str) -> "Move":
    import chess

    try:
        move = chess.Move.from_uci(uci)
    except ValueError:
        move = chess.Move.null()
    if move not in board.legal_moves:
        raise source.error(
            row, "Moves", f"found {uci!r}, which is no legal move (UCI) in {board.fen()!r}"
        )
    return move


def _push(source: Source, row: int, board: "Board", uci: str) -> "Move":
    move = _legal(source, row, board, uci)
    board.push(move)
    return move


def _game(source: Source, row: int, pgn: str, board: "Board") -> "list[Move]":
    """The moves of a game from the first position to the one of the row."""
    import chess
    from chess.pgn import read_game

    game = read_game(io.StringIO(pgn))
    moves = [] if game is None else list(game.mainline_moves())
    if game is None or game.errors or game.end().board().epd() != board.epd():
        raise source.error(row, "PGN", f"found {pgn[:60]!r}, which does not lead to 'FEN'")
    if game.board().fen() != chess.STARTING_FEN:
        raise source.error(row, "PGN", f"the game begins at {game.board().fen()!r}, not as usual")
    return moves


def _question(row: Row) -> MoveQuestion:
    """The puzzle that a row asks as a choice."""
    import chess

    prompt, _, san = row.options[row.label].rpartition(" ")
    if prompt.startswith(FEN):
        fen = prompt.removeprefix(FEN).removesuffix(ASK)
    else:
        board = chess.Board()
        for word in prompt.split()[1::2]:
            board.push_san(word)
        fen = board.fen()
    return MoveQuestion(row.row_id, row.group, prompt, f" {san}", fen)
