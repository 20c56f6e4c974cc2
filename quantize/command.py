"""``qoq quantize MODEL --out DIR``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qoq.engine.precision import PRECISIONS
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantization_config import DEFAULT_PRECISION, GROUP_SIZES, PER_CHANNEL
from qoq.quantize.recipe import Recipe
from qoq.quantize.recipe_file import choose_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        help="a preset's name, a Hugging Face folder or hub id, or a GGUF file; a 4-bit QServe, "
        "AWQ, GPTQ or compressed-tensors checkpoint is imported, with its own group size",
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to write; must be new")
    parser.add_argument("--precision", choices=PRECISIONS, default=DEFAULT_PRECISION)
    parser.add_argument(
        "--group-size",
        type=int,
        choices=(*GROUP_SIZES, PER_CHANNEL),
        help="weights that share a 4-bit scale; -1 is one scale a channel [the recipe's]",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME|FILE.yaml",
        help="qoq-per-group, qoq-per-channel, rtn (to nearest) or a file of your own "
        "[qoq-per-group; rtn where weights keep 8 bits or more]",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="FIELD=VALUE",
        help="change a field of the recipe, like clip=false; repeatable",
    )
    parser.add_argument(
        "--calib",
        metavar="FILE|DATASET",
        help="text to calibrate on, plain or .jsonl with a field text, or a dataset of the Hugging "
        "Face hub [samples drawn from the model]",
    )
    parser.add_argument("--seed", type=int, help="of the calibration samples [the recipe's]")


def run(args: argparse.Namespace) -> int:
    """0, or 1 after one sentence on standard error (130 where the user interrupted)."""
    # Imported here, so that reading the arguments does not load torch.
    from qoq.quantize.import_checkpoint import import_checkpoint, open_codes
    from qoq.quantize.quantize import quantize_model
    from qoq.quantize.resolve import default_cache_dir, locate

    try:
        source = locate(args.model, default_cache_dir())
        if PRECISIONS[args.precision].weight_bits == 4 and open_codes(source) is not None:
            _check_untouched(args)
            out = import_checkpoint(source, args.out)
        else:
            out = quantize_model(
                source,
                args.out,
                precision=args.precision,
                recipe=_recipe(args),
                calib=args.calib,
            )
    except (ModelSourceError, OSError) as error:
        print(f"qoq quantize: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("qoq quantize: interrupted; nothing was written", file=sys.stderr)
        return 130
    print(f"wrote {out}")
    return 0


def _check_untouched(args: argparse.Namespace) -> None:
    if args.recipe or args.changes or args.calib or args.seed is not None:
        raise ModelSourceError(
            f"{args.model} has its 4-bit weights already; leave --recipe, --set, --calib and "
            "--seed out, or give the 16-bit model"
        )


def _recipe(args: argparse.Namespace) -> Recipe:
    seed = [] if args.seed is None else [f"calibration.seed={args.seed}"]
    return choose_recipe(args.recipe, args.precision, args.group_size, [*args.changes, *seed])
