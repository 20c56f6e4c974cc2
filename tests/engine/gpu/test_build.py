"""What a GPU engine is refused for, before anything is put on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qoq.engine.build import build_engine
from qoq.engine.config import EngineConfig
from qoq.engine.memory import OutOfMemoryError

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.engine.gpu import build

CPU = torch.device("cpu")


class FakeGemm:
    """Of no GPU."""

    def __init__(self, device: torch.device) -> None:
        self.arch = 80


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The CPU as the GPU: enough to load weights."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Fake")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: 78 * 2**30)
    monkeypatch.setattr(torch, "device", lambda *args: CPU)
    monkeypatch.setattr(build, "W4A8Gemm", FakeGemm)
    return monkeypatch


def test_no_gpu_is_named_with_the_way_out(tiny_quantized: Path):
    with pytest.raises(ValueError, match="--device cuda: torch finds no CUDA .* use --device cpu"):
        build_engine(EngineConfig(model=tiny_quantized, device="cuda"))


def test_an_old_gpu_is_refused_by_its_number(fake_gpu: pytest.MonkeyPatch, tiny_quantized: Path):
    fake_gpu.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ValueError) as error:
        build_engine(EngineConfig(model=tiny_quantized))
    assert str(error.value) == (
        "Fake has compute capability 7.5; kernels need 8.0 (A100, L40S, H100 and later), so use "
        "--device cpu"
    )


@pytest.mark.parametrize("precision", ["w4a16", "w4a4"])
def test_a_precision_of_the_cpu_is_refused(
    fake_gpu: pytest.MonkeyPatch, tiny_quantized: Path, precision: str
):
    with pytest.raises(ValueError, match=f"--precision {precision} runs on the CPU only; use w4a"):
        build_engine(EngineConfig(model=tiny_quantized, precision=precision))


def test_a_dense_checkpoint_is_refused(fake_gpu: pytest.MonkeyPatch, tiny_dense: Path):
    with pytest.raises(
        ValueError, match="--precision fp32 runs on the CPU only; use w4a8kv4 or w8"
    ):
        build_engine(EngineConfig(model=tiny_dense))


def test_a_context_beyond_the_model_s_limit_is_refused_before_weights_are_loaded(
    fake_gpu: pytest.MonkeyPatch, tiny_quantized: Path
):
    def load(*args: object) -> None:
        pytest.fail("loaded")

    fake_gpu.setattr("qoq.engine.gpu.build.GpuLoader.load", load)
    with pytest.raises(ValueError) as error:
        build_engine(EngineConfig(model=tiny_quantized, max_model_len=10**6))
    assert str(error.value) == (
        "--max-model-len 1000000 exceeds the model's own limit of 512 tokens"
    )


def runs_out(*args: object, **kwargs: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n2.00 GiB.")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("GpuLoader.load", "weights: .* 78.00 GiB already .* use a smaller model"),
        (
            "_plan_memory",
            "a step of 64 tokens and 8 requests: .* lower --max-num-batched-tokens",
        ),
        ("_make_runner", "KV cache and CUDA graphs of up to 8 requests: .* lower --kv-cache-bytes"),
    ],
)
def test_what_does_not_fit_is_named_with_the_flag_to_change(
    fake_gpu: pytest.MonkeyPatch, tiny_quantized: Path, place: str, expected: str
):
    class Decoder:
        pass

    fake_gpu.setattr("qoq.engine.gpu.build.GpuLoader.load", lambda *args: Decoder())
    fake_gpu.setattr(build, "_plan_memory", lambda *args: None)
    fake_gpu.setattr(f"qoq.engine.gpu.build.{place}", runs_out)
    with pytest.raises(OutOfMemoryError, match=f"not enough memory for (the )?{expected}") as error:
        build_engine(EngineConfig(model=tiny_quantized, max_num_seqs=8, max_num_batched_tokens=64))
    assert "\n" not in str(error.value)
