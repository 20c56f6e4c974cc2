"""Requests of every kind, of which some leave, through the CPU engine; the GPU's is in gpu/."""

import json
from pathlib import Path

import pytest

from qoq.engine.config import EngineConfig
from qoq.engine.llm import LLM
from qoq.scheduler import scheduler
from qoq.server.dummy_model import dummy_model

from .soak import Soak, SoakLoad

SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "rms_norm_eps": 1e-5,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 300,
    "eos_token_id": 290,
    "max_position_embeddings": 512,
}
LOAD = SoakLoad(num_requests=200, num_together=40, median_prompt=40, max_prompt=300, max_tokens=64)
BLOCK_BYTES = 64 * 72  # keys and values of 64 tokens: 32 bytes of codes and 4 of scales each


def test_nothing_is_left_of_many_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """12 blocks, of which a request takes one to six: some are preempted."""
    monkeypatch.setattr(scheduler, "_RESERVED_STEPS", 0)
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    with dummy_model(tmp_path, None) as folder:
        config = EngineConfig(
            model=folder,
            device="cpu",
            load_format="dummy",
            num_threads=1,
            kv_cache_bytes=12 * BLOCK_BYTES,
            max_num_seqs=32,
            max_num_batched_tokens=256,
        )
        llm = LLM(config)
        soak = Soak(llm, LOAD)
        soak.run()
        llm.close()
    assert soak.ends.total() == LOAD.num_requests
    assert min(soak.ends.values()) > LOAD.num_requests // 50, "each way to end occurs"
    stats = llm.engine.stats()
    assert stats.num_preemptions > 0 and stats.prefix_cache_hits > 0
