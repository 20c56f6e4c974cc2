"""Measures model after model, each in a process of its own, and reports as soon as one is done."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def each_model(
    args: argparse.Namespace, measure: Callable[[str], T], report: Callable[[T], None]
) -> int:
    """0, or 1 where a model could not be measured, after one sentence each on standard error.

    ``args.json`` has the results so far as a list. An error that is not the user's is logged whole.
    """
    results, code = [], 0
    for model in args.models:
        try:
            results.append(measure(model))
        except (ValueError, OSError) as error:
            print(f"qoq bench: {error}", file=sys.stderr)
            code = 1
        except RuntimeError:
            logging.exception("qoq bench: %s", model)
            code = 1
        else:
            report(results[-1])
            if args.json is not None:
                write_json(args.json, results)
    return code


def write_json(path: Path, results: list[Any]) -> None:
    path.write_text(json.dumps([dataclasses.asdict(result) for result in results], indent=1))
