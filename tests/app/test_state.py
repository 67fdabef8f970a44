"""Fields, links, examples and probes: everything of the page that needs neither a browser nor a model."""

from dataclasses import replace

import pytest

from app.probes import find_fact, make_request, probes_of, rows_of, usable
from app.server.catalog import Choice
from app.session import examples, state
from app.session.asks import EditAsk, ScoreAsk, TraceAsk
from app.session.form import Form, default_window
from app.session.session import session
from app.session.state import ROOM, refused_values
from app.shared.wording import duration, markup, plain, probability, signs, visible
from app.workbench.settings import own_layers
from facts.atlas import load_atlas

MODELS = {"reference": Choice("reference", "reference", 12)}
FORM = Form(
    MODELS["reference"], "The Space Needle is located in the city of", "Space Needle", "", "Paris", "mlp", 3.0, 10, 3, 0
)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"prompt": " "}, "prompt", "stops where the answer"),
        ({"subject": ""}, "subject", "name the thing"),
        ({"subject": "space needle"}, "subject", "not in the prompt"),
        ({"prompt": "The {} Space Needle is in"}, "prompt", "in place of {}"),
        ({"prompt": "word " * 300 + "Space Needle is"}, "prompt", "has 1,515 characters; write at most 300"),
        ({"new": "a" * 61}, "new", "has 61 characters; write at most 60"),
    ],
)
def test_problems_name_their_field(change: dict[str, str], field: str, words: str) -> None:
    assert words in replace(FORM, **change).problems[field]
    assert len(replace(FORM, **change).problems) == 1


def test_a_good_form_has_no_problems() -> None:
    assert FORM.problems == {}
    assert FORM.edit_problem == ""


def test_a_zero_character_of_a_link_is_a_problem_of_its_field() -> None:
    assert "U+0000" in replace(FORM, prompt=FORM.prompt + "\0").problems["prompt"]
    assert "U+0000" in replace(FORM, new="Ro\0me").problems["new"]


def test_the_new_answer_must_differ() -> None:
    assert "equals" in replace(FORM, answer="Paris ").edit_problem
    assert "Write the word" in replace(FORM, new=" ").edit_problem
    own = replace(FORM, answer="", known="Seattle")  # what the prompt was found to give, if no true answer is named
    assert own.edit_problem == ""
    assert "without an edit already" in replace(own, new="Seattle ").edit_problem
    assert replace(own, answer="Tacoma", new="Seattle").edit_problem == ""


def test_states_are_traced_one_layer_at_a_time_and_all_means_three() -> None:
    assert replace(FORM, site="state").trace_ask().window == 1
    everything = replace(FORM, site="all").trace_ask()
    assert everything.sites == ("state", "mlp", "attn")
    assert everything.window == 3


def test_equal_questions_share_a_key_and_different_ones_do_not() -> None:
    ask = FORM.trace_ask()
    assert replace(FORM, answer=" ").trace_ask().key == ask.key
    assert replace(FORM, new="Rome").trace_ask().key == ask.key
    keys = {replace(FORM, **change).trace_ask().key for change in ({}, {"seed": 1}, {"noise": 2.0}, {"site": "attn"})}
    assert len(keys) == 4
    edit = EditAsk("reference", FORM.prompt, FORM.subject, "", "Paris", "rome", (("layer", 3),))
    assert edit.key != replace(edit, active=("edit-0",)).key
    score = ScoreAsk("reference", edit.key, (edit.key,), None)
    assert len({score.key, replace(score, probes=()).key, replace(score, active=("edit-0", edit.key)).key}) == 3


def test_windows_are_a_quarter_of_the_layers_and_at_most_ten() -> None:
    assert [default_window(n) for n in (1, 12, 48, 100)] == [1, 3, 10, 10]


def test_values_a_link_may_not_hold() -> None:
    assert refused_values({"site": "attn", "noise": "2.5", "layer": "11", "prompt": "法国", "run": "1"}, MODELS) == []
    sent = {
        "site": "x",
        "noise": "abc",
        "samples": "0",
        "layer": "12",
        "seed": "-1",
        "model": "gpt5",
        "new": "a" * (ROOM + 1),
    }
    assert set(refused_values(sent, MODELS)) == set(sent)


def test_every_example_but_the_invented_one_is_in_the_atlas() -> None:
    for example in examples.EXAMPLES:
        fact = load_atlas().match(example.prompt, example.subject)
        if example is examples.UNKNOWN:
            assert fact is None
            assert load_atlas().about(example.subject) == ()
        else:
            assert fact is not None, example
            assert example.new != fact.target_true
            assert {"paraphrase", "neighborhood"} & {probe.kind for probe in make_request(fact, example.new).probes}


