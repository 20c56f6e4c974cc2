"""``locate_tokens`` against indexing."""

import interpreter  # noqa: F401
import torch

from qoq.kernels.gpu.locate_tokens import locate_tokens

tables = torch.randint(0, 50, (5, 700), dtype=torch.int32)
rope = torch.rand(900, 3, 96)  # more columns, and more blocks, than the kernel takes at a time
rows, positions = torch.tensor([0, 4, 2, 7]), torch.tensor([0, 899, 65, 100])
located = locate_tokens(rows, positions, tables, rope, 64, num_tables=2)
nearest = rows.clamp(max=4)  # there is no row 7
assert torch.equal(located.slots.blocks, tables[nearest, positions // 64].long())
assert torch.equal(located.slots.offsets, positions % 64)
assert torch.equal(located.rope, rope[positions])
assert torch.equal(located.tables, tables[rows[:2]])
print("equal")
