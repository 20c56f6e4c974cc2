"""Run by test_ablation in a process of its own: Triton's interpreter is chosen at import."""

import torch

from qoq.kernels.bench import ablation_variants as variants
from qoq.kernels.bench.ablation import check_float_groups
from qoq.kernels.gpu.gemm.w4a8_config import TileConfig
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace
from qoq.kernels.gpu.gemm.w4a8_weight import pack_per_group
from qoq.kernels.packing import pack_codes
from qoq.kernels.quantize import QuantizedActivations
from qoq.kernels.w4a8_gemm import w4a8_gemm_reference

N, K = 128, 512

if __name__ == "__main__":
    torch.manual_seed(0)
    qweight = pack_codes(torch.randint(0, 16, (N, K), dtype=torch.uint8))
    group_scales = torch.randint(1, 18, (N, K // 128), dtype=torch.uint8)
    offsets = (torch.rand(N, K // 128) * (256 - 15 * group_scales) - 128).floor().to(torch.int8)
    scales = (torch.rand(N) + 0.1) / 2**10
    weight = pack_per_group(qweight, scales, group_scales, offsets)
    assert torch.equal(variants.rows_of(weight), qweight)
    floats, workspace = variants.random_scales(weight), Workspace(torch.device("cpu"), 1 << 20)
    for m, tile in ((1, TileConfig(16, 64, 4, 3, 4)), (20, TileConfig(16, 128, 4, 3))):
        codes = torch.randint(-127, 128, (m, K + 16), dtype=torch.int8)[:, :K]
        x = QuantizedActivations(codes, torch.rand(m, 1) / 2**10)
        expected = w4a8_gemm_reference(x, qweight, scales, group_scales, offsets).half()
        got = variants.rows_as_stored(x, weight, qweight, tile, workspace)
        assert torch.equal(got, expected), "rows_as_stored"
        got = variants.byte_by_byte(x, weight, tile, workspace)
        assert torch.equal(got, expected), "byte_by_byte"
        got = variants.float_groups(x, weight, floats, tile, workspace)
        check_float_groups(got, x, weight, floats)
        assert not workspace.counters.any(), "a split left its counter"
    print("equal")
