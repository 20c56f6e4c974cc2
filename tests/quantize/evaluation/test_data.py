from __future__ import annotations

from pathlib import Path

import pytest

from qoq.quantize.evaluation.data import (
    DataError,
    find_file,
    read_jsonl,
    read_text,
    read_wikitext2,
)


def test_a_missing_file_is_named_with_where_to_put_it(tmp_path: Path):
    with pytest.raises(DataError, match=r"task piqa needs .*piqa_val.jsonl, which is missing; put"):
        find_file(tmp_path, "piqa")


def test_wikitext2_is_joined_as_the_protocol_does(tmp_path: Path):
    """Rows keep their newline, blank ones (a space and a newline in the file) become empty."""
    (tmp_path / "wiki.test.raw").write_text(" \n = Title = \n \n Text one . \n Text two . \n \n")
    expected = "\n\n".join(["", " = Title = \n", "", " Text one . \n", " Text two . \n", ""])
    assert read_wikitext2(tmp_path) == expected
    (tmp_path / "wikitext2-raw-test.txt").write_text("joined already \n\n\n")
    assert read_wikitext2(tmp_path) == "joined already \n\n\n"


def test_line_separators_within_json_do_not_end_a_line(tmp_path: Path):
    (tmp_path / "x.jsonl").write_text('{"text": "a\u2028b"}\n{"text": "c"}\n')
    rows = read_jsonl(tmp_path / "x.jsonl", {"text": str}, None)
    assert [row["text"] for row in rows] == ["a\u2028b", "c"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"x.jsonl:2: not JSON"),
        ("", r"x.jsonl:2: not JSON"),
        ("[1]", r"x.jsonl:2: expected a JSON object"),
        ('{"query": 1}', r"x.jsonl:2: expected a str in field 'query'"),
        ('{"text": "a"}', r"x.jsonl:2: expected a str in field 'query'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str):
    (tmp_path / "x.jsonl").write_text(f'{{"query": "fine"}}\n{line}\n')
    with pytest.raises(DataError, match=message):
        read_jsonl(tmp_path / "x.jsonl", {"query": str}, None)
    assert len(read_jsonl(tmp_path / "x.jsonl", {"query": str}, limit=1)) == 1


def test_an_empty_file_is_refused(tmp_path: Path):
    (tmp_path / "x.jsonl").touch()
    with pytest.raises(DataError, match="x.jsonl:1: not JSON"):
        read_jsonl(tmp_path / "x.jsonl", {}, None)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "x.txt").write_bytes(b"ab\xff")
    with pytest.raises(DataError, match=r"x.txt: not UTF-8 text \(.* at byte 2\)"):
        read_text(tmp_path / "x.txt")
    with pytest.raises(DataError, match="nowhere.txt: cannot be read"):
        read_text(tmp_path / "nowhere.txt")
