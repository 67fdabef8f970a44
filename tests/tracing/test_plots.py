"""Figures: what a click means, what the scale does with negative effects, exact sizes, equal bytes, safe text."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pypdf
import pytest

from tests.tracing.made import heads_result, made_result, three_samples
from tracing.average import AverageEffects
from tracing.config import TraceConfig
from tracing.plots.colours import BELOW_ZERO
from tracing.plots.labels import colour_range, layer_ticks, token_label
from tracing.plots.maps import average_chart, heatmap_html, trace_heatmap
from tracing.plots.paper import average_figure, figure_bytes, trace_figure
from tracing.plots.sheet import export
from tracing.types import TraceResult


def negative() -> TraceResult:
    restored = made_result().restored.copy()
    restored[:, 1, 0] = 0.0
    return made_result(restored=restored, clean=0.9)


def test_tokens_are_rows_and_layers_columns() -> None:
    result = made_result()
    heat, clicks = trace_heatmap(result).data
    np.testing.assert_allclose(heat.z, result.indirect_effect)
    axis = trace_heatmap(result).layout.yaxis
    assert list(axis.ticktext) == ["The", "␣Space*", "␣Needle*", "␣is"]
    assert list(axis.tickvals) == [0, 1, 2, 3]
    assert axis.range[0] > axis.range[1]  # the first token on top
    assert trace_heatmap(result).layout.xaxis.title.text == "Layer"
    assert len(clicks.x) == 12


def test_a_clicks_index_gives_the_layer() -> None:
    result = made_result()
    figure = trace_heatmap(result)
    clicks = figure.data[1]
    for index in range(12):
        assert (clicks.y[index], clicks.x[index]) == divmod(index, result.n_layers)
        assert clicks.customdata[index][0] == index % result.n_layers
    assert clicks.marker.opacity == clicks.selected.marker.opacity == clicks.unselected.marker.opacity == 0
    assert figure.layout.hoverdistance == -1
    assert figure.layout.xaxis.fixedrange
    assert figure.layout.yaxis.fixedrange


def test_cells_that_may_be_zero_are_dotted_on_screen_and_in_print() -> None:
    result = three_samples()
    marked = result.uncertain()
    assert marked.any()
    assert not marked.all()
    heat = trace_heatmap(result).data[0]
    np.testing.assert_array_equal(np.array(heat.text) == "·", marked)
    assert "dot: not significant<br>(95 % CI includes 0)" in heat.colorbar.title.text
    axes, bar = trace_figure(result).axes
    (dots,) = [one for one in axes.collections if one.get_offsets().shape[0] == marked.sum()]
    assert {(int(y), int(x)) for x, y in dots.get_offsets()} == {
        (int(row), int(layer)) for row, layer in zip(*np.nonzero(marked), strict=True)
    }
    assert "dot: not significant (95 % CI includes 0)" in bar.get_ylabel()
    one = made_result(config=TraceConfig(samples=1), corrupted=result.corrupted[:1], restored=result.restored[:1])
    plain = trace_heatmap(one).data[0]
    assert not any(text for row in plain.text for text in row)
    assert "dot:" not in plain.colorbar.title.text
    assert "dot:" not in trace_figure(one).axes[1].get_ylabel()


def test_hover_text_has_what_the_table_has() -> None:
    result = three_samples()
    cell = trace_heatmap(result).data[1].customdata[2 * 3 + 1]
    low, high = result.ci()
    assert list(cell) == [1, "␣Needle*", "0.5000", "0.7000", f"{low[2, 1]:.4f}", f"{high[2, 1]:.4f}"]


def test_the_scale_is_anchored_at_zero_and_two_sided_only_when_needed() -> None:
    heat = trace_heatmap(made_result()).data[0]
    assert (heat.zmin, heat.zmax) == (0, pytest.approx(0.7))
    two_sided = trace_heatmap(negative())
    assert two_sided.data[0].zmin == -two_sided.data[0].zmax
    assert f"{BELOW_ZERO}: answer less likely" in two_sided.data[0].colorbar.title.text.replace("<br>", " ")
    assert trace_heatmap(made_result(), zmax=0.9).data[0].zmax == 0.9
    assert colour_range(np.array([[-0.001, 0.5]], dtype=np.float32))[0] == 0
    assert colour_range(np.zeros((2, 2), dtype=np.float32))[1] > 0
    purple, cividis = (trace_heatmap(made_result(), scale="rome", dark=dark).data[0] for dark in (False, True))
    assert purple.colorscale != cividis.colorscale  # white-based scales glare on a dark page


def test_text_from_a_prompt_stays_text() -> None:
    result = made_result(tokens=("<b>", " </script>", " &", "\n"), answer="<i>x</i>")
    figure = trace_heatmap(result)
    assert list(figure.layout.yaxis.ticktext) == ["&lt;b&gt;", "␣&lt;/script&gt;*", "␣&amp;*", "↵"]
    assert "<i>" not in figure.layout.title.text
    assert "</script>" not in re.sub(r"(?s)<script.*?</script>", "", heatmap_html(result))
    assert token_label("") == "∅"
    assert token_label("\x1b[31m") == "·[31m"


def test_out_of_range_is_said() -> None:
    with pytest.raises(ValueError, match="unknown colour scale 'jet'"):
        trace_heatmap(made_result(), scale="jet")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown figure format 'gif'"):
        figure_bytes(made_result(), "gif")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width is 0 inches"):
        trace_figure(made_result(), width_in=0)
    with pytest.raises(ValueError, match=r"no installed font can draw '\U000e0fff'|no installed font"):
        trace_figure(made_result(tokens=("\U00013000", "a", "b", "c")))  # an Egyptian hieroglyph


@pytest.mark.parametrize("width", [3.25, 6.75])
def test_files_have_exactly_the_asked_width(width: float) -> None:
    page = pypdf.PdfReader(io.BytesIO(figure_bytes(made_result(), "pdf", width_in=width))).pages
    assert len(page) == 1
    assert float(page[0].mediabox.width) == pytest.approx(72 * width)
    png = figure_bytes(made_result(), "png", width_in=width)
    assert struct.unpack(">I", png[16:20])[0] == int(300 * width)
    root = ElementTree.fromstring(figure_bytes(made_result(), "svg", width_in=width).decode())
    assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(72 * width)


def test_fonts_are_embedded_and_the_run_is_in_the_metadata() -> None:
    reader = pypdf.PdfReader(io.BytesIO(figure_bytes(made_result(), "pdf")))
    fonts = reader.pages[0]["/Resources"]["/Font"]  # type: ignore[index]
    for font in fonts.values():
        (inner,) = font.get_object()["/DescendantFonts"]
        assert "/FontFile2" in inner.get_object()["/FontDescriptor"].get_object()
    assert reader.metadata is not None
    record = json.loads(reader.metadata["/Subject"])
    assert (record["seed"], record["noise"], record["model"]) == (0, 3.0, "made")
    assert "/CreationDate" not in reader.metadata


@pytest.mark.parametrize("fmt", ["pdf", "svg", "eps", "png"])
def test_the_same_trace_gives_the_same_bytes_in_any_process(fmt: str) -> None:
    script = (
        "import hashlib, sys; sys.path.insert(0, '.');"
        "from tests.tracing.made import made_result; from tracing.plots.paper import figure_bytes;"
        f"print(hashlib.sha256(figure_bytes(made_result(), {fmt!r})).hexdigest(), 'torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    digest = hashlib.sha256(figure_bytes(made_result(), fmt)).hexdigest()  # type: ignore[arg-type]
    assert ran.stdout.split() == [digest, "False"]  # and figures need no torch


def test_the_page_is_self_contained() -> None:
    page = heatmap_html(made_result())
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)
    assert page == heatmap_html(made_result())


def test_layer_ticks_always_have_both_ends() -> None:
    assert layer_ticks(12) == list(range(12))
    for n_layers in (1, 2, 12, 13, 24, 25, 32, 48, 80, 126):
        ticks = layer_ticks(n_layers)
        assert ticks[0] == 0
        assert ticks[-1] == n_layers - 1
        assert len(ticks) <= 13
        assert ticks == sorted(set(ticks))


def made_average() -> AverageEffects:
    grid = np.full((3, 6, 4), 0.1, dtype=np.float32)
    grid[:, 2, 0] = [0.4, 0.5, 0.6]
    grid[:, 1] = np.nan
    return AverageEffects(
        configs=(TraceConfig(), TraceConfig(site="mlp_out")),
        model_name="made",
        revision="0",
        noise_std=0.1,
        noise_source="a test",
        prompts=("a", "b", "c"),
        unknown=(),
        unaligned=(),
        clean=np.full(3, 0.8, dtype=np.float32),
        corrupted=np.full(3, 0.2, dtype=np.float32),
        effects={"resid_post": grid, "resid_post, mlp_out severed": grid / 2},
    )


def test_averages_are_drawn_on_one_scale() -> None:
    figure = average_figure(made_average())
    meshes = [axes.collections[0] for axes in figure.axes if axes.get_xlabel() == "layer"]
    assert len(meshes) == 2
    assert {mesh.get_clim() for mesh in meshes} == {(0.0, 0.5)}
    assert export(figure, "png") == export(average_figure(made_average()), "png")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["residual stream", "residual stream,\nMLP output severed"]


def test_the_distribution_is_drawn_around_the_mean() -> None:
    figure = average_chart(made_average(), "last_subject")
    shown = {line.name: list(line.y) for line in figure.data if line.name}
    assert shown["residual stream"] == pytest.approx([0.5, 0.1, 0.1, 0.1])
    assert shown["residual stream, MLP output severed"][0] == pytest.approx(0.25)
    band, lower, upper = figure.data[:3]
    assert band.y[0] > 0.6  # three facts say little
    assert (lower.y[0], upper.y[0]) == (pytest.approx(0.45), pytest.approx(0.55))
    heads = AverageEffects(**{**vars(made_average()), "effects": {"attn_heads": np.zeros((3, 6, 4, 2), np.float32)}})
    for draw in (average_chart, average_figure):
        with pytest.raises(ValueError, match="holds heads alone"):
            draw(heads)


def test_what_is_measured_is_on_the_labels() -> None:
    config = TraceConfig(samples=2, direction="noising", severed="attn_out")
    noised = made_result(config=config, measure="log_probability")
    figure = trace_heatmap(noised)
    assert figure.layout.title.text == (
        "Effect of corrupting the residual stream, attention output severed, on log p(Seattle)"
    )
    assert "(nats)" in figure.data[0].colorbar.title.text
    assert "nats corrupted" in figure.data[1].hovertemplate
    with pytest.raises(ValueError, match="a trace of heads has a map for each position"):
        trace_figure(heads_result())
