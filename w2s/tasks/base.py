"""What a task is: rows in four disjoint splits, and how its questions are debated.

A task knows its rows, how a transcript is put into a prompt, and the prompts of its debaters.
Adding a task is adding one file here whose name is its `kind`.
"""

from random import Random

from serving.debate.prompts import DebatePrompts
from w2s.spec import Spec
from w2s.types import TaskData


class Task(Spec):
    """A classification task with ground truth."""

    kind: str
    """Name of the task family: the name of its file."""

    @property
    def num_classes(self) -> int:
        """Number of classes of the label."""
        return 2

    def fingerprint(self) -> str:
        """Digest of data outside this spec (files, revision); empty when the fields say it all."""
        return ""

    def load(self) -> TaskData:
        """Read the rows: the four splits are disjoint by group, ids are stable, `test` is balanced.

        Raises:
            UserError: the data cannot be found, lacks a column, or leaves a split empty.
        """
        raise NotImplementedError

    def debate_prompts(self) -> DebatePrompts:
        """Templates with which debaters argue about a row's prompt."""
        return DebatePrompts()

    def with_transcript(self, prompt: str, transcript: str) -> str:
        """The input of a model that reads a debate: the prompt, then the transcript."""
        return f"{prompt}\n\n{transcript}"

    def mask_transcript(self, transcript: str) -> str:
        """The transcript without its content words: what is left is style.

        Content words become type markers; words that are equal stay recognisably equal (the marker
        is numbered in order of appearance), so a classifier over the masked text sees words,
        positions and equalities only.
        """
        raise NotImplementedError(f"task {self.kind!r} does not say what style is")

    def permute_values(self, transcript: str, rng: Random) -> str:
        """The transcript with its values consistently exchanged: same style, no evidence."""
        raise NotImplementedError(f"task {self.kind!r} has no values to permute")
