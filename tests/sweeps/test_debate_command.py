"""`w2s debate`: what it checks, and what is seen of a debate."""

import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from serving.backends.scripted import ScriptedTransport
from serving.client import BatchingClient
from sweeps.cli import main
from sweeps.commands import debate
from sweeps.load import load
from w2s.tasks.base import load as load_task

FILE = """
name = "small"
seeds = [0]
[[tasks]]
kind = "almanac"
world = { seed = 100, num_quiz = 8, num_dev = 8, num_weak_train = 8, num_strong_train = 8, num_val = 4, num_test = 8 }
[[tasks]]
kind = "table"
path = "table.csv"
prompt = "Q: {text}"
label = "so"
classes = ["no", "yes"]
[[ladder]]
name = "a"
architecture = { hidden_size = 32, intermediate_size = 64 }
corpus = { kind = "task", num_tokens = 1000 }
[[speakers]]
name = "pro"
model = "a-model"
base_url = "http://127.0.0.1:9/v1"
[[speakers]]
name = "con"
model = "another"
base_url = "http://127.0.0.1:9/v1"
[[blocks]]
name = "pairs"
pairs = "equal"
"""  # noqa: E501
SPEAKERS = ("--debater", "pro", "--opponent", "con", "--judge", "con")


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    lines = [f"is number {n} even?,{'yes' if n % 2 == 0 else 'no'}" for n in range(60)]
    (tmp_path / "table.csv").write_text("text,so\n" + "\n".join(lines) + "\n")
    path = tmp_path / "sweep.toml"
    path.write_text(FILE)
    return path


Say = Callable[..., dict[str, ScriptedTransport]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Say:
    """Gives the speakers their words, in place of servers."""

    def given(pro: str = "It is so.", con: str = "It is not.") -> dict[str, ScriptedTransport]:
        transports = {"pro": ScriptedTransport((pro,)), "con": ScriptedTransport((con,))}

        @contextlib.asynccontextmanager
        async def clients(cast: debate.Cast, *_: object) -> AsyncIterator[object]:
            yield {key: BatchingClient(transports[cast.names[key]], None) for key in cast.models}

        monkeypatch.setattr(debate, "_clients", clients)
        return transports

    return given


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = main(("debate", *arguments))
    printed = capsys.readouterr()
    assert code == 2, printed.out
    assert "Traceback" not in printed.err
    assert printed.err.startswith("w2s debate: ")
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--row", "9999"), "--row 9999: the test split has rows 0 to "),
        (("--row", "99", "--split", "val"), "the val split has rows 0 to "),
        (("--row", "0", "--task", "zz"), "--task 'zz': no such task; tasks: almanac, table-table"),
        (("--row", "0", "--judge", "zz"), "--judge: no model 'zz'; models: weak, strong, a, pro"),
        (("--row", "0", "--protocol", "zz"), "zz"),
        (("--row", "0", "--protocol", "{ kind = "), "is no table"),
        (("--row", "0", "--protocol", "{ kind = 'sequential', turns = 3 }"), "turns: unknown key"),
        (("--row", "0", "--seed", "-1"), "a seed is 0 or more"),
        (("--row", "0", "--save", "nowhere/x.html"), "no such folder"),
        (("--row", "0"), "is not in the store"),
        (("--question", "Who is Ada?"), "Q: GIVEN FAMILY RELATION VALUE, such as 'Q: "),
        ((), "give --row NUMBER, or --question TEXT"),
        (
            ("--row", "0", "--judge", "none", "--protocol", "market_making"),
            "'market_making' needs a judge",
        ),
        (
            ("--row", "0", "--protocol", "{ kind = 'sequential', thinking = true }"),
            "have no `thinking_rule`",
        ),
    ],
)
def test_a_mistake_is_one_message_before_anything_starts(
    sweep: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
):
    assert message in refused(capsys, str(sweep), *arguments)


