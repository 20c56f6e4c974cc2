"""Programmatic dependent launch: a kernel starts while the one in front of it still runs.

From sm_90 on. A kernel that was launched so may read constants, and must ``gdc_wait`` before it
touches what earlier kernels write. Some block of threads has to wait in any case, and ends after
those that did not: a later kernel's wait covers the earlier ones only because this one ended after
them. The small kernels between GEMMs let the next GEMM in before they wait themselves, so that its
weights are on their way already.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch


@cache
def can_overlap(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def overlap_options(device: torch.device) -> dict[str, Any]:
    """Of a launch on ``device``: overlap wherever it can."""
    return launch_options(can_overlap(device))


def launch_options(overlaps: bool) -> dict[str, Any]:
    """The kernel's ``OVERLAPS``, and how the driver is asked for it."""
    return {"OVERLAPS": overlaps, **({"launch_pdl": True} if overlaps else {})}
