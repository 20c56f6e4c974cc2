"""What several kinds of ``qoq bench`` take on the command line."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


def add_lengths(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--input-len", type=positive, default=1024, metavar="N", help="of a prompt, tokens [1024]")
    add("--output-len", type=positive, default=512, metavar="N", help="of an output, tokens [512]")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def positive_or_auto(text: str) -> int | None:
    """None is auto."""
    return None if text == "auto" else positive(text)


def new_file(text: str) -> Path:
    """Checked before the run rather than after it."""
    if not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {Path(text).parent}")
    return Path(text)


def plot_file(text: str) -> Path:
    if Path(text).suffix not in PLOT_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r}: expected one of {', '.join(PLOT_SUFFIXES)}")
    if find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("plots need matplotlib: pip install 'qoq[loadtest]'")
    return new_file(text)
