"""A quantized model in float64, written from DESIGN.md section 3 and from nothing of the engine.

Weights are dequantized, activations and keys and values are quantized and dequantized, and
everything between is ordinary arithmetic. Where a value is rounded to a code, fp32 and float64 may
fall on different sides of a tie, and one other code is a thousand times more than a rounding error.
So the codes that the engine chose are given, each must be a correct rounding of the exact value,
but for an error of fp32, and the computation goes on with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

# fp32 errors of a layer's inputs are some 1e-6 of their maximum, which is 127 code steps.
TIE_WIDTH = 127 * 1e-5
FP16_ROUNDING = 2.0**-11

Inputs = Iterator[Tensor | None]


@dataclass
class Codes:
    """The engine's choices: for each layer four activations ``[T, K]``, and of the cache codes
    ``[T, 2, H, D]`` with scale and bias ``[T, 2, H, 2]``; the input of an INT8 lm_head, of the last
    tokens at least. ``attention_scales`` ``[T, 1]`` of each layer, where attention rounds operands
    to fp16, are adopted too."""

    activations: list[list[Tensor]]
    cache: list[tuple[Tensor, Tensor]]
    head: Tensor | None = None
    attention_scales: list[Tensor] | None = None
    num_ties: int = 0
    num_codes: int = 0
    worst: float = 0.0

    def adopt(
        self, exact: Tensor, codes: Tensor, low: int, high: int, error: Tensor | float = 0.0
    ) -> Tensor:
        """The engine's codes, after checking that they are roundings of ``exact``.

        ``error`` in code steps is what the engine's value may be off already.
        """
        distance = (exact.clamp(low, high) - codes.double()).abs() - error
        self.worst = max(self.worst, distance.max().item())
        self.num_ties += int((distance > 0.5).sum())
        self.num_codes += codes.numel()
        assert self.worst <= 0.5 + TIE_WIDTH, f"a code is {self.worst} steps from its value"
        return codes.double()


@dataclass
class FakeQuantizedModel:
    """Activations are quantized to +-``max_code``, or not at all, keys and values to ``levels``."""

    folder: Path
    max_code: int | None = 127
    levels: int = 15
    config: dict = field(init=False)
    tensors: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.config = json.loads((self.folder / "config.json").read_text())
        self.tensors = load_file(self.folder / "model.safetensors")

    @property
    def has_int8_head(self) -> bool:
        return "lm_head.scales" in self.tensors

    def logits(self, tokens: list[int], codes: Codes) -> Tensor:
        x = self.tensors["model.embed_tokens.weight"][torch.tensor(tokens)].double()
        for layer in range(self.config["num_hidden_layers"]):
            inputs = iter(codes.activations[layer] if self.max_code else [None] * 4)
            x = x + self._attention(layer, x, inputs, codes)
            x = x + self._mlp(layer, x, inputs, codes)
        x = self._norm("model.norm", x)
        if self.has_int8_head:
            x = x[-codes.head.shape[0] :]
            return self._quantize(x, codes.head, codes) @ self.weight("lm_head").T
        head = self.tensors.get("lm_head.weight", self.tensors["model.embed_tokens.weight"])
        return x @ head.double().T

    def _attention(self, layer: int, x: Tensor, inputs: Inputs, codes: Codes) -> Tensor:
        name, config = f"model.layers.{layer}", self.config
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        x = self._quantize(self._norm(f"{name}.input_layernorm", x), next(inputs), codes)
        q, k, v = (
            self._linear(f"{name}.self_attn.{part}_proj", x).unflatten(1, (-1, head_dim))
            for part in "qkv"
        )
        if config["architectures"] == ["Qwen3ForCausalLM"]:
            q = self._norm(f"{name}.self_attn.q_norm", q)
            k = self._norm(f"{name}.self_attn.k_norm", k)
        kv = torch.stack((self._rotate(k), v), dim=1)
        k, v = self._quantize_kv(kv, *codes.cache[layer], codes).unbind(dim=1)
        q = self._rotate(q)
        out = _attend(q, k, v).flatten(1)
        if codes.attention_scales is None:
            out = self._quantize(out, next(inputs), codes)
        else:
            scale, error = codes.attention_scales[layer].double(), _fp16_error(q, k, v)
            exact = out.abs().amax(dim=1, keepdim=True) / self.max_code
            assert ((scale - exact).abs() <= error / self.max_code + exact * 1e-5).all()
            out = codes.adopt(out / scale, next(inputs), -127, 127, error / scale) * scale
        return self._linear(f"{name}.self_attn.o_proj", out)

    def _mlp(self, layer: int, x: Tensor, inputs: Inputs, codes: Codes) -> Tensor:
        name = f"model.layers.{layer}"
        x = self._quantize(self._norm(f"{name}.post_attention_layernorm", x), next(inputs), codes)
        gate = self._linear(f"{name}.mlp.gate_proj", x)
        inner = gate * torch.sigmoid(gate) * self._linear(f"{name}.mlp.up_proj", x)
        return self._linear(f"{name}.mlp.down_proj", self._quantize(inner, next(inputs), codes))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        mean_square = (x * x).mean(dim=-1, keepdim=True)
        gain = self.tensors[f"{name}.weight"].double()
        return x / torch.sqrt(mean_square + self.config["rms_norm_eps"]) * gain

    def _linear(self, name: str, x: Tensor) -> Tensor:
        y = x @ self.weight(name).T
        bias = self.tensors.get(f"{name}.bias")
        return y if bias is None else y + bias.double()

    def weight(self, name: str) -> Tensor:
        part = {
            key.removeprefix(f"{name}."): tensor.double()
            for key, tensor in self.tensors.items()
            if key.startswith(f"{name}.")
        }
        if "scales" not in part:
            return part["weight"]
        scale = part["scales"][:, None]
        if "weight" in part:
            return part["weight"] * scale
        packed = part["qweight"]
        codes = torch.stack((packed % 16, packed.div(16, rounding_mode="floor")), 2).flatten(1)
        if "zeros" in part:
            return (codes - part["zeros"][:, None]) * scale
        groups = codes.unflatten(1, (part["group_scales"].shape[1], -1))
        whole = groups * part["group_scales"][:, :, None] + part["group_offsets"][:, :, None]
        return whole.flatten(1) * scale

    def _rotate(self, x: Tensor) -> Tensor:
        half = x.shape[2] // 2
        theta = self.config["rope_parameters"]["rope_theta"]
        turn = theta ** (-torch.arange(half).double() / half)
        angle = (torch.arange(x.shape[0]).double()[:, None] * turn)[:, None]
        first, second = x[:, :, :half], x[:, :, half:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=2)

    def _quantize(self, x: Tensor, engine: Tensor | None, codes: Codes) -> Tensor:
        x = x.flatten(1)
        if self.max_code is None or engine is None:
            return x
        scale = x.abs().amax(dim=1, keepdim=True) / self.max_code
        scale[scale == 0] = 1
        return codes.adopt(x / scale, engine, -self.max_code, self.max_code) * scale

    def _quantize_kv(self, kv: Tensor, engine: Tensor, scale_bias: Tensor, codes: Codes) -> Tensor:
        low, high = kv.amin(dim=-1), kv.amax(dim=-1)
        exact = torch.stack(((high - low) / self.levels, low), dim=-1)
        scale, bias = scale_bias.double()[..., None, :].unbind(dim=-1)
        error = (scale_bias.double() - exact).abs()
        span = (high - low)[..., None]
        assert (error <= exact.abs() * FP16_ROUNDING + span * 1e-5 + 2.0**-24).all()
        return codes.adopt((kv - bias) / scale, engine, 0, self.levels) * scale + bias


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax attention, ``[T, heads, D]`` each."""
    repeats = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(repeats, dim=1).transpose(0, 1) for x in (k, v))
    scores = q.transpose(0, 1) @ k.transpose(1, 2) / q.shape[2] ** 0.5
    future = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    return (weights @ v).transpose(0, 1)


def _fp16_error(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``[T, 1]``, how far attention is off at most where its operands were rounded to fp16.

    Rounding ``q`` and ``k`` moves a score by ``2 * 2^-11 sum |q k|``, and so a weight and the sum
    of weights by that share each. Weights and values have a rounding of their own.
    """
    repeats = q.shape[1] // k.shape[1]
    k, v = (x.abs().repeat_interleave(repeats, dim=1) for x in (k, v))
    size = torch.einsum("thd,shd->ths", q.abs(), k).amax(dim=(1, 2)) / q.shape[2] ** 0.5
    return FP16_ROUNDING * (4 * size + 2)[:, None] * v.max()
