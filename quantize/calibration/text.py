"""Calibration text that the user gives: a file, or a dataset of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

import torch
from tokenizers import Tokenizer

from qoq.quantize.calibration.token_windows import TokenWindows
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.recipe import CalibrationSpec
from qoq.quantize.sources.hub import is_hub_id

MAX_DOCUMENTS = 4096  # the first ones of a dataset


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """``name`` is as the user gave it."""

    name: str
    text: str

    @classmethod
    def read(cls, name: str) -> Self:
        """A plain text file, the field "text" of each line of a ``.jsonl`` file, or the first
        documents of a dataset's split ``train``; an empty line parts documents.

        Raises ModelSourceError for text that is missing, malformed or empty.
        """
        text = "\n\n".join(_documents(name))
        if not text.strip():
            raise ModelSourceError(f"--calib {name} holds no text; give text that the model knows")
        return cls(name, text)

    def windows(self, folder: Path, spec: CalibrationSpec) -> TokenWindows:
        """``spec.num_samples`` windows, chosen by ``spec.seed``, none twice, by the tokenizer in
        ``folder``. Raises ModelSourceError where there is none or the text is too short.
        """
        ids = torch.tensor(self._encode(folder))
        num_windows = len(ids) // spec.length
        if num_windows < spec.num_samples:
            raise ModelSourceError(
                f"--calib {self.name} is too short: it has {len(ids)} tokens, and "
                f"{spec.num_samples} samples of {spec.length} take "
                f"{spec.num_samples * spec.length}; give more text or "
                "--set calibration.num_samples=N"
            )
        windows = ids[: num_windows * spec.length].view(num_windows, spec.length)
        order = torch.randperm(num_windows, generator=torch.Generator().manual_seed(spec.seed))
        return TokenWindows(windows[order[: spec.num_samples]], f"from {Path(self.name).name}")

    def _encode(self, folder: Path) -> list[int]:
        path = folder / "tokenizer.json"
        if not path.exists():
            raise ModelSourceError(f"--calib {self.name}: the model has no tokenizer")
        ids: list[int] = Tokenizer.from_file(str(path)).encode(self.text).ids
        return ids


def _documents(name: str) -> Iterator[str]:
    path = Path(name).expanduser()
    if path.is_file():
        return _read_jsonl(path) if path.suffix == ".jsonl" else iter([_read_plain(path)])
    if is_hub_id(name):
        return islice(_read_dataset(name), MAX_DOCUMENTS)
    raise ModelSourceError(f"--calib {name} is neither a file nor a dataset of the hub")


def _read_plain(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelSourceError(f"--calib {path} is not UTF-8 text ({error.reason})") from None


def _read_jsonl(path: Path) -> Iterator[str]:
    for number, line in enumerate(_read_plain(path).splitlines(), start=1):
        if line.strip():
            yield _text_field(line, f"--calib {path}, line {number}")


def _text_field(line: str, where: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        text = None
    if not isinstance(text, str):
        raise ModelSourceError(f'{where} is not a JSON object with a string as "text"')
    return text


def _read_dataset(name: str) -> Iterator[str]:
    try:
        import datasets
    except ImportError:
        raise ModelSourceError(
            f"--calib {name} needs the package datasets (pip install datasets), or give a file"
        ) from None
    for row in datasets.load_dataset(name, split="train", streaming=True):
        if not isinstance(row.get("text"), str):
            raise ModelSourceError(f'--calib {name} has no column "text"; give a .jsonl file')
        yield row["text"]
