"""On a GPU: tokens do not depend on company, chunks, graphs, prefix hits or preemptions.

The workload is test_determinism's, on random weights of a small model with heads of 128.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from qoq.engine.llm import LLM

from ..test_determinism import Workload, check_batch, check_preemptions, check_prefix_hits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

VOCAB = 4096
CONFIG = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": VOCAB,
    "max_position_embeddings": 4096,
    "rope_theta": 500000.0,
}
MODELS = {
    "per group": {"architectures": ["LlamaForCausalLM"], "torch_dtype": "float16"},
    "per channel, biases": {"architectures": ["Qwen2ForCausalLM"], "torch_dtype": "bfloat16"},
}
LOAD_FORMATS = {"per group": "dummy", "per channel, biases": "dummy-per-channel"}


@dataclass
class GpuWorkload(Workload):
    load_format: str = "dummy"

    @contextmanager
    def llm(self, **settings: object) -> Iterator[LLM]:
        """The next one needs the memory."""
        defaults = {"kv_cache_bytes": 2**26, "max_num_seqs": 64}
        with super().llm(
            device="cuda", load_format=self.load_format, **(defaults | settings)
        ) as llm:
            yield llm
        del llm
        gc.collect()
        torch.cuda.empty_cache()


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / request.param
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG | MODELS[request.param]))
    return path


@pytest.fixture(scope="module")
def load(folder: Path) -> GpuWorkload:
    return GpuWorkload(
        folder, VOCAB, max_prompt_len=600, max_tokens=64, load_format=LOAD_FORMATS[folder.name]
    )


@pytest.fixture(scope="module")
def growing(folder: Path) -> GpuWorkload:
    """Short prompts and long outputs: what was admitted soon needs more blocks than there are."""
    return GpuWorkload(
        folder, VOCAB, max_prompt_len=60, max_tokens=90, load_format=LOAD_FORMATS[folder.name]
    )


def test_requests_differ_and_none_ends_early(load: GpuWorkload):
    lengths = [len(token_ids) for token_ids in load.tokens_alone]
    assert lengths == [sampling.max_tokens for sampling in load.requests()[1]]
    assert len({tuple(token_ids[:4]) for token_ids in load.tokens_alone}) > len(lengths) // 2


@pytest.mark.parametrize("steps_in_flight", [1, 2])
@pytest.mark.parametrize("max_num_batched_tokens", [32, 129, 2048])
def test_tokens_alone_are_those_in_a_batch_of_64(
    load: GpuWorkload, max_num_batched_tokens: int, steps_in_flight: int
):
    check_batch(
        load,
        max_num_batched_tokens=max_num_batched_tokens,
        steps_in_flight=steps_in_flight,
    )


def without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    from qoq.engine.gpu import build

    make = build._make_runner
    monkeypatch.setattr(build, "_make_runner", lambda *args: make(*args[:6], uses_graphs=False))


def test_tokens_do_not_depend_on_graphs(load: GpuWorkload, monkeypatch: pytest.MonkeyPatch):
    without_graphs(monkeypatch)
    check_batch(load)


@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_tokens_do_not_depend_on_prefix_hits(load: GpuWorkload, steps_in_flight: int):
    check_prefix_hits(load, steps_in_flight=steps_in_flight)


@pytest.mark.parametrize("host_kv_cache_bytes", [0, 2**24], ids=["computed again", "swapped"])
@pytest.mark.parametrize("caches", [False, True])
@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_tokens_do_not_depend_on_preemptions(
    growing: GpuWorkload, steps_in_flight: int, caches: bool, host_kv_cache_bytes: int
):
    check_preemptions(
        growing,
        num_blocks=10,
        steps_in_flight=steps_in_flight,
        enable_prefix_caching=caches,
        host_kv_cache_bytes=host_kv_cache_bytes,
    )
