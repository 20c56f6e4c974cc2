"""What stands between a config and a running engine, and what it is refused for."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from qoq.engine.build import build_engine, build_runner
from qoq.engine.checkpoint import CheckpointError
from qoq.engine.config import EngineConfig
from qoq.engine.memory import OutOfMemoryError
from qoq.engine.protocol import EngineInfo
from qoq.kernels import int8_gemm


def info(folder: Path, **settings: object) -> EngineInfo:
    config = EngineConfig(**{"model": folder, "num_threads": 1, "kv_cache_bytes": 2**22} | settings)
    return build_runner(config)[1]


def test_a_checkpoint_keeps_its_own_precision(tiny_dense: Path, tiny_quantized: Path):
    assert info(tiny_quantized).precision == "w4a8kv4"
    assert info(tiny_dense).precision == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "w16a16kv4"])
def test_a_dense_checkpoint_runs_in_any_dense_precision(tiny_dense: Path, precision: str):
    assert info(tiny_dense, precision=precision).precision == precision


def test_the_cache_size_decides_the_number_of_blocks(tiny_quantized: Path):
    """Two layers, keys and values, two heads: 8 bytes of codes and 4 of scale and bias a token."""
    assert info(tiny_quantized, kv_cache_bytes=10 * 64 * 2 * 2 * 2 * 12).num_blocks == 10


@pytest.mark.parametrize("precision", ["w4a16", "w4a4"])
def test_4_bit_weights_run_with_other_activations(tiny_quantized: Path, precision: str):
    assert info(tiny_quantized, precision=precision).precision == precision


@pytest.mark.parametrize("precision", ["fp32", "w8a8kv8", "w16a16kv4"])
def test_another_precision_than_the_quantized_one_is_refused(tiny_quantized: Path, precision: str):
    with pytest.raises(CheckpointError, match=f"holds w4a8kv4 weights, not {precision}; leave out"):
        info(tiny_quantized, precision=precision)


@pytest.mark.parametrize("precision", ["w4a8kv4", "w4a16", "w4a4"])
def test_a_dense_checkpoint_cannot_be_run_quantized(tiny_dense: Path, precision: str):
    """A comparison is no precision to quantize to."""
    with pytest.raises(CheckpointError, match="quantize the original model with --precision w4a8k"):
        info(tiny_dense, precision=precision)


def test_an_unknown_precision_is_refused_with_the_list(tiny_dense: Path):
    with pytest.raises(ValueError, match="'int3' is not one of w4a8kv4, w8a8kv8, fp32, bf16, fp16"):
        info(tiny_dense, precision="int3")


def test_a_cache_larger_than_the_machine_is_refused_with_the_arithmetic(tiny_quantized: Path):
    with pytest.raises(OutOfMemoryError, match=r"KV cache 1048576.00 GiB \+ overhead .* available"):
        info(tiny_quantized, kv_cache_bytes=2**50)


def test_a_context_longer_than_the_model_s_is_refused(tiny_quantized: Path):
    with pytest.raises(
        ValueError, match="--max-model-len 513 exceeds the model's own limit of 512"
    ):
        info(tiny_quantized, max_model_len=513)


def test_an_unsupported_architecture_is_refused_by_the_engine(tiny_dense: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_dense, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["GPT2LMHeadModel"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="'GPT2LMHeadModel' is not supported; supported are Llama"):
        build_engine(EngineConfig(model=folder))


@pytest.mark.parametrize(
    ("entry", "expected"), [(7, (7,)), ([7, 8], (7, 8)), (None, ())], ids=["one", "some", "none"]
)
def test_generation_config_knows_the_end_tokens(
    tiny_dense: Path, tmp_path: Path, entry: object, expected: tuple[int, ...]
):
    """Chat models end a turn with a token that config.json does not name."""
    folder = shutil.copytree(tiny_dense, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": entry}))
    assert info(folder).eos_token_ids == expected


def test_a_cpu_whose_products_saturate_is_refused(
    tiny_quantized: Path, monkeypatch: pytest.MonkeyPatch
):
    exact = int8_gemm.int8_matmul
    monkeypatch.setattr(int8_gemm, "int8_matmul", lambda x, w: exact(x, w).clamp(max=32767))
    with pytest.raises(RuntimeError, match="saturates"):
        info(tiny_quantized)


@pytest.mark.parametrize("name", ["max_num_seqs", "max_num_batched_tokens", "steps_in_flight"])
def test_a_limit_below_one_is_refused_by_name(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        EngineConfig(model=tmp_path, **{name: 0})


def test_the_log_says_where_the_time_of_the_start_went(
    tiny_quantized: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO", "qoq.engine.build"):
        engine, _ = build_engine(EngineConfig(model=tiny_quantized, kv_cache_bytes=2**22))
    engine.close()
    [line] = caplog.messages
    assert re.search(r"context 512; ready in \d+\.\d s: memory \d+\.\d s, weights \d+\.\d s$", line)
