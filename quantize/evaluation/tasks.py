"""Tasks by name, made from the command line's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qoq.quantize.evaluation.data import DataError, find_file, read_text, read_wikitext2
from qoq.quantize.evaluation.last_word import LastWord
from qoq.quantize.evaluation.multiple_choice import MultipleChoice
from qoq.quantize.evaluation.refusals import Refusals
from qoq.quantize.evaluation.robustness import Robustness
from qoq.quantize.evaluation.task import Task
from qoq.quantize.evaluation.text_task import TextTask, Windows

# Four texts by two models: all of WikiText-2 would take hours on a CPU.
ROBUSTNESS_WINDOWS = 8


@dataclass(frozen=True, slots=True)
class TaskMaker:
    """``data`` is the folder of the tasks' files; ``text`` the file of ``--text``."""

    data: Path
    text: Path | None
    window: int
    num_windows: int | None
    limit: int | None
    seed: int

    def make(self, names: Sequence[str]) -> list[Task]:
        """Raises DataError for data that is missing, before anything is loaded."""
        return [self._make(name) for name in names]

    def _make(self, name: str) -> Task:
        match name:
            case "wikitext2":
                return TextTask(name, read_wikitext2(self.data), self._windows())
            case "text":
                return TextTask(name, self._text(), self._windows())
            case "lambada":
                return LastWord.read(name, find_file(self.data, name), self.limit)
            case "robustness":
                text = read_wikitext2(self.data) if self.text is None else self._text()
                return Robustness(text, self._windows(ROBUSTNESS_WINDOWS), self.seed)
            case "refusals":
                return Refusals()
        return MultipleChoice.read(name, find_file(self.data, name), self.limit)

    def _windows(self, count: int | None = None) -> Windows:
        return Windows(self.window, self.num_windows or count)

    def _text(self) -> str:
        if self.text is None:
            raise DataError("task text needs a text; name its file by --text")
        return read_text(self.text)
