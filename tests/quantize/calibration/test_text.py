"""Text that the user gives to calibrate on, and every way in which it will not do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from qoq.quantize.calibration.text import CalibrationText
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.recipe import CalibrationSpec

from ..evaluation.tiny_chat import write_byte_tokenizer

SPEC = CalibrationSpec(num_samples=3, length=8)
# Sixty-four bytes, each once: a window tells where it comes from.
TEXT = bytes(range(60, 124)).decode()


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    write_byte_tokenizer(tmp_path)
    return tmp_path


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_windows_are_pieces_of_the_text_none_twice(tokenizer: Path):
    text = CalibrationText.read(written(tokenizer / "x.txt", TEXT))
    windows = text.windows(tokenizer, CalibrationSpec(num_samples=8, length=8))
    assert windows.origin == "from x.txt"
    rows = [bytes(row).decode() for row in windows.ids.tolist()]
    assert sorted(rows) == [TEXT[i : i + 8] for i in range(0, 64, 8)]


def test_the_seed_chooses_the_windows_and_the_digest_tells(tokenizer: Path):
    text = CalibrationText.read(written(tokenizer / "x.txt", TEXT))
    specs = [CalibrationSpec(num_samples=3, length=8, seed=seed) for seed in (0, 0, 1)]
    digests = [text.windows(tokenizer, spec).sha256 for spec in specs]
    assert digests[0] == digests[1] != digests[2]


def test_a_jsonl_file_gives_its_texts_in_order(tmp_path: Path):
    lines = [json.dumps({"text": text, "id": 1}) for text in ("one", "two ünd", "three")]
    name = written(tmp_path / "x.jsonl", "\n".join([*lines, ""]))
    assert CalibrationText.read(name).text == "one\n\ntwo ünd\n\nthree"


@pytest.mark.parametrize("line", ['{"txt": "x"}', '{"text": 3}', "[1]", "text", "{"])
def test_a_line_without_text_is_named(tmp_path: Path, line: str):
    name = written(tmp_path / "x.jsonl", f'{{"text": "fine"}}\n\n{line}\n')
    with pytest.raises(ModelSourceError, match=r'x\.jsonl, line 3 is not .* string as "text"'):
        CalibrationText.read(name)


@pytest.mark.parametrize("content", ["", " \n\n\t"])
@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str, suffix: str):
    with pytest.raises(ModelSourceError, match=f"x.{suffix} holds no text"):
        CalibrationText.read(written(tmp_path / f"x.{suffix}", content))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelSourceError, match=r"x\.txt is not UTF-8"):
        CalibrationText.read(str(tmp_path / "x.txt"))


def test_a_short_text_is_refused_with_the_arithmetic(tokenizer: Path):
    text = CalibrationText.read(written(tokenizer / "x.txt", TEXT[:23]))
    with pytest.raises(ModelSourceError, match=r"23 tokens, and 3 samples of 8 take 24; give more"):
        text.windows(tokenizer, SPEC)


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path):
    text = CalibrationText.read(written(tmp_path / "x.txt", TEXT))
    with pytest.raises(ModelSourceError, match="the model has no tokenizer"):
        text.windows(tmp_path, SPEC)


@pytest.mark.parametrize("name", ["gone.txt", "/no/such/file", "folder/"])
def test_what_is_neither_file_nor_dataset_is_refused(name: str):
    with pytest.raises(ModelSourceError, match="is neither a file nor a dataset"):
        CalibrationText.read(name)


def test_a_dataset_without_the_package_names_the_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModelSourceError, match="someone/words needs .*pip install datasets"):
        CalibrationText.read("someone/words")


def test_a_dataset_gives_its_first_documents(monkeypatch: pytest.MonkeyPatch):
    def load_dataset(name: str, **options: object) -> list[dict[str, str]]:
        assert (name, options) == ("someone/words", {"split": "train", "streaming": True})
        return [{"text": str(number)} for number in range(5000)]

    fake = SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    documents = CalibrationText.read("someone/words").text.split("\n\n")
    assert documents == [str(number) for number in range(4096)]


def test_a_dataset_without_text_is_refused(monkeypatch: pytest.MonkeyPatch):
    fake = SimpleNamespace(load_dataset=lambda *_, **__: [{"question": "x"}])
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(ModelSourceError, match='someone/words has no column "text"'):
        CalibrationText.read("someone/words")
