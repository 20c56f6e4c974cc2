"""Run by test_interpreted in a process of its own: what the device is told of a step."""

from __future__ import annotations

import pytest
import torch

from qoq.engine.gpu.inputs import FROM_DEVICE, NOWHERE, Prefills, Rows, StepInputs
from qoq.engine.gpu.step import AttentionInputs, GpuStep
from qoq.engine.models.config import parse_model_config
from qoq.kernels.kv_cache import KvFormat

from ...kernels.gpu import interpreter  # noqa: F401
from ..tiny_model import SHAPE

# numpy's, of rows that are padding.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

CONFIG = parse_model_config({"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-6} | SHAPE)
ROPE = torch.rand(512, 3, 8)
EMBEDDING = torch.arange(96).float()[:, None].expand(96, 64).contiguous()


@pytest.fixture
def inputs() -> StepInputs:
    return StepInputs(
        CONFIG,
        KvFormat(2, 16),
        ROPE,
        max_rows=16,
        max_num_seqs=3,
        max_model_len=512,
        num_blocks=8,
    )


def token_ids(inputs: StepInputs, num_rows: int) -> list[int]:
    """As the embedding has them: each row is its token's id."""
    return inputs.step(0, num_rows, None).embed(EMBEDDING, torch.float32)[:, 0].int().tolist()


def attention(step: GpuStep) -> AttentionInputs:
    seen = []
    step.attend(lambda inputs, q, out: seen.append(inputs), None, None)
    return seen[0]


def test_tokens_lie_where_their_requests_tables_say(inputs: StepInputs):
    inputs.extend_tables([(0, 0, 5), (2, 0, 7), (2, 1, 4)])
    rows = Rows()
    rows.add(2, range(127, 128), [9])
    rows.add(0, range(3, 6), [10, 11, 12])
    inputs.set_rows(rows, 4)
    step = inputs.step(1, 4, None)
    assert step.slots.blocks.tolist() == [4, 5, 5, 5]
    assert step.slots.offsets.tolist() == [63, 3, 4, 5]
    assert torch.equal(step.rope, ROPE[[127, 3, 4, 5]])
    assert attention(step).decode_tables[:, :2].tolist() == [[7, 4]]
    assert token_ids(inputs, 4) == [9, 10, 11, 12]


def test_padding_is_written_nowhere(inputs: StepInputs):
    """Whatever rows of an earlier step are there still."""
    inputs.extend_tables([(0, 0, 5)])
    for count in (6, 2):
        rows = Rows()
        rows.add(0, range(count), list(range(count)))
        inputs.set_rows(rows, 8)
    assert inputs.step(0, 8, None).slots.blocks.tolist() == [5, 5] + [NOWHERE] * 6


def test_a_token_that_the_host_lacks_is_the_slot_s_last_one(inputs: StepInputs):
    inputs.keep_tokens(torch.tensor([2, 0]), torch.tensor([60, 61]))
    inputs.keep_tokens(torch.tensor([2]), torch.tensor([62]))
    rows = Rows()
    rows.add(0, range(4, 5), [FROM_DEVICE])
    rows.add(2, range(8, 9), [FROM_DEVICE])
    rows.add(1, range(8, 9), [33])
    inputs.set_rows(rows, 3)
    assert token_ids(inputs, 3) == [61, 62, 33]


def test_a_slot_s_next_request_has_a_table_of_its_own(inputs: StepInputs):
    inputs.extend_tables([(1, 0, 3), (1, 1, 2)])
    inputs.extend_tables([(1, 0, 6)])
    rows = Rows()
    rows.add(1, range(10, 11), [0])
    inputs.set_rows(rows, 1)
    assert inputs.step(1, 1, None).slots.blocks.tolist() == [6]


def test_a_step_without_attention_has_the_tables_of_all_rows_that_may_be_requests(
    inputs: StepInputs,
):
    inputs.extend_tables([(0, 0, 5), (2, 0, 7)])
    rows = Rows()
    rows.add(2, range(6, 7), [1])
    rows.add(0, range(2), [4, 5])
    inputs.set_rows(rows, 8)
    ran = []
    step, tables = inputs.step_without_attention(8, lambda *args: ran.append(args))
    assert len(tables) == inputs.nobody < 8
    assert tables[:3, 0].tolist() == [7, 5, 5]
    assert step.slots.blocks.tolist() == [7, 5, 5] + [NOWHERE] * 5
    step.attend("attend", "q", "out")
    assert ran == [("attend", "q", "out")]


def test_prompts_have_their_own_tables_and_plans(inputs: StepInputs):
    inputs.extend_tables([(0, 0, 5), (2, 0, 7)])
    prefills = Prefills()
    prefills.add(2, 3, 9)
    prefills.add(0, 2, 2)
    rows = Rows()
    rows.add(2, range(6, 9), [1, 2, 3])
    rows.add(0, range(2), [4, 5])
    inputs.set_rows(rows, 8)
    step = inputs.step(0, 8, prefills)
    (part,) = attention(step).prefills
    assert part.tables[:, 0].tolist() == [7, 5]
    assert part.plans[None].num_tokens == 5


def test_prompts_with_long_contexts_attend_in_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qoq.engine.gpu.inputs.MAX_CONTEXTS", 10)
    prefills = Prefills()
    for slot, queries, context in ((2, 3, 9), (0, 2, 2), (1, 1, 30), (3, 4, 4), (4, 6, 6)):
        prefills.add(slot, queries, context)
    parts = [(part.slots, part.query_lens, part.context_lens) for part in prefills.parts()]
    assert parts == [([2], [3], [9]), ([0], [2], [2]), ([1], [1], [30]), ([3, 4], [4, 6], [4, 6])]
