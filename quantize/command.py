"""``qoq quantize MODEL --out DIR``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qoq.engine.precision import PRECISIONS
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantization_config import DEFAULT_PRECISION, GROUP_SIZES, PER_CHANNEL


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
        default=128,
        help="weights that share a 4-bit scale; -1 is one scale a channel (default: 128)",
    )


def run(args: argparse.Namespace) -> int:
    """0, or 1 after one sentence on standard error (130 where the user interrupted)."""
    # Imported here, so that reading the arguments does not load torch.
    from qoq.quantize.import_checkpoint import import_checkpoint, open_codes
    from qoq.quantize.quantize import quantize_model
    from qoq.quantize.resolve import default_cache_dir, locate

    try:
        source = locate(args.model, default_cache_dir())
        if PRECISIONS[args.precision].weight_bits == 4 and open_codes(source) is not None:
            out = import_checkpoint(source, args.out)
        else:
            out = quantize_model(
                source, args.out, precision=args.precision, group_size=args.group_size
            )
    except (ModelSourceError, OSError) as error:
        print(f"qoq quantize: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("qoq quantize: interrupted; nothing was written", file=sys.stderr)
        return 130
    print(f"wrote {out}")
    return 0
