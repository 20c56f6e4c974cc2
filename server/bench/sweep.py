"""``qoq bench sweep``: decoded tokens per second by batch and context, as a table and a plot."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from qoq.server.bench import model
from qoq.server.bench.arguments import plot_file, positive
from qoq.server.bench.each_model import each_model
from qoq.server.bench.sweep_plot import save_plot
from qoq.server.bench.title import title

if TYPE_CHECKING:
    from qoq.engine.benchmarks.sweep import Sweep

BATCHES = [2**power for power in range(11)]
CONTEXTS = [2**power for power in range(9, 16)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model.add_arguments(parser)
    parser.add_argument(
        "--batches", type=positive, nargs="+", default=BATCHES, help="[powers of 2 up to 1024]"
    )
    parser.add_argument(
        "--contexts", type=positive, nargs="+", default=CONTEXTS, help="[powers of 2, 512 to 32768]"
    )
    parser.add_argument("--plot", type=plot_file, metavar="FILE", help="needs matplotlib")


def run(args: argparse.Namespace) -> int:
    """0, or 1 after a sentence on standard error for each model that could not be measured."""
    from qoq.engine.benchmarks.own_process import in_own_process
    from qoq.engine.benchmarks.sweep import measure_sweep

    sweeps: list[Sweep] = []

    def measure(name: str) -> Sweep:
        config = model.engine_config(args, name)
        return in_own_process(measure_sweep, config, args.batches, args.contexts)

    def report(sweep: Sweep) -> None:
        sweeps.append(sweep)
        print(sweep.model, title(args, sweep.precision, sweep.device, "decode steps"), sep=": ")
        print(text(sweep), flush=True)
        if args.plot is not None:
            save_plot(sweeps, args.plot)

    return each_model(args, measure, report)


def text(sweep: Sweep) -> str:
    """A row a batch, a column a context."""
    rates = {(cell.batch, cell.context): cell.rate for cell in sweep.cells}
    contexts = sorted({cell.context for cell in sweep.cells})
    lines = [f"{'batch':>6}" + "".join(f"{context:>10}" for context in contexts)]
    for batch in sorted({cell.batch for cell in sweep.cells}):
        row = [rates[batch, context] for context in contexts]
        cells = (f"{'-':>10}" if rate is None else f"{rate:10,.0f}" for rate in row)
        lines.append(f"{batch:6}" + "".join(cells))
    return "\n".join([*lines, "decoded tokens/s at so many tokens of context; -: does not fit", ""])
