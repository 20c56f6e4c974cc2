"""10,000 requests of every kind, of which some leave, on a GPU. With output:
``pytest -s -m "gpu and slow" tests/engine/gpu/test_soak.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qoq.engine.config import EngineConfig
from qoq.engine.dummy_checkpoint import read_shape, shape_folder
from qoq.engine.llm import LLM
from qoq.scheduler import scheduler
from qoq.server.dummy_model import dummy_model

from ..soak import Soak, SoakLoad

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("returns_memory"),
]

LOAD = SoakLoad(
    num_requests=10_000, num_together=400, median_prompt=100, max_prompt=2000, max_tokens=64
)
# Of Llama-3-8B: all its kernels and sizes, a quarter of the time.
NUM_LAYERS = 8
# Python's own heap settles within the first phase.
MOST_RESIDENT_GROWTH = 64 * 2**20


def test_nothing_is_left_of_ten_thousand_requests(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """The KV cache holds some 30,000 tokens, fewer than the requests at a time want."""
    monkeypatch.setattr(scheduler, "_RESERVED_STEPS", 0)
    shape = read_shape(Path("llama-3-8b")) | {"num_hidden_layers": NUM_LAYERS}
    with shape_folder("llama-3-8b", shape, 8192) as source, dummy_model(source, None) as folder:
        config = EngineConfig(
            model=folder,
            device="cuda",
            load_format="dummy",
            kv_cache_bytes=2**28,
            host_kv_cache_bytes=2**28,
        )
        llm = LLM(config)
        soak = Soak(llm, LOAD)
        soak.run()
        llm.close()
    with capsys.disabled():
        print(f"\n{soak.table()}")
    assert soak.ends.total() == LOAD.num_requests
    stats = llm.engine.stats()
    assert stats.num_preemptions and stats.prefix_cache_hits
    assert stats.num_blocks_swapped_out and stats.num_blocks_swapped_in
    first, *later = soak.held
    assert max(held.on_device for held in later) < first.on_device + 2**20
    assert later[-1].resident < first.resident + MOST_RESIDENT_GROWTH
