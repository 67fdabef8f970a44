"""Figures for papers: vectors and embedded fonts only, equal bytes, panels on one scale, differences, colours that a
print without colour and a colour-blind reader keep apart, and the zip around them."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from typing import Any, get_args

import matplotlib as mpl
import numpy as np
import pandas as pd
import pypdf
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.font_manager import fontManager

from app.session.run import TraceRun
from tests.tracing.made import made_result, three_samples
from tests.tracing.test_plots import made_average
from tracing.config import TraceConfig
from tracing.plots.bundle import average_bundle, trace_bundle, trace_caption
from tracing.plots.colours import Palette, print_scale
from tracing.plots.paper import FigureStyle, difference, difference_figure, figure_bytes, panels_figure, trace_figure
from tracing.plots.sheet import CJK_FONTS, FigureFormat, export
from tracing.types import TraceResult


def three_maps() -> list[TraceResult]:
    """States, MLP and attention of one prompt; the latter two have half and a tenth of the effects."""
    states = three_samples()
    base = states.corrupted[:, None, None]
    sites: dict[Any, float] = {"resid_post": 1.0, "mlp_out": 0.5, "attn_out": 0.1}
    return [
        replace(
            states,
            config=TraceConfig(site=site, samples=3, window=1 if site == "resid_post" else 2),
            restored=(base + share * (states.restored - base)).astype(np.float32),
        )
        for site, share in sites.items()
    ]


def meshes(axes: Axes) -> list[QuadMesh]:
    return [each for each in axes.collections if isinstance(each, QuadMesh)]


def test_three_panels_share_one_scale_and_are_named_as_in_a_caption() -> None:
    figure = panels_figure(three_maps(), style=FigureStyle(model_name="GPT-2 XL", title="The needle"))
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [
        "(a) residual stream",
        "(b) MLP output, window of 2",
        "(c) attention output, window of 2",
    ]
    for axes, result in zip(panels, three_maps(), strict=True):
        assert meshes(axes)[0].get_clim() == (0.0, pytest.approx(0.7))
        np.testing.assert_allclose(np.asarray(meshes(axes)[0].get_array()), result.indirect_effect)
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["The", "␣Space*", "␣Needle*", "␣is"]
    assert panels[1].get_yticklabels() == []
    assert figure.get_supxlabel() == "layer in GPT-2 XL; dot: not significant (95 % CI includes 0)"
    assert figure.get_suptitle() == "The needle"
    column = panels_figure(three_maps(), width_in=3.25, style=FigureStyle(marks="none"))
    assert figure.get_size_inches()[0] == 6.75
    lefts = {round(axes.get_position().x0, 6) for axes in column.axes if axes.get_title()}
    assert len(lefts) == 1, "panels of a column stand one above the other"
    assert not any(isinstance(each, PathCollection) for axes in column.axes for each in axes.collections)


def test_maps_of_different_questions_are_not_put_into_one_figure() -> None:
    states, mlp, _ = three_maps()
    with pytest.raises(ValueError, match="the maps have different noise, so one figure would mislead"):
        panels_figure([states, replace(mlp, config=replace(mlp.config, seed=1))])
    with pytest.raises(ValueError, match="different models"):
        panels_figure([states, replace(mlp, revision="other")])
    with pytest.raises(ValueError, match="there is no map to draw"):
        panels_figure([])
    with pytest.raises(ValueError, match=r"different sites \('resid_post' and 'mlp_out'\)"):
        difference_figure(states, mlp)
    with pytest.raises(ValueError, match="unknown palette 'jet'; choose from rome, cividis, grey"):
        FigureStyle(palette="jet")  # type: ignore[arg-type]


def test_a_difference_is_second_minus_first_with_a_paired_interval() -> None:
    first = three_samples()
    shift = np.zeros_like(first.restored)
    shift[:, 2, 1] = -0.25  # the same in every sample: certain
    shift[:, 0, 0] = [-0.1, 0.1, 0.0]  # 0 on average: uncertain
    second = replace(first, restored=first.restored + shift)
    change, uncertain = difference(first, second)
    np.testing.assert_allclose(change, shift.mean(axis=0), atol=1e-6)
    assert not uncertain[2, 1]
    assert uncertain[0, 0]
    titles = [axes.get_title() for axes in difference_figure(first, second, names=("before", "after")).axes[:3]]
    assert titles == ["(a) before", "(b) after", "(c) after − before"]
    windowed = [replace(each, config=replace(each.config, site="mlp_out", window=2)) for each in (first, second)]
    figure = difference_figure(windowed[0], replace(windowed[1], answer=" Rome"), names=("before", "after"))
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert titles == ["(a) before: p(Seattle)", "(b) after: p(Rome)", "(c) after − before"]
    assert not any("Seattle" in axes.get_ylabel() for axes in figure.axes), "the difference is of neither answer"
    assert figure.get_supxlabel().startswith("centre of 2 layers of restored MLP output in ")
    other_noise = replace(second, config=replace(second.config, seed=7))
    assert not difference(first, other_noise)[1].any(), "without the same noise there are no pairs"


def test_cells_below_zero_keep_a_dash_where_colour_is_lost() -> None:
    restored = made_result().restored.copy()
    restored[:, 1, 0] = 0.0  # effect -0.2
    axes = trace_figure(made_result(restored=restored)).axes[0]
    (dashes,) = [each for each in axes.collections if isinstance(each, PathCollection)]
    assert np.asarray(dashes.get_offsets()).tolist() == [[0.5, 1.5]]


MACHADO = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB."""


