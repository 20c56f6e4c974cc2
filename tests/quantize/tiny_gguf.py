"""Tiny GGUF files for tests, written with the gguf package from Hugging Face tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Quant
from torch import Tensor

TO_GGUF = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INNER, VOCAB, LAYERS = 4, 2, 16, 64, 96, 259, 2


def tiny_state(architecture: str = "llama", *, is_tied: bool = True) -> dict[str, Tensor]:
    """Random tensors under Hugging Face names."""
    generator = torch.Generator().manual_seed(7)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    state = {
        "model.embed_tokens.weight": random(VOCAB, HIDDEN),
        "model.norm.weight": random(HIDDEN),
    }
    if not is_tied:
        state["lm_head.weight"] = random(VOCAB, HIDDEN)
    sizes = {"q": HEADS * HEAD_DIM, "k": KV_HEADS * HEAD_DIM, "v": KV_HEADS * HEAD_DIM}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        for part, size in sizes.items():
            state[f"{name}.self_attn.{part}_proj.weight"] = random(size, HIDDEN)
            if architecture == "qwen2":
                state[f"{name}.self_attn.{part}_proj.bias"] = random(size)
        if architecture == "qwen3":
            state[f"{name}.self_attn.q_norm.weight"] = random(HEAD_DIM)
            state[f"{name}.self_attn.k_norm.weight"] = random(HEAD_DIM)
        state[f"{name}.self_attn.o_proj.weight"] = random(HIDDEN, HEADS * HEAD_DIM)
        state[f"{name}.mlp.gate_proj.weight"] = random(INNER, HIDDEN)
        state[f"{name}.mlp.up_proj.weight"] = random(INNER, HIDDEN)
        state[f"{name}.mlp.down_proj.weight"] = random(HIDDEN, INNER)
        state[f"{name}.input_layernorm.weight"] = random(HIDDEN)
        state[f"{name}.post_attention_layernorm.weight"] = random(HIDDEN)
    return state


def write_tiny_gguf(
    path: Path,
    architecture: str = "llama",
    *,
    state: Mapping[str, Tensor] | None = None,
    quant: Quant = Quant.F32,
    extra: Callable[[gguf.GGUFWriter], object] | None = None,
    tokens: bool = True,
) -> dict[str, Tensor]:
    """Write a model of two layers; returns what it holds, under Hugging Face names.

    2-d tensors are stored as ``quant``. ``extra`` adds metadata or tensors.
    """
    weights = dict(tiny_state(architecture) if state is None else state)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    if tokens:
        add_byte_tokenizer(writer)
    for name, tensor in weights.items():
        add_tensor(writer, gguf_name(name), to_gguf_rows(name, tensor, architecture), quant)
    if extra is not None:
        extra(writer)
    finish(writer)
    return weights


def gguf_name(name: str) -> str:
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem, _, kind = name.rpartition(".")
    if stem in top:
        return f"{top[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{TO_GGUF[part]}.{kind}"


def to_gguf_rows(name: str, tensor: Tensor, architecture: str) -> Tensor:
    """llama.cpp's row order, row by row: in each head the two halves interleave."""
    heads = HEADS if ".q_proj." in name else KV_HEADS if ".k_proj." in name else None
    if architecture != "llama" or heads is None:
        return tensor
    permuted = torch.empty_like(tensor)
    for head in range(heads):
        first = head * HEAD_DIM
        for i in range(HEAD_DIM // 2):
            permuted[first + 2 * i] = tensor[first + i]
            permuted[first + 2 * i + 1] = tensor[first + HEAD_DIM // 2 + i]
    return permuted


def add_tensor(writer: gguf.GGUFWriter, name: str, tensor: Tensor, quant: Quant) -> None:
    if tensor.dim() < 2 or quant == Quant.F32:
        writer.add_tensor(name, tensor.float().numpy())
    else:
        data = gguf.quants.quantize(np.ascontiguousarray(tensor.numpy()), quant)
        writer.add_tensor(name, data, raw_dtype=quant)


def add_byte_tokenizer(writer: gguf.GGUFWriter, pre: str = "smollm") -> None:
    """256 byte tokens, no merges but one, two control tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = sorted(ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*tokens, "he", "<|im_start|>", "<|im_end|>"])
    writer.add_token_types([1] * 257 + [3, 3])
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_chat_template("{{ messages[0]['content'] }}")


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
