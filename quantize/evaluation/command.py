"""``qoq eval MODEL ... --tasks ...``: what a quantized model loses, as tables and a plot."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qoq.engine.precision import COMPARISONS, PRECISIONS
from qoq.quantize.evaluation.data import TASK_FILES
from qoq.quantize.quantization_config import GROUP_SIZES, PER_CHANNEL

if TYPE_CHECKING:
    from qoq.quantize.evaluation.report import Report

TASKS = (*TASK_FILES, "text", "robustness", "refusals")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "models",
        nargs="+",
        metavar="MODEL[@PRECISION]",
        help="as for `qoq serve`; the same model may come in several precisions",
    )
    add("--tasks", type=_tasks, default=["wikitext2"], help=f"of {', '.join(TASKS)} [wikitext2]")
    add(
        "--precision",
        choices=(*PRECISIONS, *COMPARISONS),
        help="of models that name none; default: the checkpoint's own, else w4a8kv4",
    )
    add(
        "--reference",
        metavar="MODEL[@PRECISION]",
        help="the unquantized model, for divergence and agreement",
    )
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="the tasks' files [data]")
    add("--text", type=Path, metavar="FILE", help="for task text, and for robustness")
    add("--window", type=_positive, default=2048, help="tokens of a window of text [2048]")
    add("--num-windows", type=_positive, help="the first ones only; default: all")
    add("--limit", type=_positive, help="the first questions of each task only; default: all")
    add("--seed", type=int, default=0, help="of the noise in robustness [0]")
    add(
        "--group-size",
        type=int,
        choices=(*GROUP_SIZES, PER_CHANNEL),
        help="for a model that is quantized on first use [the recipe's]",
    )
    add(
        "--recipe",
        metavar="NAME|FILE.yaml",
        help="for a model that is quantized on first use, as for `qoq quantize`",
    )
    add("--out", type=Path, metavar="DIR", help="for report.md, report.json and report.png")


def run(args: argparse.Namespace) -> int:
    """0, or 1 after one sentence on standard error (130 where the user interrupted)."""
    try:
        print(_evaluate(args).as_text())
    except (ValueError, OSError) as error:
        print(f"qoq eval: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("qoq eval: interrupted; --out has the results so far", file=sys.stderr)
        return 130
    return 0


def _evaluate(args: argparse.Namespace) -> Report:
    # Imported here, so that reading the arguments does not load torch.
    from qoq.quantize.evaluation.candidate import Candidate
    from qoq.quantize.evaluation.evaluate import evaluate
    from qoq.quantize.evaluation.report import Report
    from qoq.quantize.evaluation.tasks import TaskMaker

    maker = TaskMaker(args.data, args.text, args.window, args.num_windows, args.limit, args.seed)
    tasks = maker.make(args.tasks)
    report = Report(_describe(args), {task.name: task.note for task in tasks})
    results = evaluate(
        [Candidate.parse(model, args.precision) for model in args.models],
        Candidate.parse(args.reference, None) if args.reference else None,
        tasks,
        window=args.window,
        recipe=args.recipe,
        group_size=args.group_size,
    )
    for result in results:
        report.results.append(result)
        if args.out:
            report.save(args.out)
    if args.out:
        _plot(report, args.out / "report.png")
    return report


def _plot(report: Report, path: Path) -> None:
    from qoq.quantize.evaluation.plot import can_plot, save_plot

    if can_plot():
        save_plot(report, path)
    else:
        print("qoq eval: no plot without matplotlib: pip install 'qoq[eval]'", file=sys.stderr)


def _describe(args: argparse.Namespace) -> dict[str, Any]:
    asked = {name: value for name, value in vars(args).items() if name not in ("run", "out")}
    versions = {name: version(name) for name in ("qoq", "torch", "transformers")}
    return {name: str(v) if isinstance(v, Path) else v for name, v in asked.items()} | versions


def _tasks(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in TASKS:
            raise argparse.ArgumentTypeError(
                f"{name!r} is not a task; choose of {', '.join(TASKS)}"
            )
    return names


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)
