"""The console script ``qoq``; each subcommand is a module with ``add_arguments`` and ``run``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from qoq.quantize import command as quantize_command
from qoq.quantize.evaluation import command as eval_command
from qoq.server import bench_command, serve_command, tune_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code."""
    parser = argparse.ArgumentParser(prog="qoq", description="Serve W4A8KV4 language models.")
    parser.add_argument("--version", action="version", version=f"qoq {version('qoq')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module, summary in (
        ("serve", serve_command, "serve a model over the OpenAI API"),
        ("quantize", quantize_command, "make a W4A8KV4 checkpoint from a 16-bit model"),
        ("eval", eval_command, "measure what a quantized model loses"),
        ("bench", bench_command, "measure what this machine reaches"),
        ("tune", tune_command, "find the fastest GEMM configurations of this GPU"),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(bench_command.with_kind(sys.argv[1:] if argv is None else argv))
    code: int = args.run(args)
    return code


if __name__ == "__main__":
    sys.exit(main())
