"""Configs refuse nonsense; results give hand-worked numbers and come back from disk as they were."""

from __future__ import annotations

import json
from dataclasses import Field, fields
from pathlib import Path

import numpy as np
import pytest

from tests.tracing.made import made_result, three_samples
from tracing.config import TraceConfig
from tracing.measures import Readings
from tracing.statistics import interval, nan_mean, t_quantile
from tracing.types import TraceResult


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"site": "mlp"}, "unknown site 'mlp'; choose from resid_post, mlp_out, attn_out"),
        ({"window": 0}, "window is 0; expected a whole number from 1"),
        ({"window": 2.0}, "window is 2.0"),
        ({"window_centre": "code"}, "unknown window centre 'code'; choose from paper, rome-code"),
        ({"noise": -1.0}, "noise is -1.0; expected standard deviations, 0 or more"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"samples": 0}, "samples is 0; expected a whole number from 1 to 1000"),
        ({"samples": True}, "samples is True"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"corruption": "noise"}, "unknown corruption 'noise'; choose from gaussian, gaussian_fixed, uniform"),
        ({"direction": "up"}, "unknown direction 'up'; choose from denoising, noising"),
        ({"severed": "resid_post"}, "unknown severed module 'resid_post'; choose from mlp_out, attn_out"),
        ({"corruption": "token"}, "replacing tokens needs another subject"),
        ({"counterfactual": "Big Ben"}, "corruption is 'gaussian' and counterfactual 'Big Ben'"),
    ],
)
def test_settings_are_checked(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TraceConfig(**setting)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", fields(TraceConfig), ids=lambda field: field.name)
@pytest.mark.parametrize(
    "value", [10**9, pytest.param(10**400, id="huge"), -1, 2.5, True, None, b"x", ["x"], {"x": 1}, np.ones(2), object()]
)
def test_every_field_is_checked_by_type(field: Field[object], value: object) -> None:
    """A value of a type the field does not have is refused in a sentence that names the field."""
    taken = {
        "noise": (int, float),
        "additive": bool,
        "window": int,
        "samples": int,
        "seed": int,
        "batch_size": (int, type(None)),
        "severed": type(None),
    }.get(field.name, str)
    right = isinstance(value, taken) and not (isinstance(value, bool) and taken is not bool)
    if right and value != 10**400:
        return  # the range is another test's
    with pytest.raises(ValueError, match=r"^[^\n]+; (choose|expected)") as refused:
        TraceConfig(**{field.name: value})  # type: ignore[arg-type]
    assert {"window_centre": "window centre", "severed": "severed module"}.get(field.name, field.name) in str(
        refused.value
    )


def test_a_corruption_without_a_draw_has_one_sample() -> None:
    assert TraceConfig(samples=7).n_samples == 7
    assert TraceConfig(samples=7, corruption="zero").n_samples == 1
    assert TraceConfig(samples=7, corruption="token", counterfactual="Big Ben").n_samples == 1


def test_windows_of_the_paper_and_of_its_code() -> None:
    paper = TraceConfig(site="mlp_out", window=10)
    code = TraceConfig(site="mlp_out", window=10, window_centre="rome-code")
    assert paper.layers_of(20, 48) == range(16, 26)  # l-4 .. l+5
    assert code.layers_of(20, 48) == range(15, 25)  # l-5 .. l+4
    assert paper.layers_of(0, 48) == range(0, 6)
    assert code.layers_of(0, 48) == range(0, 5)
    assert paper.layers_of(47, 48) == range(43, 48)
    assert code.layers_of(47, 48) == range(42, 48)
    for centre in ("paper", "rome-code"):
        odd = TraceConfig(window=3, window_centre=centre)  # type: ignore[arg-type]
        assert odd.layers_of(5, 12) == range(4, 7)
        assert TraceConfig(window_centre=centre).layers_of(5, 12) == range(5, 6)  # type: ignore[arg-type]


def test_effects_by_hand() -> None:
    result = made_result()
    assert result.n_layers == 3
    assert result.total_effect == pytest.approx(0.9 - 0.2)
    np.testing.assert_allclose(result.mean[2], [0.4, 0.7, 0.6], atol=1e-7)
    np.testing.assert_allclose(result.indirect_effect[2], [0.2, 0.5, 0.4], atol=1e-7)
    np.testing.assert_allclose(result.sd[2], [0.2 / np.sqrt(2), 0, 0.2 / np.sqrt(2)], atol=1e-7)
    assert (result.indirect_effect[0] == 0).all()


def test_the_peak_is_taken_at_the_last_subject_token() -> None:
    result = made_result()
    assert result.peak() == (2, 1)
    assert result.peak(3) == (3, 2)  # larger over the whole grid, and trivial
    assert float(result.indirect_effect[3, 2]) > float(result.indirect_effect[2, 1])
    with pytest.raises(ValueError, match="position 4 is outside the prompt's 4 tokens"):
        result.peak(4)


def test_the_interval_is_paired() -> None:
    low, high = three_samples().ci()
    # layer 0: all samples' effects are 0.2, so nothing is uncertain, though the probabilities differ
    np.testing.assert_allclose([low[2, 0], high[2, 0]], [0.2, 0.2], atol=1e-6)
    # layer 1: effects 0.6, 0.4 and 0.5; half width t(2) * sd / sqrt(3) = 4.30265 * 0.1 / 1.732051
    np.testing.assert_allclose([low[2, 1], high[2, 1]], [0.5 - 0.248414, 0.5 + 0.248414], atol=1e-4)


def test_two_samples_have_no_interval() -> None:
    """It would be 12.7 standard errors to each side."""
    low, high = made_result().ci()
    assert np.isnan(low).all()
    assert np.isnan(high).all()
    assert not made_result().uncertain().any()


def test_one_sample_has_no_interval() -> None:
    one = made_result(
        config=TraceConfig(samples=1),
        corrupted=np.array([0.1], dtype=np.float32),
        restored=np.full((1, 4, 3), 0.2, dtype=np.float32),
    )
    assert np.isnan(one.ci()[0]).all()
    assert (one.sd == 0).all()
    assert json.loads(one.to_json())["effect_low"][0][0] is None


def test_negative_effects_are_kept() -> None:
    restored = made_result().restored.copy()
    restored[:, 2, 0] = 0.0
    assert made_result(restored=restored).indirect_effect[2, 0] == pytest.approx(-0.2)


def test_the_fraction_restored_by_hand() -> None:
    result = made_result()
    fraction = result.by("fraction_restored")
    assert (fraction.measure, fraction.clean, fraction.total_effect) == ("fraction_restored", 1.0, pytest.approx(1.0))
    np.testing.assert_allclose(fraction.indirect_effect[2], [2 / 7, 5 / 7, 4 / 7], atol=1e-6)
    # a scale, not another run: the interval is the probability's over the total effect of 0.7
    np.testing.assert_allclose(fraction.ci()[1][2], result.ci()[1][2] / 0.7, rtol=1e-5)
    assert fraction.by("probability").to_dict() == result.to_dict()
    assert "fraction_restored" in fraction.to_frame().columns
    noised = made_result(config=TraceConfig(samples=2, direction="noising"))
    np.testing.assert_allclose(
        noised.by("fraction_restored").indirect_effect, noised.indirect_effect / noised.total_effect, atol=1e-6
    )
    with pytest.raises(ValueError, match="so there is no fraction of it to restore; corrupt more"):
        made_result(clean=0.2, corrupted=np.full(2, 0.2, dtype=np.float32)).by("fraction_restored")


def test_cells_whose_interval_holds_zero() -> None:
    result = three_samples()
    np.testing.assert_array_equal(result.uncertain()[2], [False, False, False])
    assert result.uncertain()[0].all()  # exactly 0
    wide = result.restored.copy()
    wide[:, 2, 1] = result.corrupted + np.array([1.0, -0.5, 0.1])  # mean 0.2, half width 1.87
    uncertain = made_result(config=TraceConfig(samples=3), corrupted=result.corrupted, restored=wide).uncertain()
    np.testing.assert_array_equal(uncertain[2], [False, True, False])
    config, low = TraceConfig(samples=1), np.array([0.1], dtype=np.float32)
    one = made_result(config=config, corrupted=low, restored=np.full((1, 4, 3), 0.1, dtype=np.float32))
    assert not one.uncertain().any()


def test_the_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"expected \[sample, pos, layer\] = \(3, 4, 3\)"):
        made_result(config=TraceConfig(samples=3))


