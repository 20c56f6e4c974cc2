"""What surrounds the sampler: ``python -P -m qoq.kernels.bench.logits`` on a GPU.

256 rows of Llama 3's vocabulary, edited in place, and embeddings of 4096 values. ``pytest -m gpu
tests/kernels/gpu/sampling`` compares these kernels with their definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import triton
from torch import Tensor

from qoq.kernels.bench.timing import time_us
from qoq.kernels.gpu.embedding import embed_triton
from qoq.kernels.gpu.sampling.logit_edits import LogitEdits, edit_logits_triton, mask_logits_triton
from qoq.kernels.gpu.sampling.token_counts import Penalties, count_sampled_triton, penalize_triton
from qoq.kernels.gpu.sampling.token_logprobs import token_logprobs_triton

ROWS, VOCAB_SIZE, HIDDEN = 256, 128256, 4096
TOKENS, BIASES = 1000, 20


def main() -> None:
    name = torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, triton {triton.__version__}, {ROWS} rows")
    print(f"{'kernel':28}{'us':>9}")
    for case, call in _cases():
        print(f"{case:28}{_time_us(call):9.1f}", flush=True)


def _time_us(call: Callable[[], object]) -> float:
    return time_us(lambda _: call())


def _cases() -> Iterator[tuple[str, Callable[[], object]]]:
    logits = torch.randn(ROWS, VOCAB_SIZE, device="cuda")
    slots, tokens = torch.arange(ROWS, device="cuda"), _random(VOCAB_SIZE, ROWS)
    last_tokens = torch.zeros(ROWS, dtype=torch.int64, device="cuda")
    counts = torch.zeros(ROWS, VOCAB_SIZE, dtype=torch.int16, device="cuda")
    counts.scatter_(1, _random(VOCAB_SIZE, ROWS, TOKENS), 1)
    off = Penalties(*torch.tensor([[1.0], [0], [0]], device="cuda").expand(3, ROWS).contiguous())
    on = off._replace(repetition=torch.full((ROWS,), 1.1, device="cuda"))
    yield "penalties, all off", lambda: penalize_triton(logits, off, counts, slots)
    yield "penalties, all on", lambda: penalize_triton(logits, on, counts, slots)
    yield "count tokens", lambda: count_sampled_triton(tokens, slots, counts)
    edits = LogitEdits(
        torch.arange(0, (ROWS + 1) * BIASES, BIASES, dtype=torch.int32, device="cuda"),
        _random(VOCAB_SIZE, ROWS * BIASES).int(),
        torch.zeros(ROWS * BIASES, device="cuda"),
        torch.full((ROWS * BIASES,), -1, dtype=torch.int32, device="cuda"),
    )
    yield f"{BIASES} biases a row", lambda: edit_logits_triton(logits, edits, slots, last_tokens)
    masks = _random(1 << 31, ROWS, -(-VOCAB_SIZE // 32)).int()
    rows = torch.arange(ROWS, dtype=torch.int32, device="cuda")
    yield "masks of half, all rows", lambda: mask_logits_triton(logits, masks, rows)
    none = torch.full_like(rows, -1)
    yield "masks, no row", lambda: mask_logits_triton(logits, masks, none)
    for num_rows, num_top in ((1, 5), (16, 20), (ROWS, 0), (ROWS, 5)):
        scored = torch.randn(num_rows, VOCAB_SIZE, device="cuda")
        name = f"logprobs, {num_rows} rows, top {num_top}"
        yield name, partial(token_logprobs_triton, scored, tokens[:num_rows], num_top)
    table = torch.randn(VOCAB_SIZE, HIDDEN, device="cuda").half()
    ids = torch.where(slots % 2 == 0, tokens, -1)
    yield "embeddings", lambda: embed_triton(table, ids, slots, last_tokens, torch.float16)


def _random(stop: int, *shape: int) -> Tensor:
    return torch.randint(0, stop, shape, device="cuda")


if __name__ == "__main__":
    main()
