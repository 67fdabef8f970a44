"""Requests as JSON values: both forms, what is refused and in which words."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from facts import EditRequest, Fact, Probe
from facts.records import as_lists, as_tuples, read_request, request_record, short_record

BARE = EditRequest(Fact("Rome", "{} is the capital of", "Italy"), "France")
FULL = EditRequest(
    Fact("Rome", "{} is the capital of", "Italy", "capital"),
    "France",
    (Probe("one_hop", "Its language is", "French", (("France speaks", "French"),), ("Français",), group="a"),),
    ("Rome",),
)


@pytest.mark.parametrize("request_", [BARE, FULL])
def test_a_request_is_read_back_as_it_was(request_: EditRequest) -> None:
    assert read_request(json.loads(json.dumps(request_record(request_)))) == request_
    assert read_request(request_record(request_)) == request_


def test_the_short_form_leaves_out_what_is_empty() -> None:
    assert short_record(BARE) == {
        "subject": "Rome",
        "template": "{} is the capital of",
        "target_true": "Italy",
        "target_new": "France",
    }
    (probe,) = short_record(FULL)["probes"]
    assert probe["bridge"] == [{"prompt": "France speaks", "answer": "French"}]
    assert probe["group_rule"] == "any"
    assert "source" not in probe


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fact": None}, "request.fact is None; expected an object with named fields"),
        ({"target_new": 3}, "request.target_new is 3; expected a text"),
        (
            {"target": "x"},
            "request has an unknown field 'target'; expected fact, target_new, probes, generation_prompts",
        ),
        ({"probes": "all"}, "request.probes is 'all'; expected a list"),
        ({"probes": [{"kind": "alias", "prompt": "Roma"}]}, r"request.probes\[0\] lacks 'answer'"),
        (
            {"probes": [{"kind": "odd", "prompt": "a", "answer": "b"}]},
            r"probes\[0\].kind is 'odd'; expected one of para",
        ),
        (
            {"probes": [{"kind": "alias", "prompt": "a", "answer": "b", "bridge": [["a"]]}]},
            r"probes\[0\].bridge\[0\] is \['a'\]; expected a list of 2",
        ),
        ({"generation_prompts": ["a", None]}, r"request.generation_prompts\[1\] is None; expected a text"),
        ({"fact": {"subject": "a", "template": "b", "target_true": "c"}}, "holds 0 placeholders"),
    ],
)
def test_what_is_no_request_is_named(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_request(request_record(BARE) | change)
    with pytest.raises(ValueError, match="request lacks 'fact'"):
        read_request({})


def test_lists_and_tuples_and_numbers() -> None:
    assert as_tuples([1, [2, [3]], "a"]) == (1, (2, (3,)), "a")
    assert as_lists({"a": (1, math.nan, np.float64("inf")), "b": np.int64(3)}) == {"a": [1, None, None], "b": 3}
    assert type(as_lists(np.int64(3))) is int
