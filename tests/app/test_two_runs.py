"""Runs in a table, two of them against each other, and what may not be compared."""

import csv
import io
import zipfile

import pytest

from app.runs import two_runs
from app.runs.files import zipped
from metrics.definitions import METRICS
from tests.app.test_saved import saved_edit, saved_trace, score_record


def test_a_row_for_each_run_and_a_filter_over_words() -> None:
    trace, edit = saved_trace(), saved_edit()
    rows = two_runs.overview([trace, edit])
    assert rows[0]["largest effect"] == "0.40 at Rome, layer 1"
    assert (rows[1]["change"], rows[1]["Reliability"], rows[1]["Locality"]) == ("Italy → Spain", "75 %", "—")
    assert list(rows[0]) == list(rows[1])
    assert two_runs.matching([trace, edit], "rome r-rome") == [edit]
    assert two_runs.matching([trace, edit], "ROME") == [trace, edit]
    assert two_runs.matching([trace, edit], "", "trace") == [trace]
    assert two_runs.matching([trace, edit], "nowhere") == []


def test_five_numbers_and_their_differences() -> None:
    other = saved_edit(
        scores=[score_record("reliability.greedy", 0.5, before=0.25), score_record("locality.greedy", 1.0, n=8)]
    )
    rows = {row["metric"]: row for row in two_runs.pair_rows(saved_edit(), other)}
    assert list(rows) == [metric.label for metric in METRICS.values()]
    reliability = rows["Reliability"]
    assert (reliability["left"], reliability["right"]) == ("75 % (50 to 100 %)", "50 % (50 to 100 %)")
    assert (reliability["difference"], reliability["before, left"], reliability["before, right"]) == (
        "−25 pt",
        "0 %",
        "25 %",
    )
    assert (rows["Locality"]["difference"], rows["Locality"]["n"]) == ("—", "4 / 8")  # not measured on the left
    assert rows["Efficiency"]["left"] == "—"


def test_protocols_measures_and_kinds_are_not_mixed() -> None:
    trace, edit = saved_trace(), saved_edit()
    assert two_runs.why_not(edit, saved_edit(seed=4)) == ""
    assert "engram and rome" in two_runs.why_not(edit, saved_edit(protocol="rome"))
    other = saved_edit(settings={"max_new_tokens": 4, "distractors": []})
    assert "different settings" in two_runs.why_not(edit, other)
    assert two_runs.why_not(trace, saved_trace(clean=0.8)) == ""
    assert "no common scale" in two_runs.why_not(trace, saved_trace(measure="rank"))
    assert "two of one kind" in two_runs.why_not(trace, edit)


def test_two_traces() -> None:
    other = saved_trace(clean=0.7, effect=[[0.6, 0.4, 0.2], [0.0, None, 0.6]], config={"site": "mlp_out", "window": 1})
    rows = {row["number"]: row for row in two_runs.trace_rows(saved_trace(), other)}
    assert rows["total effect"]["difference"] == "−0.20"
    assert rows["largest effect"]["difference"] == "+0.20"
    where = rows["largest effect: where"]
    assert (where["right"], where["difference"]) == ("layer 0, Rome", "−1 layers")
    assert rows["largest at last subject token"]["right"] == rows["largest effect"]["right"] == "0.60"
    assert ("window", "3", "1") in two_runs.what_differs(saved_trace(), other)


def test_one_colour_scale_for_both_maps() -> None:
    from app.shared.plots import EffectMap, effect_maps

    def figure(*effects: tuple[float, float], dark: bool = False) -> list[tuple[float, float]]:
        maps = [EffectMap(["a"], [one], [["", ""]], "mlp_out", "effect") for one in effects]
        return [(found.data[0].zmin, found.data[0].zmax) for found in effect_maps(maps, dark=dark)]

    assert figure((0.1, 0.2), (0.0, 0.5)) == [(0.0, 0.5), (0.0, 0.5)]
    assert figure((0.1, 0.2), (-0.3, 0.1)) == [(pytest.approx(-0.3), pytest.approx(0.3))] * 2


def test_a_zip_of_all_runs_with_a_table() -> None:
    runs = [saved_trace(prompt="=Rome is in"), saved_edit()]
    packed = zipped(runs)
    assert packed == zipped(runs)
    archive = zipfile.ZipFile(io.BytesIO(packed))
    assert archive.namelist() == ["runs.csv", "001-trace-mlp-rome.json", "002-edit-r-rome-rome.json"]
    assert archive.read("001-trace-mlp-rome.json").decode() == runs[0].text
    rows = list(csv.DictReader(io.StringIO(archive.read("runs.csv").decode())))
    assert [row["run"] for row in rows] == ["Trace", "Edit"]
    assert rows[0]["prompt"] == "'=Rome is in"  # no formula
