"""Rooflines and predictions per format and GPU: ``python -P -m qoq.kernels.bench.roofline``.

The roofline is the larger of two times: moving each operand once at the memory's peak, multiplying
at the tensor cores' dense peak. The prediction for W4A8 takes the share of each that is reached:
of memory 0.8 (what the kernels here measure on an H100), of the tensor cores 0.75 on Hopper
(measured) and 0.6 on A100 and L40S (expected: dequantizing a weight takes 0.875 integer
instructions, 22 % of an A100's multiplication time with tiles of 128 tokens, of which two blocks on
a multiprocessor hide most), and 2.5 us for the launch. It is no measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

MEMORY_SHARE, LAUNCH_US = 0.8, 2.5
MS = (1, 16, 64, 128, 256, 512, 2048)


@dataclass(frozen=True, slots=True)
class Gpu:
    """Dense peaks from the data sheets, TB/s and tera-operations/s; ``tensor_share`` as above."""

    name: str
    memory: float
    fp16: float
    int8: float
    fp8: float | None
    tensor_share: float


GPUS = (
    Gpu("A100", 2.039, 312, 624, None, 0.6),
    Gpu("L40S", 0.864, 362, 733, 733, 0.6),
    Gpu("H100", 3.35, 989, 1979, 1979, 0.75),
    Gpu("H200", 4.8, 989, 1979, 1979, 0.75),
)


@dataclass(frozen=True, slots=True)
class Format:
    """Bytes of a weight (its scales and offsets included) and of an activation."""

    name: str
    weight_bytes: float
    input_bytes: float

    def peak(self, gpu: Gpu) -> float | None:
        return {"W4A16": gpu.fp16, "FP8": gpu.fp8}.get(self.name, gpu.int8)


W4A8 = Format("W4A8", 0.5 + 4 / 128, 1)
FORMATS = (Format("W4A16", 0.5 + 4 / 128, 2), Format("W8A8", 1, 1), W4A8, Format("FP8", 1, 1))
# One layer of Llama-3-8B: N, K.
LAYER = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))


def memory_us(fmt: Format, gpu: Gpu, m: int, n: int, k: int) -> float:
    """Weights, inputs and a 16-bit output, each moved once."""
    return (n * k * fmt.weight_bytes + m * k * fmt.input_bytes + 2 * m * n) / gpu.memory / 1e6


def tensor_us(fmt: Format, gpu: Gpu, m: int, n: int, k: int) -> float | None:
    """None where the GPU does not multiply in this format."""
    peak = fmt.peak(gpu)
    return None if peak is None else 2 * m * n * k / peak / 1e6


def roofline_us(fmt: Format, gpu: Gpu, m: int, n: int, k: int) -> float | None:
    tensor = tensor_us(fmt, gpu, m, n, k)
    return None if tensor is None else max(memory_us(fmt, gpu, m, n, k), tensor)


def predicted_us(gpu: Gpu, m: int, n: int, k: int) -> float:
    """Of the W4A8 kernels, per group."""
    tensor = tensor_us(W4A8, gpu, m, n, k)
    assert tensor is not None
    memory = memory_us(W4A8, gpu, m, n, k)
    return max(memory / MEMORY_SHARE, tensor / gpu.tensor_share) + LAUNCH_US


def main() -> None:
    print("One Llama-3-8B layer's four GEMMs, us: the roofline per format, W4A8 as predicted")
    print(f"{'':6}{'M':>6}" + "".join(f"{fmt.name:>9}" for fmt in FORMATS) + f"{'predicted':>11}")
    for gpu in GPUS:
        for m in MS:
            cells = []
            for fmt in FORMATS:
                times = [roofline_us(fmt, gpu, m, *shape) for shape in LAYER]
                known = [us for us in times if us is not None]
                cells.append(f"{sum(known):9.1f}" if len(known) == len(LAYER) else f"{'-':>9}")
            predicted = sum(predicted_us(gpu, m, *shape) for shape in LAYER)
            print(f"{gpu.name:6}{m:6}{''.join(cells)}{predicted:11.1f}")


if __name__ == "__main__":
    main()