def test_the_table_has_a_row_per_cell() -> None:
    result = made_result()
    frame = result.to_frame()
    assert len(frame) == 12
    row = frame.iloc[2 * 3 + 1]  # row-major over (token, layer)
    assert (row["position"], row["token"], row["layer"], row["in_subject"]) == (2, " Needle", 1, True)
    assert row["effect"] == pytest.approx(0.5)
    assert row["p_restored"] == pytest.approx(0.7)
    partial = result.restored.copy()
    partial[:, 0] = np.nan
    assert len(made_result(restored=partial).to_frame()) == 9


def test_a_saved_trace_comes_back(tmp_path: Path) -> None:
    result = made_result(prompt="東京は ␣ é", tokens=("東", "京", " é", "\n"))
    path = tmp_path / "trace.npz"
    result.save(path)
    loaded = TraceResult.load(path)
    np.testing.assert_array_equal(loaded.restored, result.restored)
    np.testing.assert_array_equal(loaded.corrupted, result.corrupted)
    assert loaded.to_dict() == result.to_dict()
    assert loaded.config == result.config
    with np.load(path, allow_pickle=False) as file:  # nothing in it needs a pickle
        assert set(file.files) == {"header", "corrupted", "restored"}


def test_files_that_are_no_traces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        TraceResult.load(tmp_path / "absent.npz")
    for name, content in (("text.npz", b"hello"), ("empty.npz", b""), ("zip.npz", b"PK\x03\x04broken")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="is not a saved"):
            TraceResult.load(tmp_path / name)
    np.savez(tmp_path / "other.npz", numbers=np.arange(3))
    with pytest.raises(ValueError, match="is not a saved"):
        TraceResult.load(tmp_path / "other.npz")


