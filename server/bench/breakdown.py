"""A step's breakdown as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qoq.engine.benchmarks.breakdown import DeviceTimes, StepBreakdown

# Kernels of a smaller share are summed up.
LEAST_SHARE = 0.002
NAME_WIDTH = 64


def text(step: StepBreakdown) -> str:
    host = step.host
    lines = [
        f"{step.name}: {step.step_us:.1f} us a step{_roofline(step)}",
        f"  host: schedule {host.schedule_us:.1f}, submit {host.submit_us:.1f}, "
        f"update {host.update_us:.1f} us",
    ]
    return "\n".join(lines + ([] if step.device is None else _device(step.device)))


def _roofline(step: StepBreakdown) -> str:
    if step.roofline_us is None:
        return ""
    return f", {step.roofline_us / step.step_us:.1%} of the roofline's {step.roofline_us:.1f} us"


def _device(device: DeviceTimes) -> list[str]:
    shown = [kernel for kernel in device.kernels if kernel.share >= LEAST_SHARE]
    rest = device.kernels[len(shown) :]
    lines = [
        f"  under the profiler: {device.step_us:.1f} us a step, GPU busy {device.busy_us:.1f} us, "
        f"gap {device.gap_share:.1%}",
        f"  {'kernel or copy':{NAME_WIDTH}}{'launches':>9}{'us':>10}{'share':>8}",
    ]
    rows = [(kernel.name, kernel.num_launches, kernel.us, kernel.share) for kernel in shown]
    if rest:
        parts = ("num_launches", "us", "share")
        launches, us, share = (sum(getattr(kernel, part) for kernel in rest) for part in parts)
        rows.append((f"{len(rest)} others", launches, us, share))
    lines += [
        f"  {name[: NAME_WIDTH - 1]:{NAME_WIDTH}}{launches:9.1f}{us:10.1f}{share:8.1%}"
        for name, launches, us, share in rows
    ]
    return lines