def lightness(colours: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[n], CIE L* of linear RGB [n, 3]."""
    y = np.clip(colours @ [0.2126, 0.7152, 0.0722], 0, 1)
    return np.asarray(np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y))


@pytest.mark.parametrize("palette", get_args(Palette))
def test_palettes_order_effects_for_every_eye_and_in_grey(palette: Palette) -> None:
    for site in ("resid_post", "mlp_out", "attn_out", "attn_heads"):
        srgb = mpl.colormaps[print_scale(site, palette, two_sided=False)](np.linspace(0, 1, 64))[:, :3]
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        for seen in (np.eye(3), *map(np.array, MACHADO.values())):
            steps = np.diff(lightness(linear @ seen.T))
            assert (steps < 0.35).all() or (steps > -0.35).all()  # L* moves one way, but for rounding
            assert abs(steps.sum()) > 50


@pytest.mark.parametrize("fmt", get_args(FigureFormat))
def test_panels_are_vectors_with_embedded_fonts_and_equal_bytes(fmt: FigureFormat) -> None:
    written = figure_bytes(three_maps(), fmt)
    assert written == figure_bytes(three_maps(), fmt)
    if fmt == "pdf":
        (page,) = pypdf.PdfReader(io.BytesIO(written)).pages
        resources: Any = page["/Resources"]
        fonts = [font.get_object() for font in resources["/Font"].values()]
        assert fonts
        for font in fonts:
            inner = font["/DescendantFonts"][0].get_object()
            assert "/FontFile2" in inner["/FontDescriptor"].get_object()
        kinds = {each.get_object()["/Subtype"] for each in resources.get("/XObject", {}).values()}
        assert kinds <= {"/Form"}, "a colour bar is a picture unless it is told not to be"
    elif fmt == "svg":
        assert b"<image" not in written
        assert b"dc:date" not in written
    elif fmt == "eps":
        assert written.startswith(b"%!PS-Adobe-3.0 EPSF-3.0")
        assert b"CreationDate" not in written
        assert b"/FontType 42" in written
        assert b"colorimage" not in written.partition(b"%%EndProlog")[2]


def test_chinese_is_embedded_or_refused_in_a_sentence() -> None:
    chinese = made_result(tokens=("法国", "的", "首都", "是"), answer="巴黎")
    if set(CJK_FONTS) & {font.name for font in fontManager.ttflist}:
        reader = pypdf.PdfReader(io.BytesIO(export(trace_figure(chinese), "pdf")))
        fonts: Any = reader.pages[0]["/Resources"]
        assert any(font.get_object()["/Subtype"] == "/Type3" for font in fonts["/Font"].values())
    else:
        with pytest.raises(ValueError, match=r"no installed font can draw '.*法.*'; install Noto Sans CJK"):
            trace_figure(chinese)


def test_the_zip_holds_what_a_paper_needs_and_is_the_same_again() -> None:
    style = FigureStyle(model_name="GPT-2 & kin")
    packed = trace_bundle(three_maps(), style=style)
    assert packed == trace_bundle(three_maps(), style=style)
    archive = zipfile.ZipFile(io.BytesIO(packed))
    figures = {f"figure.{fmt}" for fmt in get_args(FigureFormat)}
    runs = {"run-state.json", "run-mlp.json", "run-attn.json"}
    assert set(archive.namelist()) == figures | runs | {"figure.tex", "references.bib", "values.csv"}
    tex = archive.read("figure.tex").decode()
    assert r"\includegraphics[width=6.75in]{figure.pdf}" in tex
    for words in ("$n = 3$ samples, seed 0", r"$\sigma = 0.15$", r"GPT-2 \& kin", "0123456789ab", "0.900 clean, 0.200"):
        assert words in tex
    bibliography = archive.read("references.bib").decode()
    assert all(f"{{{key}," in bibliography for key in ("meng2022locating", "engram"))
    table = pd.read_csv(io.BytesIO(archive.read("values.csv")))
    assert table.groupby("site")["effect"].max().to_dict() == pytest.approx(
        {"resid_post": 0.7, "mlp_out": 0.35, "attn_out": 0.07}
    )
    for name in runs:  # opens on the page Runs
        TraceRun.model_validate_json(archive.read(name))
    plain = zipfile.ZipFile(io.BytesIO(average_bundle(made_average())))
    assert "$n = 3$ facts" in plain.read("figure.tex").decode()
    assert json.loads(plain.read("run.json"))["n_facts"] == 3


def test_a_caption_escapes_what_latex_reads_as_commands() -> None:
    caption = trace_caption([made_result(prompt=r"50% of {x} cost $5 \now_ # & ~ ^")])
    assert r"50\% of \{x\} cost \$5 \textbackslash{}now\_ \# \& \textasciitilde{} \textasciicircum{}" in caption