def test_the_run_record_is_json() -> None:
    record = json.loads(made_result().to_json())
    assert record["suggested"] is None
    assert record["suggested_reason"].startswith("Two runs are too few for an interval, so no layer is suggested;")
    assert (record["p_clean"], record["p_corrupted"]) == (pytest.approx(0.9), pytest.approx(0.2))
    largest = record["largest"]
    assert (largest["token"], largest["position"], largest["layer"]) == (" Needle", 2, 1)
    assert record["last_subject"] == largest | {
        "low": None,
        "high": None,
        "compared": 3,
    }
    assert largest["compared"] == 6  # two tokens of the subject by three layers
    assert record["config"]["noise"] == 3.0
    assert record["noise_std"] == 0.15
    assert record["total_effect"] == pytest.approx(0.7)
    assert len(record["effect"]) == 4


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (9, 2.26216), (10, 2.22814), (199, 1.97196)]
)
def test_students_t(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=1e-4)


def test_an_interval_leaves_out_what_is_missing() -> None:
    low, high = interval(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, np.nan], [np.nan, np.nan]]))
    half = 4.30265 / 3**0.5  # t(2) times a standard error of 1 / sqrt(3)
    assert (low[0], high[0]) == pytest.approx((2 - half, 2 + half), abs=1e-3)
    assert np.isnan(low[1]), "of two values there is none"
    np.testing.assert_array_equal(nan_mean(np.array([[1.0, np.nan], [3.0, np.nan]])), [2.0, np.nan])
    with pytest.raises(ValueError, match="degrees of freedom is 0"):
        t_quantile(0)


def test_other_measures_are_the_same_trace(tmp_path: Path) -> None:
    base = made_result()
    ranks = Readings(1.0, np.array([5, 9], dtype=np.float32), np.full((2, 4, 3), 3.0, dtype=np.float32))
    result = made_result(others={"rank": ranks})
    rank = result.by("rank")
    assert (rank.measure, rank.clean, rank.total_effect) == ("rank", 1.0, -6.0)
    np.testing.assert_allclose(rank.indirect_effect, -4.0)  # 3 against a mean of 7
    assert rank.by("fraction_restored").by("rank").to_dict() == rank.to_dict()
    assert "rank" in rank.to_frame().columns
    back = rank.by("probability")
    assert back.to_dict() == result.to_dict()
    assert base.by("probability") is base
    with pytest.raises(ValueError, match=r"no measure 'kl'; it has probability, rank"):
        result.by("kl")
    with pytest.raises(ValueError, match=r"'logit_difference'; it has probability; name another answer"):
        base.by("logit_difference")
    rank.save(tmp_path / "rank.npz")
    loaded = TraceResult.load(tmp_path / "rank.npz")
    assert loaded.to_dict() == rank.to_dict()
    np.testing.assert_array_equal(loaded.by("probability").restored, result.restored)


def test_a_file_of_the_first_version_opens(tmp_path: Path) -> None:
    result = made_result()
    header = {
        name: value
        for name, value in result._header().items()
        if name not in ("corruption", "against", "measure", "others")
    }
    config = {name: header["config"][name] for name in ("site", "window", "window_centre", "noise", "samples", "seed")}
    header |= {"format": "engram-trace-1", "config": config | {"batch_size": 64}}
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(tmp_path / "old.npz", header=text, corrupted=result.corrupted, restored=result.restored)
    loaded = TraceResult.load(tmp_path / "old.npz")
    np.testing.assert_array_equal(loaded.indirect_effect, result.indirect_effect)
    header["format"] = "engram-trace-9"
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(tmp_path / "new.npz", header=text, corrupted=result.corrupted, restored=result.restored)
    with pytest.raises(ValueError, match="is not a saved trace"):
        TraceResult.load(tmp_path / "new.npz")


def test_effects_of_noising_are_what_it_takes_away() -> None:
    result = made_result(config=TraceConfig(samples=2, direction="noising"))
    np.testing.assert_allclose(result.indirect_effect[2], [0.9 - 0.4, 0.9 - 0.7, 0.9 - 0.6], atol=1e-6)
    assert result.total_effect == pytest.approx(0.7)


def test_a_trace_of_heads_has_one_axis_more() -> None:
    restored = np.full((2, 4, 3, 2), 0.2, dtype=np.float32)
    restored[:, 2, 1, 1] = 0.8
    result = made_result(config=TraceConfig(samples=2, site="attn_heads"), restored=restored)
    assert result.n_layers == 3
    assert result.peak() == (2, 1)
    assert result.indirect_effect.shape == result.ci()[0].shape == result.sd.shape == (4, 3, 2)
    frame = result.to_frame()
    assert len(frame) == 24
    row = frame.iloc[(2 * 3 + 1) * 2 + 1]
    assert (row["position"], row["layer"], row["head"]) == (2, 1, 1)
    assert row["effect"] == pytest.approx(0.6)
    assert len(json.loads(result.to_json())["effect"][0][0]) == 2
    with pytest.raises(ValueError, match=r"expected \[sample, pos, layer\] = "):
        made_result(restored=restored)
