from __future__ import annotations

import json
from pathlib import Path

import pytest

from qoq.quantize.evaluation.evaluate import Result
from qoq.quantize.evaluation.metric import ACCURACY, AGREEMENT, LOSS, PERPLEXITY, Metric
from qoq.quantize.evaluation.report import Report

RESULTS = [
    Result("a fp32", "wikitext2", [Metric(PERPLEXITY, 12.34567), Metric(LOSS, 2.5)]),
    Result("a fp32", "piqa", [Metric(ACCURACY, 0.625)]),
    Result("a w4a8kv4", "wikitext2", [Metric(PERPLEXITY, 1234.5), Metric(LOSS, 7.125)]),
    Result("a w4a8kv4", "piqa", [Metric(ACCURACY, 0.5)]),
]


@pytest.fixture
def report() -> Report:
    notes = {"wikitext2": "the first 8 windows of 2048 tokens", "piqa": "2 questions"}
    return Report({"window": 2048}, notes, list(RESULTS))


def test_text_has_a_table_a_task_with_its_definitions(report: Report):
    assert report.as_text().splitlines()[:7] == [
        "wikitext2: the first 8 windows of 2048 tokens",
        "model      perplexity    loss",
        "a fp32         12.346  2.5000",
        "a w4a8kv4    1234.500  7.1250",
        "perplexity: exp of the loss.",
        "loss: mean negative log-likelihood of a token, in nats.",
        "",
    ]
    assert "a w4a8kv4  50.0%" in report.as_text()


def test_markdown_renders_as_a_table(report: Report):
    lines = report.as_markdown().splitlines()
    start = lines.index("| model | perplexity | loss |")
    assert lines[start + 1] == "| --- | ---: | ---: |"
    assert lines[start + 2] == "| a fp32 | 12.346 | 2.5000 |"


def test_json_has_whole_numbers_under_the_names_of_the_table(report: Report):
    content = json.loads(report.as_json())
    assert content["run"] == {"window": 2048}
    assert content["notes"]["piqa"] == "2 questions"
    assert content["results"][0] == {
        "model": "a fp32",
        "task": "wikitext2",
        "metrics": {"perplexity": 12.34567, "loss": 2.5},
    }


def test_a_task_without_results_yet_is_left_out(report: Report, tmp_path: Path):
    report.results[:] = RESULTS[:1]
    report.save(tmp_path / "deep" / "out")
    assert "piqa" not in (tmp_path / "deep" / "out" / "report.md").read_text()
    report.results[:] = RESULTS
    report.save(tmp_path / "deep" / "out")
    assert "## piqa" in (tmp_path / "deep" / "out" / "report.md").read_text()


def test_conditions_tell_metrics_of_a_kind_apart():
    metrics = [Metric(AGREEMENT, 0.9, "clean"), Metric(AGREEMENT, 0.8, "typos")]
    text = Report({}, {"robustness": "n"}, [Result("m", "robustness", metrics)]).as_text()
    assert "clean top-1  typos top-1" in text
    assert text.count("rank the same first") == 1
