"""What is asked for: prompts, lengths, which clients leave early. All of it follows from a seed.

There is no tokenizer here. A prompt of `n` common words is about `n` tokens for any model, and one
of `n` token ids is exactly that; the report states the count that the server found.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

COMMON = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work number night "
    "point home water room mother area money story fact month lot right study book eye job word "
    "business issue side kind head house service friend father power hour game line end member"
)
WORDS = COMMON.split()

# Our own column names, then those of the public Azure traces of LLM inference.
ARRIVAL_COLUMNS = ("t_s", "TIMESTAMP")
INPUT_COLUMNS = ("input_tokens", "ContextTokens")
OUTPUT_COLUMNS = ("output_tokens", "GeneratedTokens")

Lengths = Callable[[random.Random], int]


@dataclass(frozen=True, slots=True)
class TraceRow:
    """``arrival_s`` counts from the first row; None where the trace holds lengths only."""

    input_len: int
    output_len: int
    arrival_s: float | None


@dataclass(frozen=True, slots=True)
class Job:
    """One request to send: words or token ids.

    ``leave_after``: hang up after so many token events; None stays.
    """

    index: int
    prompt: str | list[int]
    output_len: int
    leave_after: int | None = None


def parse_lengths(text: str) -> Lengths:
    """`128`, `uniform:LOW:HIGH` or `lognormal:MEDIAN:SIGMA`, as a function that draws a length."""
    kind, *numbers = text.split(":")
    match kind, [float(number) for number in numbers]:
        case "uniform", [low, high] if 1 <= low <= high < math.inf:
            return lambda draw: draw.randint(int(low), int(high))
        case "lognormal", [median, sigma] if 1 <= median < math.inf and 0 <= sigma <= 4:
            return lambda draw: max(1, round(median * draw.lognormvariate(0.0, sigma)))
        case _, [] if kind.isdecimal() and int(kind) >= 1:
            return lambda draw: int(kind)
    raise ValueError(f"lengths are N, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA, not {text!r}")


def read_trace(path: Path, max_rows: int) -> list[TraceRow]:
    """The first rows of a CSV file with a header; columns are found by name."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names = reader.fieldnames or ()
        input_column = _column(names, INPUT_COLUMNS, path)
        output_column = _column(names, OUTPUT_COLUMNS, path)
        arrival_column = next((name for name in ARRIVAL_COLUMNS if name in names), None)
        rows = list(islice(reader, max_rows))
    if not rows:
        raise ValueError(f"{path} holds no requests")
    times = [_seconds(row[arrival_column]) if arrival_column else None for row in rows]
    start = min((time for time in times if time is not None), default=0.0)
    return [
        TraceRow(
            max(1, int(row[input_column])),
            max(1, int(row[output_column])),
            None if time is None else time - start,
        )
        for row, time in zip(rows, times, strict=True)
    ]


def make_jobs(
    lengths: list[tuple[int, int]],
    leave_share: float,
    seed: int,
    num_token_ids: int | None = None,
) -> list[Job]:
    """One job for each (input, output) pair; exactly ``leave_share`` of them, rounded, leave early.

    A client leaves somewhere in the first half of its answer, which is early enough to come before
    the end even where the server packs two tokens into an event. After 0 events means as soon as
    the response has begun. Prompts are words, or ids below ``num_token_ids``.
    """
    draw = random.Random(seed)
    leaving = set(draw.sample(range(len(lengths)), round(leave_share * len(lengths))))
    return [
        Job(
            index=index,
            prompt=_prompt(draw, input_len, num_token_ids),
            output_len=output_len,
            leave_after=draw.randint(0, output_len // 2) if index in leaving else None,
        )
        for index, (input_len, output_len) in enumerate(lengths)
    ]


def _prompt(draw: random.Random, length: int, num_token_ids: int | None) -> str | list[int]:
    if num_token_ids is None:
        return " ".join(draw.choices(WORDS, k=length))
    return draw.choices(range(num_token_ids), k=length)


def _column(names: Sequence[str], wanted: tuple[str, ...], path: Path) -> str:
    for name in wanted:
        if name in names:
            return name
    raise ValueError(f"{path} has no column {' or '.join(wanted)}")


def _seconds(text: str) -> float:
    """Seconds since some fixed moment, from a number or a date; a date without a zone is UTC."""
    try:
        return float(text)
    except ValueError:
        date = datetime.fromisoformat(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
