"""What was measured, where and with what: the line above a table."""

from __future__ import annotations

import argparse
from datetime import date
from importlib.metadata import version


def title(args: argparse.Namespace, precision: str, device: str, load: str) -> str:
    scales = ", one scale a channel" if args.per_channel else ""
    return (
        f"{precision}{scales}, {args.load_format} weights, {load}, {device}, "
        f"torch {version('torch')}, qoq {version('qoq')}, {date.today()}"
    )