def test_the_atlas_supplies_probes_only_for_its_own_facts() -> None:
    fact = find_fact(FORM.prompt, FORM.subject)
    assert (fact.target_true, fact.relation) == ("Seattle", "landmark_city")
    request = make_request(fact, "Paris")
    assert {"paraphrase", "neighborhood", "one_hop"} <= {probe.kind for probe in request.probes}
    other = find_fact(FORM.prompt, FORM.subject, "Tacoma")
    assert make_request(other, "Paris").probes == ()


def test_edited_probes_keep_their_bridges_and_half_filled_rows_do_not_count() -> None:
    derived = make_request(find_fact(FORM.prompt, FORM.subject), "Paris")
    hop = next(probe for probe in derived.probes if probe.kind == "one_hop")
    assert hop.bridge
    records = [{"kind": kind, "prompt": prompt, "answer": answer} for kind, prompt, answer in rows_of(derived)]
    records += [
        {"kind": "alias", "prompt": "The Needle is in", "answer": None},
        {"kind": "x", "prompt": "a", "answer": "b"},
    ]
    rows = usable([*records, {"kind": "alias", "prompt": " The Needle is in ", "answer": "Paris"}])
    assert len(rows) == len(derived.probes) + 1
    again = probes_of(rows, derived.probes)
    assert again[:-1] == derived.probes
    assert (again[-1].kind, again[-1].prompt, again[-1].bridge) == ("alias", "The Needle is in", ())


def test_text_of_a_reader_loses_its_powers() -> None:
    assert plain("![x](http://a)") == r"\!\[x\]\(http\:\/\/a\)"
    assert plain("$a$ <b>\n`c`") == r"\$a\$ \<b\> \`c\`"
    assert markup("<img src='x'>") == "&lt;img src=&#x27;x&#x27;&gt;"
    assert visible(" le\n") == "␣le↵"


def test_a_sentence_has_true_minus_signs_before_its_numbers() -> None:
    words = "at layer 2: -0.05 (95 % CI -0.1 to 0.2), R-ROME, 2025-11-2, x-1"
    assert signs(words) == "at layer 2: −0.05 (95 % CI −0.1 to 0.2), R-ROME, 2025-11-2, x-1"


def test_numbers_are_short_and_never_falsely_exact() -> None:
    assert [probability(p) for p in (0.0, 0.001, 0.5, 0.999, 1.0)] == ["0.00", "< 0.01", "0.50", "> 0.99", "1.00"]
    assert [duration(s) for s in (0.0001, 0.05, 2.34, 15.2, 600)] == ["< 1 ms", "50 ms", "2.3 s", "15 s", "10 min"]


def test_an_infinite_condition_number_is_shown() -> None:
    from app.workbench.edit import _value

    assert _value(float("inf"), "") == "inf"
    assert _value(20_000.0, "tokens") == "20,000 tokens"


def test_a_layer_chosen_for_a_fact_stays_when_it_is_traced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = _Fields(layer=4)
    monkeypatch.setattr(state.st, "session_state", fields)
    ask = TraceAsk("reference", "Rome is in", "Rome", "", ("mlp",), 3.0, 10, 3, 0)
    session().trace_ask = ask
    state.suggest_layer("first", 2)
    assert fields.layer == 2
    session().trace_ask = replace(ask, seed=1)
    state.suggest_layer("second", 3)
    assert fields.layer == 3, "it was not the reader's, so it follows"
    fields.layer = 5
    session().trace_ask = replace(ask, seed=2)
    state.suggest_layer("third", 2)
    assert fields.layer == 5
    session().trace_ask = replace(ask, prompt="Oslo is in", subject="Oslo")
    state.suggest_layer("fourth", 1)
    assert fields.layer == 1, "another fact"


def test_the_slider_follows_methods_that_have_a_layer_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own = own_layers(Choice("x", "x", 12))
    assert own["grace"] == round(0.6 * 12)
    assert not {"rome", "r-rome", "ice"} & own.keys()
    assert own_layers(Choice("x", "x", 24))["grace"] == 2 * own["grace"]
    assert own_layers(Choice("x", "x", 48, family="gpt2", d_model=1600))["memit"] == 17
    fields = _Fields(layer=4, method="grace")
    monkeypatch.setattr(state.st, "session_state", fields)
    state.follow_method({"grace": 7, "wise": 9}, 11)
    assert fields.layer == 7
    state.suggest_layer("another trace", 2)
    assert fields.layer == 7, "a trace does not move a slider that is the method's"
    fields.method = "wise"
    state.follow_method({"grace": 7, "wise": 9}, 8)
    assert fields.layer == 8, "no further than the last layer"
    fields.method = "rome"
    state.follow_method({"grace": 7, "wise": 9}, 11)
    assert fields.layer == 2, "back to what the last trace suggests"


class _Fields(dict[str, object]):
    """Streamlit's session state, outside a session."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__  # type: ignore[assignment]
