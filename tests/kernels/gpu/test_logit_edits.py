"""Penalties, edits, masks and embeddings: equal to their definitions, compiled without a spill."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.gpu import embedding, logit_edits, token_counts
from qoq.kernels.gpu.embedding import embed_triton
from qoq.kernels.gpu.logit_edits import LogitEdits, edit_logits_triton, mask_logits_triton
from qoq.kernels.gpu.token_counts import Penalties, keep_tokens_triton, penalize_triton

from .interpreted import assert_equal_under_the_interpreter
from .sass import assemble, compile_ahead

EDIT_TYPES = {"start_ptr": "*i32", "token_ptr": "*i32", "value_ptr": "*fp32", "num_edits": "i32"}
MASK_TYPES = {"mask_ptr": "*i32", "mask_row_ptr": "*i32", "num_masks": "i32"}
PENALTY_TYPES = {
    "repetition_ptr": "*fp32",
    "presence_ptr": "*fp32",
    "frequency_ptr": "*fp32",
    "count_ptr": "*i16",
    "slot_ptr": "*i64",
    "num_slots": "i32",
}
KEEP_TYPES = {
    "token_ptr": "*i64",
    "slot_ptr": "*i64",
    "last_ptr": "*i64",
    "count_ptr": "*i16",
    "num_rows": "i32",
    "num_slots": "i32",
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
    "mask": (logit_edits._mask_kernel, LOGIT_TYPES | MASK_TYPES, {"BLOCK": 4096}, 8),
    "penalize": (
        token_counts._penalize_kernel,
        LOGIT_TYPES | PENALTY_TYPES,
        {"BLOCK": 2048},
        4,
    ),
    "keep": (token_counts._keep_kernel, KEEP_TYPES, {"COUNTS": True, "ROWS": 64}, 2),
    "embed": (embedding._embed_kernel, EMBED_TYPES, {"K": 4096, "BLOCK": 1024}, 4),
}


def test_equal_their_definitions_under_the_interpreter() -> None:
    assert_equal_under_the_interpreter("logit_interpreted.py")


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
    logits = torch.zeros(2, 40)
    ids = torch.zeros(3, dtype=torch.int32)
    edits = LogitEdits(ids, ids, torch.zeros(3))
    refused("logits: expected", edit_logits_triton, logits.t(), edits)
    refused("starts: expected", edit_logits_triton, logits, edits._replace(starts=ids[1:]))
    refused("edits.values: expected", edit_logits_triton, logits, edits._replace(values=ids))
    refused("edits.values: expected", edit_logits_triton, logits, edits._replace(token_ids=ids[1:]))


def test_masks_refuse_what_does_not_match() -> None:
    logits = torch.zeros(2, 40)
    masks, mask_rows = torch.zeros(1, 2, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    refused("logits: expected", mask_logits_triton, logits.t(), masks, mask_rows)
    refused("masks: expected", mask_logits_triton, logits, masks[:, :1], mask_rows)
    refused("mask_rows: expected", mask_logits_triton, logits, masks, mask_rows.long())


def test_penalties_refuse_what_does_not_match() -> None:
    logits, slots = torch.zeros(2, 40), torch.zeros(2, dtype=torch.int64)
    penalties = Penalties(*torch.ones(3, 2))
    counts = torch.zeros(5, 40, dtype=torch.int16)
    refused("logits: expected", penalize_triton, logits.t(), penalties, counts, slots)
    refused("slots: expected", penalize_triton, logits, penalties, counts, slots.int())
    refused("counts: expected", penalize_triton, logits, penalties, counts[:, :39], slots)
    refused("counts: expected", penalize_triton, logits, penalties, counts.int(), slots)
    short = penalties._replace(presence=torch.ones(1))
    refused("penalties.presence: expected", penalize_triton, logits, short, counts, slots)
    last_tokens = torch.zeros(4, dtype=torch.int64)
    refused("counts: expected 4 slots", keep_tokens_triton, slots, slots, last_tokens, counts)
    refused("tokens: expected", keep_tokens_triton, slots.int(), slots, last_tokens)


def test_embedding_refuses_what_does_not_match() -> None:
    table, ids = torch.zeros(5, 8), torch.zeros(2, dtype=torch.int64)
    refused("table: expected", embed_triton, table.t(), ids, ids, ids, torch.float16)
    refused("slots: expected", embed_triton, table, ids, ids[1:], ids, torch.float16)
    refused("token_ids: expected", embed_triton, table, ids.int(), ids, ids, torch.float16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_equal_their_definitions_on_a_gpu() -> None:
    from .logit_cases import check_all

    check_all("cuda", (7, 4500, 128256))
