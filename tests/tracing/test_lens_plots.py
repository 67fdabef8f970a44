"""Figures of every lens, from hand-made results: what is drawn, on which scale, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest

from tests.tracing.made import heads_result, made_result
from tracing.config import TraceConfig
from tracing.lenses.attribution import AttributionResult
from tracing.lenses.knockout import KnockoutResult
from tracing.lenses.logit import LensResult
from tracing.lenses.paths import Node, PathResult
from tracing.plots import lenses as plots
from tracing.plots.sheet import export, page

PROMPT = "The Space Needle is"
TOKENS = ("The", " Space", " Needle", " is")
SHARED = {"model_name": "made", "revision": "0", "prompt": PROMPT, "tokens": TOKENS, "subject_span": (1, 3)}


def made_lens() -> LensResult:
    log_prob = np.log(np.linspace(0.1, 0.9, 24, dtype=np.float32).reshape(2, 4, 3))
    return LensResult(
        lens="logit",
        words=("Seattle", "Rome"),
        word_ids=(7, 8),
        top_words=((((" <b>", "x"),) * 3,) * 4),
        log_prob=log_prob,
        rank=np.ones((2, 4, 3), dtype=np.int32),
        top_prob=np.full((4, 3, 2), 0.25, dtype=np.float32),
        **SHARED,  # type: ignore[arg-type]
    )


def made_knockout() -> KnockoutResult:
    log_prob = np.log(np.array([[0.4, 0.1, 0.4], [0.4, 0.4, 0.8]], dtype=np.float32))
    edges = ("last <- subject", "last <- last")
    return KnockoutResult(
        answer="Seattle", answer_ids=(7,), window=2, edges=edges, clean=0.4, log_prob=log_prob, **SHARED
    )  # type: ignore[arg-type]


def made_attribution(heads: int = 0) -> AttributionResult:
    estimates = np.zeros((2, 4, 3, heads) if heads else (2, 4, 3), dtype=np.float32)
    estimates[:, 3, 1] = -2.0
    return AttributionResult(
        config=TraceConfig(site="attn_heads" if heads else "mlp_out"),
        answer="Seattle",
        noise_source="a test",
        clean_log_prob=-0.1,
        corrupted_log_prob=np.array([-2.0, -3.0], dtype=np.float32),
        estimates=estimates,
        **SHARED,  # type: ignore[arg-type]
    )


def made_paths() -> PathResult:
    return PathResult(
        config=TraceConfig(),
        through="nothing",
        answer="Seattle",
        noise_source="a test",
        sender=Node("mlp_out", 0, 2),
        receivers=(Node("attn_out", 1, 3),),
        clean=0.9,
        base=np.array([0.1, 0.3], dtype=np.float32),
        patched=np.array([[0.4, 0.5]], dtype=np.float32),
        direct=np.array([0.1, 0.3], dtype=np.float32),
        **SHARED,  # type: ignore[arg-type]
    )


def test_a_lens_is_coloured_by_the_word_and_labelled_by_its_choices() -> None:
    result = made_lens()
    (heat,) = plots.lens_chart(result, word=1).data
    np.testing.assert_allclose(heat.z, result.probability(1))
    assert (heat.zmin, heat.zmax) == (0.0, 1.0)
    assert heat.text[0][0] == "␣&lt;b&gt;"
    assert heat.customdata[0][0] == "␣&lt;b&gt; 0.250<br>x 0.250"
    (heat,) = plots.lens_chart(result, show="difference").data
    assert heat.zmin == -heat.zmax
    assert heat.colorbar.title.text == "log p(Seattle) - log p(Rome)"
    figure = plots.lens_figure(result)
    assert figure.axes[0].collections[0].get_array().size == 12
    assert figure.axes[1].get_ylabel() == "logit lens, p(Seattle)"


def test_knockout_is_a_line_an_edge_set_in_per_cent() -> None:
    figure = plots.knockout_chart(made_knockout())
    assert [line.name for line in figure.data] == ["last &lt;- subject", "last &lt;- last"]
    np.testing.assert_allclose(figure.data[0].y, [0, -75, 0], atol=1e-4)
    np.testing.assert_allclose(figure.data[1].y, [0, 0, 100], atol=1e-4)
    assert figure.layout.xaxis.title.text == "centre of 2 layers"
    lines = plots.knockout_figure(made_knockout()).axes[0].get_lines()
    np.testing.assert_allclose(lines[0].get_ydata(), [0, -75, 0], atol=1e-4)


def test_an_estimate_is_called_one() -> None:
    result = made_attribution()
    chart = plots.attribution_chart(result)
    assert "Estimate, not exact" in chart.layout.title.text
    assert chart.data[0].zmin == -2.0
    assert "estimated" in plots.attribution_figure(result).axes[1].get_ylabel()
    with pytest.raises(ValueError, match="draw it with heads_chart"):
        plots.attribution_chart(made_attribution(heads=2))


def test_heads_of_traces_and_of_estimates() -> None:
    traced, estimated = plots.heads_chart(heads_result()), plots.heads_chart(made_attribution(heads=2))
    np.testing.assert_allclose(traced.data[0].z[2], [0.0, 0.5, 0.0], atol=1e-7)
    np.testing.assert_allclose(estimated.data[0].z[1], [0.0, -2.0, 0.0])
    assert "estimated" in estimated.data[0].colorbar.title.text
    assert "estimated" not in traced.data[0].colorbar.title.text
    assert plots.heads_figure(heads_result(), 3).axes[0].get_ylabel() == "head"
    with pytest.raises(ValueError, match="which has no heads"):
        plots.heads_chart(made_result())
    with pytest.raises(ValueError, match="position 9 is outside"):
        plots.heads_chart(heads_result(), 9)


def test_paths_are_bars_with_intervals() -> None:
    base = np.array([0.1, 0.3, 0.2], dtype=np.float32)
    result = replace(made_paths(), base=base, patched=base + np.float32([[0.3, 0.2, 0.25]]), direct=base)
    (bars,) = plots.paths_chart(result).data
    assert list(bars.x) == ["attn_out 1 @ 3", "logits"]
    np.testing.assert_allclose(bars.y, [0.25, 0.0], atol=1e-7)
    assert bars.error_y.array[0] == pytest.approx(4.30265 * 0.05 / 3**0.5, rel=1e-3)  # t of two degrees, sd / sqrt(3)
    assert [bar.get_height() for bar in plots.paths_figure(result).axes[0].patches] == pytest.approx([0.25, 0.0])
    turned = replace(result, config=TraceConfig(direction="noising"))
    np.testing.assert_allclose(plots.paths_chart(turned).data[0].y, [-0.25, 0.0], atol=1e-7)


def test_every_figure_can_be_printed_and_put_on_a_page() -> None:
    figures = [
        plots.lens_figure(made_lens()),
        plots.knockout_figure(made_knockout()),
        plots.attribution_figure(made_attribution()),
        plots.heads_figure(heads_result()),
        plots.paths_figure(made_paths()),
    ]
    for figure in figures:
        assert export(figure, "png").startswith(b"\x89PNG")
    charts: list[go.Figure] = [plots.lens_chart(made_lens()), plots.knockout_chart(made_knockout())]
    for chart in charts:
        assert page(chart).startswith("<!doctype html>")
