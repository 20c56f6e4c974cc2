"""Penalties, edits, masks and embeddings on a device against their definitions on the CPU."""

from __future__ import annotations

import ctypes

import torch

from qoq.engine.grammar_mask import mask_by_grammar
from qoq.engine.logit_rules import apply_rules
from qoq.kernels.gpu.embedding import embed_triton
from qoq.kernels.gpu.sampling.logit_edits import LogitEdits, edit_logits_triton, mask_logits_triton
from qoq.kernels.gpu.sampling.token_counts import (
    Penalties,
    count_sampled_triton,
    count_tokens,
    penalize_triton,
)
from qoq.scheduler.request import SamplingParams


class Allows:
    """A matcher that allows the same tokens always."""

    def __init__(self, token_ids: list[int], vocab_size: int) -> None:
        bits = torch.zeros(-(-vocab_size // 32) * 32, dtype=torch.int64)
        bits[token_ids] = 1
        self.words = (bits.view(-1, 32) << torch.arange(32)).sum(1).to(torch.int32)

    def write_mask(self, address: int, num_bytes: int) -> None:
        ctypes.memmove(address, self.words.data_ptr(), num_bytes)


def penalized(
    logits: torch.Tensor, prompt: list[int], output: list[int], penalties: list[float]
) -> torch.Tensor:
    """Fp32 ``[V]``, token by token."""
    repetition, presence, frequency = torch.tensor(penalties)
    logits = logits.clone()
    for token in {*prompt, *output}:
        x = logits[token]
        logits[token] = x / repetition if x > 0 else x * repetition
    for token in set(output):
        logits[token] -= presence + frequency * output.count(token)
    return logits


def check_penalties(device: str, vocab_size: int) -> None:
    """Tokens are counted once at the start and then as they come."""
    prompts, outputs = [[1, 1, 4, 5], [2], [vocab_size - 1]], [[3, 3, 4], [], [0] * 5]
    rows = [2, 0, 3]
    settings = [[1.5, 0.25, -0.5], [0.7, 1.0, 2.0], [1.0, 0.0, 0.0]]
    counts = torch.full((4, vocab_size), 77, dtype=torch.int16, device=device)
    for row, prompt, output in zip(rows, prompts, outputs, strict=True):
        tokens = (torch.tensor(ids, dtype=torch.int64, device=device) for ids in (prompt, output))
        count_tokens(counts[row], *tokens)
    places = torch.tensor([*rows, -1], device=device)
    chosen = [[3, 2, 6], [1, 2, 6], [3, 0, 0]]
    for tokens in chosen:
        count_sampled_triton(torch.tensor([*tokens, 5], device=device), places, counts)
    assert (counts[1] == 77).all()
    logits = torch.randn(4, vocab_size)
    expected = logits.clone()
    for row, (prompt, output, setting) in enumerate(zip(prompts, outputs, settings, strict=True)):
        output = output + [tokens[row] for tokens in chosen]
        expected[row] = penalized(logits[row], prompt, output, setting)
    got = logits.to(device)
    columns = torch.tensor([*settings, settings[0]], device=device).t().contiguous()
    penalize_triton(got, Penalties(*columns), counts, places)
    assert torch.equal(got.cpu(), expected)


def check_full_count(device: str) -> None:
    """A count stays at its largest, and beside the prompt's bit."""
    counts = torch.zeros(1, 4, dtype=torch.int16, device=device)
    output = torch.full((40000,), 2, device=device)
    count_tokens(counts[0], torch.tensor([2], device=device), output)
    row = torch.tensor([0], device=device)
    for token in (2, 3, -1, 4):
        count_sampled_triton(torch.tensor([token], device=device), row, counts)
    assert counts.tolist() == [[0, 0, -1, 1]]


def check_edits(device: str, vocab_size: int) -> None:
    """Biases as the engine adds them, bans as biases of -inf; ids out of range do nothing.

    Bans behind a token: the first row has it, the second has another, the third's slot none.
    """
    biases = [((3, 1.5), (0, -2.0)), (), tuple((token, token / 4) for token in range(vocab_size))]
    logits = torch.randn(3, vocab_size)
    expected = logits.clone()
    starts, token_ids, values = [0], [], []
    for row, bias in enumerate(biases):
        apply_rules(
            expected[row],
            SamplingParams(
                max_tokens=1, logit_bias=bias, min_tokens=1, stop_token_ids=(1,) * (row == 1)
            ),
            [],
        )
        edits = [*bias] or [(1, -torch.inf), (-2, 1.0), (vocab_size, 1.0)]
        token_ids += [token for token, _ in edits]
        values += [value for _, value in edits]
        starts.append(len(token_ids))
    got = logits.to(device)
    slots, last_tokens = torch.tensor([1, 0, 2], device=device), torch.tensor([5, 6], device=device)
    edit_logits_triton(
        got,
        LogitEdits(
            torch.tensor([*starts, 9999], dtype=torch.int32, device=device),
            torch.tensor(token_ids, dtype=torch.int32, device=device),
            torch.tensor(values, device=device),
            torch.full((len(values),), -1, dtype=torch.int32, device=device),
        ),
        slots,
        last_tokens,
    )
    assert torch.equal(got.cpu(), expected)
    starts, ids, follows = torch.tensor(
        [[0, 4, 6, 7, 0, 0, 0], [0, 1, 1, 3, 1, 2, 0], [6, 5, -1, 6, 6, 5, 5]],
        dtype=torch.int32,
        device=device,
    )
    bans = torch.full((7,), -torch.inf, device=device)
    edit_logits_triton(got, LogitEdits(starts, ids, bans, follows), slots, last_tokens)
    expected[0, [0, 1, 3]] = expected[1, 2] = -torch.inf
    assert torch.equal(got.cpu(), expected)


def check_masks(device: str, vocab_size: int) -> None:
    """The third row has nothing finite that is allowed, the last one names no mask that exists."""
    allowed = [[0, 5, vocab_size - 1], list(range(0, vocab_size, 3)), [2, 4]]
    matchers = [Allows(ids, vocab_size) for ids in allowed]
    order = [1, None, 2, 0, None]
    logits = torch.randn(5, vocab_size)
    logits[2, [2, 4]] = -torch.inf
    expected = logits.clone()
    mask_by_grammar(expected, [None if place is None else matchers[place] for place in order])
    got = logits.to(device)
    mask_rows = [*(-1 if place is None else place for place in order[:-1]), 3]
    mask_logits_triton(
        got,
        torch.stack([matcher.words for matcher in matchers]).to(device),
        torch.tensor(mask_rows, dtype=torch.int32, device=device),
    )
    assert torch.equal(got.cpu(), expected)


def check_embedding(device: str, k: int, dtype: torch.dtype) -> None:
    table = torch.randn(10, k).to(dtype).to(device)
    last_tokens = torch.tensor([7, 10, -2, 1], device=device)[:3]
    ids, slots = torch.tensor([[3, -1, 9, -1, -1, 10, -1], [1, 0, 5, 1, 2, 0, 3]], device=device)
    rows = embed_triton(table, ids, slots, last_tokens, torch.float32)
    assert torch.equal(rows[:3], table[[3, 7, 9]].float())
    assert not rows[3:].any()
    assert embed_triton(table, ids[:0], slots[:0], last_tokens, dtype).shape == (0, k)


def check_all(device: str, vocab_sizes: tuple[int, ...]) -> None:
    for vocab_size in vocab_sizes:
        check_penalties(device, vocab_size)
        check_edits(device, vocab_size)
        check_masks(device, vocab_size)
    check_full_count(device)
    for k in (48, 1500):
        check_embedding(device, k, torch.float16)
