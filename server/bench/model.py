"""Which models a benchmark runs, and how each is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qoq.server.bench.arguments import new_file, positive

if TYPE_CHECKING:
    from qoq.engine.config import EngineConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a shape of configs/shapes (llama-3-8b) or a folder with a config.json; with "
        "--load-format auto a model as for `qoq serve`",
    )
    parser.add_argument(
        "--load-format",
        choices=["dummy", "auto"],
        default="dummy",
        help="random weights of the true shapes, or the model's own [dummy]",
    )
    parser.add_argument("--precision", help="w4a8kv4 or w8a8kv8 [the checkpoint's, else w4a8kv4]")
    parser.add_argument(
        "--per-channel", action="store_true", help="dummy weights with one scale a channel"
    )
    parser.add_argument(
        "--max-num-batched-tokens",
        type=positive,
        metavar="N",
        help="tokens of a step [512, or 2048 on a GPU]",
    )
    parser.add_argument(
        "--gpu-memory-utilization",
        type=float,
        metavar="SHARE",
        help="how full the GPU's memory may get [as for `qoq serve`]",
    )
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the results there too")


def engine_config(args: argparse.Namespace, model: str, **settings: Any) -> EngineConfig:
    """Raises ValueError, with a sentence that says what to change, where there is no such model."""
    from qoq.engine.config import EngineConfig

    if args.per_channel and args.load_format != "dummy":
        raise ValueError("--per-channel goes with --load-format dummy; a checkpoint has its own")
    if args.gpu_memory_utilization is not None:
        settings["gpu_memory_utilization"] = args.gpu_memory_utilization
    dummy = "dummy-per-channel" if args.per_channel else "dummy"
    return EngineConfig(
        model=_dummy(model) if args.load_format == "dummy" else _checkpoint(args, model),
        load_format=dummy if args.load_format == "dummy" else "auto",
        precision=args.precision,
        max_num_batched_tokens=args.max_num_batched_tokens,
        **settings,
    )


def _dummy(model: str) -> Path:
    from qoq.engine.dummy_checkpoint import shape_names

    if model not in shape_names() and not (Path(model) / "config.json").is_file():
        raise ValueError(
            f"{model}: neither a folder with a config.json nor one of {', '.join(shape_names())}; "
            "--load-format auto takes any model that `qoq serve` takes"
        )
    return Path(model)


def _checkpoint(args: argparse.Namespace, model: str) -> Path:
    from qoq.quantize.resolve import default_cache_dir, resolve_model

    return resolve_model(
        model, precision=args.precision, cache_dir=default_cache_dir(), progress=True
    )
