from pathlib import Path

import huggingface_hub
import pytest

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.hub import fetch_from_hub, is_hub_id


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", True),
        ("meta-llama/Llama-3.1-8B", True),
        ("./folder/model", False),
        ("/absolute/model", False),
        ("../up/model", False),
        ("../model", False),
        ("model", False),
        ("a/b/c", False),
    ],
)
def test_tells_hub_ids_from_paths(model: str, expected: bool):
    assert is_hub_id(model) is expected


def test_fetches_safetensors_and_never_pickles(monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, object] = {}

    def download(model: str, **options: object) -> str:
        asked.update(options, model=model)
        return "/cache/revision"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert fetch_from_hub("a/b") == Path("/cache/revision")
    assert asked["model"] == "a/b"
    assert not any(
        str(pattern).endswith((".bin", ".pt", "*")) for pattern in asked["allow_patterns"]
    )


def test_offline_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    def download(model: str, **options: object) -> str:
        raise OSError("cannot reach the hub\nwith a second line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelSourceError, match="did not give it .cannot reach the hub.; check"):
        fetch_from_hub("a/b")
