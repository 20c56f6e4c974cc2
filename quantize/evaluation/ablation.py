"""What each technique of QoQ is worth: a table of losses, technique after technique.

``python -P -m qoq.quantize.evaluation.ablation MODEL --data DIR --out DIR`` makes every checkpoint
and runs WikiText-2 through the serving kernels. Hours on a CPU: ``report.md`` grows row by row, and
a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qoq.engine.precision import stored_precision
from qoq.quantize.calibration.token_windows import TokenWindows
from qoq.quantize.checkpoint import REPORT_NAME
from qoq.quantize.evaluation.candidate import Candidate
from qoq.quantize.evaluation.data import read_wikitext2
from qoq.quantize.evaluation.evaluate import Result
from qoq.quantize.evaluation.metric import ADDED_LOSS, LOSS, PERPLEXITY, Metric
from qoq.quantize.evaluation.report import Report
from qoq.quantize.evaluation.task import Task
from qoq.quantize.evaluation.text_task import TextTask, Windows
from qoq.quantize.quantization_config import PER_CHANNEL
from qoq.quantize.quantize import quantize_model, sample_model
from qoq.quantize.recipe import Recipe
from qoq.quantize.recipe_file import load_recipe
from qoq.quantize.resolve import default_cache_dir, locate

# In the order of the table. A technique that the recipe leaves out is tried with these values, and
# the rows after it are without.
STEPS: dict[str, dict[str, Any]] = {
    "rotation": {"fold_norms": True, "rotate": True, "rotate_heads": True},
    "clipping": {"clip": True},
    "SmoothAttention": {"smooth_attention": 0.5},
    "key alignment": {"align_keys": True},
    "smoothing": {"smooth_outputs": 0.2},
    "reordering": {"reorder": True},
    "GPTQ": {"gptq": True},
}


@dataclass(frozen=True, slots=True)
class Variant:
    """``name`` is the checkpoint's folder; ``precision`` is what it runs in."""

    label: str
    name: str
    precision: str
    recipe: Recipe


def variants() -> Iterator[Variant]:
    """The rows, those first that others are compared to."""
    rtn = load_recipe("rtn")
    yield Variant("fp32", "fp32", "fp32", Recipe())
    for form in ("per-group", "per-channel"):
        full = load_recipe(f"qoq-{form}")
        plain = replace(rtn, group_size=full.group_size)
        yield Variant(f"W4A8KV4 {form}: RTN", f"{form}-rtn", "w4a8kv4", plain)
        yield from _steps(form, plain, full)
    yield Variant("W4A16 per-group: RTN", "per-group-rtn", "w4a16", rtn)
    yield Variant("W8A8KV8: RTN", "w8a8kv8", "w8a8kv8", rtn)
    yield Variant("W4A4KV4 per-group: RTN", "per-group-rtn", "w4a4", rtn)
    full = load_recipe("qoq-per-group")
    yield Variant("W4A4KV4 per-group: QoQ", "per-group-GPTQ", "w4a4", full)
    yield Variant("W16A16KV4", "fp32", "w16a16kv4", Recipe())
    smoothed = Recipe(smooth_attention=full.smooth_attention, calibration=full.calibration)
    yield Variant("W16A16KV4: + SmoothAttention", "fp32-smoothed", "w16a16kv4", smoothed)
    aligned = replace(smoothed, align_keys=True)
    yield Variant("W16A16KV4: + key alignment", "fp32-aligned", "w16a16kv4", aligned)


def _steps(form: str, recipe: Recipe, full: Recipe) -> Iterator[Variant]:
    recipe = replace(recipe, calibration=full.calibration)
    for step, trial in STEPS.items():
        name = f"{form}-{step.replace(' ', '-')}"
        if trial.keys() & set(full.techniques):
            recipe = replace(recipe, **{field: getattr(full, field) for field in trial})
            yield Variant(f"W4A8KV4 {form}: + {step}", name, "w4a8kv4", recipe)
        elif "reorder" not in trial or full.group_size != PER_CHANNEL:
            yield Variant(
                f"W4A8KV4 {form}: (with {step})", name, "w4a8kv4", replace(recipe, **trial)
            )


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 after one sentence on standard error."""
    args = _parser().parse_args(argv)
    try:
        print(_ablate(args).as_text())
    except (ValueError, OSError) as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 1
    return 0


def _ablate(args: argparse.Namespace) -> Report:
    windows = Windows(args.window, args.num_windows, args.skip_windows)
    task = TextTask("wikitext2", read_wikitext2(args.data), windows)
    report = Report({"model": args.model}, {task.name: task.note})
    done = _read_rows(args.out / "report.json", report)
    checkpoints = _Checkpoints(locate(args.model, default_cache_dir()), args.out / "checkpoints")
    for variant in variants():
        folder = checkpoints.make(variant)
        metrics = done.get(variant.label) or _measure(variant, folder, task, args.window)
        dense = report.results[0].metrics if report.results else metrics
        added = Metric(ADDED_LOSS, metrics[1].value - dense[1].value)
        report.results.append(Result(variant.label, task.name, [*metrics, added]))
        report.save(args.out)
    return report


def _measure(variant: Variant, folder: Path, task: Task, window: int) -> list[Metric]:
    """Perplexity and loss."""
    subject = Candidate(str(folder), variant.precision).load(folder, variant.label, window)
    return task.run(subject, None)


def _read_rows(path: Path, report: Report) -> dict[str, list[Metric]]:
    """Perplexity and loss by label, from an earlier run on the same windows."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if (content["run"], content["notes"]) != (report.run, report.notes):
        raise ValueError(f"{path} is of another run; choose another --out or remove it")
    return {
        row["model"]: [Metric(kind, row["metrics"][kind.name]) for kind in (PERPLEXITY, LOSS)]
        for row in content["results"]
    }


@dataclass(slots=True)
class _Checkpoints:
    """Made when they are wanted. All calibrate on the same samples."""

    source: Path
    folder: Path
    samples: TokenWindows | None = None

    def make(self, variant: Variant) -> Path:
        out = self.folder / variant.name
        if out.exists():
            _check_recipe(out, variant.recipe)
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            quantize_model(
                self.source,
                out,
                precision=stored_precision(variant.precision),
                recipe=variant.recipe,
                calib=self._samples(variant.recipe),
            )
        return out

    def _samples(self, recipe: Recipe) -> TokenWindows | None:
        if not recipe.needs_calibration:
            return None
        if self.samples is None:
            self.samples = sample_model(self.source, recipe.calibration, self.folder, True)
        return self.samples


def _check_recipe(checkpoint: Path, recipe: Recipe) -> None:
    report = json.loads((checkpoint / REPORT_NAME).read_text(encoding="utf-8"))
    if report["recipe"] != recipe.to_json():
        raise ValueError(f"{checkpoint} follows another recipe; choose another --out or remove it")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ablation", description=__doc__)
    parser.add_argument("model", help="as for `qoq quantize`")
    parser.add_argument("--data", type=Path, required=True, help="folder of WikiText-2's test file")
    parser.add_argument("--out", type=Path, required=True, help="for checkpoints and report.md")
    parser.add_argument("--window", type=int, default=2048, help="tokens of a window [2048]")
    parser.add_argument("--num-windows", type=int, help="this many only; default: all")
    parser.add_argument(
        "--skip-windows",
        type=int,
        default=0,
        help="leave out the first ones, such as those that a recipe was chosen on [0]",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
