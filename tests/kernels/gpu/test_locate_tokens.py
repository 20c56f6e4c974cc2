"""Where tokens go: equal to indexing, and compiled for every architecture."""

import pytest
import torch

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.gpu.locate_tokens import _locate_kernel, locate_tokens

from .interpreted import assert_equal_under_the_interpreter
from .sass import compile_ahead

TYPES = {
    "request_ptr": "*i64",
    "position_ptr": "*i64",
    "table_ptr": "*i32",
    "rope_ptr": "*fp32",
    "block_ptr": "*i64",
    "offset_ptr": "*i64",
    "row_ptr": "*fp32",
    "copy_ptr": "*i32",
}


INTEGERS = ("num_requests", "width", "num_positions", "num_tables")


def test_equals_indexing_under_the_interpreter() -> None:
    assert_equal_under_the_interpreter("locate_interpreted.py")


@pytest.mark.parametrize("arch", [80, 89, 90])
def test_compiles(arch: int) -> None:
    constants = {"COLUMNS": 192, "BLOCK_SIZE": 64, "BLOCK": 512}
    compile_ahead(
        _locate_kernel, arch, TYPES | dict.fromkeys(INTEGERS, "i32"), constants, [], num_warps=4
    )


def test_other_dtypes_are_refused_by_name() -> None:
    ids, tables = torch.zeros(2, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.int32)
    rope = torch.zeros(8, 3, 2)
    for name, arguments in (
        ("requests", (ids.int(), ids, tables, rope)),
        ("positions", (ids, ids[:1], tables, rope)),
        ("block_tables", (ids, ids, tables.long(), rope)),
        ("rope_table", (ids, ids, tables, rope.half())),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            locate_tokens(*arguments, 64, 0)
