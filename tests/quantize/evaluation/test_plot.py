from __future__ import annotations

from pathlib import Path

import pytest

from qoq.quantize.evaluation.evaluate import Result
from qoq.quantize.evaluation.metric import AGREEMENT, LOSS, PERPLEXITY, Metric
from qoq.quantize.evaluation.plot import save_plot
from qoq.quantize.evaluation.report import Report

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib comes with the `eval` extra")


def test_a_panel_a_task_and_a_bar_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import matplotlib.figure

    figures: list[matplotlib.figure.Figure] = []
    draw = matplotlib.figure.Figure.savefig

    def keep(figure: matplotlib.figure.Figure, path: Path) -> None:
        figures.append(figure)
        draw(figure, path)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    results = [
        Result(f"m {label}", task, metrics)
        for label in ("fp32", "w4a8kv4", "w4a4")
        for task, metrics in {
            "wikitext2": [Metric(PERPLEXITY, 12.5), Metric(LOSS, 2.5)],
            "robustness": [Metric(AGREEMENT, 0.5, "clean"), Metric(AGREEMENT, 0.25, "typos")],
        }.items()
    ]
    save_plot(Report({}, {"wikitext2": "n", "robustness": "n"}, results), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    first, second = figures[0].axes
    assert [bar.get_width() for bar in first.patches] == [12.5] * 3
    assert [tick.get_text() for tick in first.get_yticklabels()] == [
        "m fp32",
        "m w4a8kv4",
        "m w4a4",
    ]
    assert [bar.get_width() for bar in second.patches] == [0.5] * 3 + [0.25] * 3
