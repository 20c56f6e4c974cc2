"""Penalties, edits, masks and embeddings: equal to their definitions, compiled without a spill."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.gpu import embedding
from qoq.kernels.gpu.embedding import embed_triton
from qoq.kernels.gpu.sampling import logit_edits, token_counts
from qoq.kernels.gpu.sampling.logit_edits import LogitEdits, edit_logits_triton, mask_logits_triton
from qoq.kernels.gpu.sampling.token_counts import Penalties, count_sampled_triton, penalize_triton

from ..interpreted import assert_equal_under_the_interpreter
from ..sass import assemble, compile_ahead

EDIT_TYPES = {
    "start_ptr": "*i32",
    "token_ptr": "*i32",
    "value_ptr": "*fp32",
    "follow_ptr": "*i32",
    "slot_ptr": "*i64",
    "last_ptr": "*i64",
    "num_edits": "i32",
    "num_slots": "i32",
}
MASK_TYPES = {"mask_ptr": "*i32", "mask_row_ptr": "*i32", "num_masks": "i32"}
PENALTY_TYPES = {
    "repetition_ptr": "*fp32",
    "presence_ptr": "*fp32",
    "frequency_ptr": "*fp32",
    "count_ptr": "*i16",
    "row_ptr": "*i64",
    "num_rows": "i32",
}
COUNT_TYPES = {
    "token_ptr": "*i64",
    "row_ptr": "*i64",
    "count_ptr": "*i16",
    "num_tokens": "i32",
    "num_rows": "i32",
    "V": "i32",
}
EMBED_TYPES = {
    "table_ptr": "*fp16",
    "token_ptr": "*i64",
    "slot_ptr": "*i64",
    "last_ptr": "*i64",
    "out_ptr": "*fp16",
    "V": "i32",
    "num_slots": "i32",
    "stride_table": "i32",
}
LOGIT_TYPES = {"logit_ptr": "*fp32", "V": "i32", "stride_logits": "i32"}
KERNELS: dict[str, tuple[Any, dict[str, str], dict[str, Any], int]] = {
    "edit": (logit_edits._edit_kernel, LOGIT_TYPES | EDIT_TYPES, {"EDITS": 128}, 4),
    "mask": (logit_edits._mask_kernel, LOGIT_TYPES | MASK_TYPES, {"WORDS": 256}, 16),
    "penalize": (
        token_counts._penalize_kernel,
        LOGIT_TYPES | PENALTY_TYPES,
        {"BLOCK": 2048},
        4,
    ),
    "count": (token_counts._count_kernel, COUNT_TYPES, {"ROWS": 64}, 2),
    "embed": (embedding._embed_kernel, EMBED_TYPES, {"K": 4096, "BLOCK": 1024}, 4),
}


def test_equal_their_definitions_under_the_interpreter() -> None:
    assert_equal_under_the_interpreter("sampling/logit_interpreted.py")


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles_without_a_spill(name: str, arch: int) -> None:
    kernel, types, constants, warps = KERNELS[name]
    aligned = [arg for arg, kind in types.items() if kind[0] == "*" or arg.startswith("stride")]
    compiled = compile_ahead(kernel, arch, types, constants, aligned, num_warps=warps)
    assert "0 bytes spill stores" in assemble(compiled.asm["ptx"], arch)


def refused(message: str, call: Any, *args: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call(*args)


def test_edits_refuse_what_does_not_match() -> None:
    logits, slots = torch.zeros(2, 40), torch.zeros(2, dtype=torch.int64)
    ids = torch.zeros(3, dtype=torch.int32)
    edits = LogitEdits(ids, ids, torch.zeros(3), ids)
    short, floats = ids[1:], torch.zeros(3)
    for message, changed in {
        "starts: expected": edits._replace(starts=short),
        "edits.values: expected": edits._replace(values=ids),
        "edits.values: expected contiguous torch.float32 .2": edits._replace(token_ids=short),
        "edits.follows: expected": edits._replace(follows=floats),
    }.items():
        refused(message, edit_logits_triton, logits, changed, slots, slots)
    refused("logits: expected", edit_logits_triton, logits.t(), edits, slots, slots)
    refused("slots: expected", edit_logits_triton, logits, edits, slots[1:], slots)
    refused("last_tokens: expected", edit_logits_triton, logits, edits, slots, ids)


def test_masks_refuse_what_does_not_match() -> None:
    logits = torch.zeros(2, 40)
    masks, mask_rows = torch.zeros(1, 2, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    refused("logits: expected", mask_logits_triton, logits.t(), masks, mask_rows)
    refused("masks: expected", mask_logits_triton, logits, masks[:, :1], mask_rows)
    refused("mask_rows: expected", mask_logits_triton, logits, masks, mask_rows.long())


def test_penalties_refuse_what_does_not_match() -> None:
    logits, rows = torch.zeros(2, 40), torch.zeros(2, dtype=torch.int64)
    penalties = Penalties(*torch.ones(3, 2))
    counts = torch.zeros(5, 40, dtype=torch.int16)
    refused("logits: expected", penalize_triton, logits.t(), penalties, counts, rows)
    refused("rows: expected", penalize_triton, logits, penalties, counts, rows.int())
    refused("counts: expected", penalize_triton, logits, penalties, counts[:, :39], rows)
    narrow = counts[:, :39].contiguous()
    refused("counts: expected .N, 40", penalize_triton, logits, penalties, narrow, rows)
    refused("counts: expected", penalize_triton, logits, penalties, counts.int(), rows)
    short = penalties._replace(presence=torch.ones(1))
    refused("penalties.presence: expected", penalize_triton, logits, short, counts, rows)
    refused("tokens: expected", count_sampled_triton, rows.int(), rows, counts)
    refused("rows: expected", count_sampled_triton, rows, rows[1:], counts)
    refused("counts: expected", count_sampled_triton, rows, rows, counts.int())


def test_embedding_refuses_what_does_not_match() -> None:
    table, ids = torch.zeros(5, 8), torch.zeros(2, dtype=torch.int64)
    refused("table: expected", embed_triton, table.t(), ids, ids, ids, torch.float16)
    refused("slots: expected", embed_triton, table, ids, ids[1:], ids, torch.float16)
    refused("token_ids: expected", embed_triton, table, ids.int(), ids, ids, torch.float16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_equal_their_definitions_on_a_gpu() -> None:
    from .logit_cases import check_all

    check_all("cuda", (7, 8500, 128256))
