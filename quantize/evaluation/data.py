"""Where the tasks find their data: local files, never fetched. No torch: the CLI reads this."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# The files that a task looks for in the data folder; the first that is there counts.
TASK_FILES: dict[str, tuple[str, ...]] = {
    "wikitext2": ("wikitext2-raw-test.txt", "wiki.test.raw"),
    "piqa": ("piqa_val.jsonl",),
    "arc_easy": ("arc_easy_test.jsonl",),
    "social_iqa": ("social_iqa_val.jsonl",),
    "lambada": ("lambada_openai_test.jsonl",),
}


class DataError(ValueError):
    """Evaluation data that is missing or malformed; the message says where and what to change."""


def find_file(folder: Path, task: str) -> Path:
    for name in TASK_FILES[task]:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"task {task} needs {folder / TASK_FILES[task][0]}, which is missing; put it there or "
        "name the folder that has it by --data"
    )


def read_text(path: Path) -> str:
    """Raises DataError where there is no UTF-8 text."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_wikitext2(folder: Path) -> str:
    """WikiText-2's test set as the GPTQ protocol joins it, two newlines between rows.

    A row is a line of ``wiki.test.raw`` with its newline, or nothing where the line is blank.
    ``wikitext2-raw-test.txt`` holds the joined text itself.
    """
    path = find_file(folder, "wikitext2")
    text = read_text(path)
    if path.name != "wiki.test.raw":
        return text
    rows = text.removesuffix("\n").split("\n")
    return "\n\n".join(f"{row}\n" if row.strip() else "" for row in rows)


def read_jsonl(path: Path, fields: dict[str, type], limit: int | None) -> list[dict[str, Any]]:
    """The first ``limit`` objects, each checked to have ``fields``. Raises DataError by line."""
    lines = read_text(path).removesuffix("\n").split("\n")[:limit]
    return [_parse(line, f"{path}:{number}", fields) for number, line in enumerate(lines, start=1)]


def _parse(line: str, place: str, fields: dict[str, type]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON ({error.msg})") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: expected a JSON object")
    for name, kind in fields.items():
        if not isinstance(row.get(name), kind):
            raise DataError(f"{place}: expected a {kind.__name__} in field {name!r}")
    return row
