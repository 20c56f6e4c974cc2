"""``qoq bench``: what this machine reaches, one subcommand for each thing to measure."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from qoq.server.bench import compare, latency, startup, sweep, throughput

KINDS = {
    "compare": (compare, "this machine's engine process beside Hugging Face generate"),
    "throughput": (throughput, "tokens per second with the batch that decodes fastest"),
    "latency": (latency, "how soon the first token comes, and each after the one before"),
    "sweep": (sweep, "decoded tokens per second by batch and context"),
    "startup": (startup, "how soon an engine is ready, and what memory that takes"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    for name, (module, summary) in KINDS.items():
        kind = kinds.add_parser(name, help=summary, description=summary)
        module.add_arguments(kind)
        kind.set_defaults(run_kind=module.run)


def run(args: argparse.Namespace) -> int:
    """The exit code."""
    code: int = args.run_kind(args)
    return code


def with_kind(argv: Sequence[str]) -> list[str]:
    """``qoq bench`` without a kind compares."""
    is_bare = list(argv[:1]) == ["bench"] and not {"-h", "--help", *KINDS} & set(argv[1:2])
    return ["bench", "compare", *argv[1:]] if is_bare else list(argv)