def test_turns_are_seen_as_they_are_written_and_the_judge_comes_last(
    sweep: Path, say: Say, capsys: pytest.CaptureFixture[str]
):
    transports = say()
    assert main(("debate", str(sweep), "--task", "table-table", "--row", "0", *SPEAKERS)) == 0
    shown = capsys.readouterr().out
    row = load_task(load(sweep)[0].tasks[1]).rows["test"][0]
    assert shown.startswith(row.prompt)
    order = [shown.index(words) for words in ("A, ", "(pro): It is so.", "(con): It is not.")]
    assert order == sorted(order)
    assert shown.count("(pro): It is so.") == 2
    alone, after = re.findall(r"judge con (alone|after the debate): .* (\d+) %", shown)
    assert (alone[0], after[0]) == ("alone", "after the debate")
    truth = "correct" if row.label == 1 else "incorrect"
    assert shown.rstrip().endswith(f"the proposed answer is {truth}")
    # The judge read the whole debate, in the form of the task's debates.
    assert "It is so." in transports["con"].prompts[-1]
    assert "It is not." in transports["con"].prompts[-1]


def test_a_typed_question_is_debated_and_nobody_claims_to_know_the_truth(
    sweep: Path, say: Say, capsys: pytest.CaptureFixture[str]
):
    say()
    asked = ("--question", "Q: Is glass a liquid?", "--task", "table-table", "--judge", "none")
    assert main(("debate", str(sweep), *asked, *SPEAKERS[:4])) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Q: Is glass a liquid?\n(typed; sequential, seed 0)")
    assert "the proposed answer is" not in shown
    assert "judge" not in shown


def test_questions_are_taken_one_after_another_from_a_terminal(
    sweep: Path,
    say: Say,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    say()
    row = load_task(load(sweep)[0].tasks[0]).rows["test"][0]
    lines = iter(["Q: Who is that?", row.prompt, ""])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    page = tmp_path / "page.html"
    assert main(("debate", str(sweep), *SPEAKERS, "--save", str(page))) == 0
    shown = capsys.readouterr().out
    assert "needed 4" in shown  # the first one is refused, and the next one is asked for
    assert f"\n{row.prompt}\n" in f"\n{shown}"
    assert page.exists()


THINKS = "<thinking>two secret words</thinking> <argument>What all read.</argument>"
SIMULTANEOUS = ("--protocol", "{ kind = 'simultaneous', num_rounds = 1, thinking = true }")


@pytest.mark.parametrize("is_shown", [False, True])
def test_thinking_is_shown_only_when_it_is_asked_for(
    sweep: Path, say: Say, capsys: pytest.CaptureFixture[str], is_shown: bool
):
    transports = say(pro=THINKS, con=THINKS)
    arguments = ("--task", "table-table", "--row", "0", *SPEAKERS, *SIMULTANEOUS)
    assert main(("debate", str(sweep), *arguments, *(["--thinking"] * is_shown))) == 0
    shown = capsys.readouterr().out
    assert shown.count("What all read.") == 2
    assert shown.count("two secret words") == (2 if is_shown else 0)
    assert "<thinking>" not in shown
    assert "</argument>" not in shown
    assert not any("two secret words" in prompt for prompt in transports["con"].prompts)


def test_who_argues_against_a_pick_argues_against_what_the_judge_alone_believes(
    sweep: Path, say: Say, capsys: pytest.CaptureFixture[str]
):
    say()
    # A scripted judge believes the label that its prompt has more often, and its instruction has
    # each once: yes, by 1 + 4 + 1 to 1 + 1 + 1.
    question = ("--question", "Q: yes yes yes yes or no ?", "--task", "table-table")
    assert main(("debate", str(sweep), *question, *SPEAKERS, "--protocol", "market_making")) == 0
    shown = capsys.readouterr().out
    assert "judge con alone: correct, 67 % that the answer is correct" in shown
    assert "\nA, incorrect (pro): It is so." in shown


def test_the_page_of_a_debate_has_all_that_was_said_and_judged(
    sweep: Path, say: Say, tmp_path: Path
):
    say(pro=THINKS, con=THINKS)
    page = tmp_path / "debate.html"
    arguments = (
        "--task",
        "table-table",
        "--row",
        "1",
        *SPEAKERS,
        *SIMULTANEOUS,
        "--save",
        str(page),
    )
    assert main(("debate", str(sweep), *arguments)) == 0
    encoded = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert encoded is not None
    (example,) = json.loads(encoded[1])["examples"]
    assert [turn["model"] for turn in example["turns"]] == ["pro", "con"]
    assert [turn["thinking"] for turn in example["turns"]] == ["two secret words"] * 2
    assert 0 < example["prob_with"] < 1
    assert example["label"] in (0, 1)
