"""Methods: what each number on the Workbench is, how it is computed, and where its definition comes from."""

from __future__ import annotations

import sys

import streamlit as st

from app.language.say import later, said, say

TRACING = later("""
**Causal trace.** The prompt is run three times: *clean*; *corrupted*, with Gaussian noise on the embeddings of the
subject's tokens; and *restored*, corrupted but with one state (token, layer) restored to its clean value.

| number | is |
|---|---|
| p clean, p corrupted | probability of the answer in those runs; corrupted is the mean over the noise samples |
| total effect | p clean − p corrupted: what the noise took away |
| indirect effect | p restored − p corrupted: what that one state gives back |
| interval | 95 %, Student's t over noise samples, each restored run paired with its own corrupted run |
| largest effect | over all tokens before the last, where a late state restores any answer; interval for all cells |
| suggested layer | at one token, where one stands out: above 0, above the token's mean, 5 % of the total effect |
| early site | a layer in the first half that stands out at the last subject token, for states and MLP outputs |
| logit difference | the logit of the answer's first token − that of the *other answer* named in the trace's settings |
| KL divergence | KL(clean run, this run) of the answer's tokens, in nats; a state that helps lowers it |
| rank | of the answer among all tokens, 1 for the likeliest; a state that helps lowers it |
| fraction restored | indirect effect / total effect, of the probability |
| averaged map | mean over facts, by kind of token; 95 %, Student's t over facts, a dot where the interval includes 0 |

A large effect says that a state *carries* what the answer needs. It does not say that the fact is stored there, nor
that an edit works best there: Hase et al. found next to no correlation between the two. So the layer is a suggestion.
Where another token of the subject carries the fact, click it in the map: the edit is then placed at that token.
""")

EDITING = later("""
**Rank-one edit (ROME).** The MLP of the chosen layer is read as a memory from keys to values. The key is its input at
the last subject token, or at the token you choose. The new value is found by gradient steps, so that the model
says the new answer. Then the smallest change of the down-projection that maps the key to that value, with respect to
the keys of ordinary text, is solved for. An edit is applied as a *view* that shares every weight but the changed
matrix. Undo drops the view; nothing is subtracted.
""")

PAPERS = (
    (
        "2202.05262",
        "Meng, Bau, Andonian, Belinkov 2022, *Locating and Editing Factual Associations in GPT*",
        say("causal tracing, ROME, efficacy, paraphrase and neighborhood scores"),
    ),
    (
        "2301.04213",
        "Hase, Bansal, Kim, Ghandeharioun 2023, *Does Localization Inform Editing?*",
        say("why the traced layer is only suggested"),
    ),
    (
        "2509.08778",
        "Choe, Cho, Seo, Kim 2025, *Do All Autoregressive Transformers Remember Facts the Same Way?*",
        say("models whose early attention contributes more than early MLPs"),
    ),
    (
        "2403.07175",
        "Gupta, Baskaran, Anumanchipalli 2024, *Rebuilding ROME*",
        say("the single-key form used by default"),
    ),
    (
        "2307.12976",
        "Cohen, Biran, Yoran, Globerson, Geva 2023, *Evaluating the Ripple Effects of Knowledge Editing*",
        say("portability, counted only where the model knew the bridge"),
    ),
    (
        "2305.17553",
        "Hoelscher-Obermaier and others 2023, *Detecting Edit Failures in Large Language Models*",
        say("neighbours after the new fact"),
    ),
    (
        "2305.13172",
        "Yao and others 2023, *Editing Large Language Models: Problems, Methods, and Opportunities*",
        say("the five metrics side by side"),
    ),
)
"""(arXiv id, authors and title, what is taken from it)."""


def draw() -> None:
    """Draw the whole page."""
    _, middle, _ = st.columns([1, 6, 1])
    with middle:
        st.title(say("Methods"), anchor=False)
        st.header(say("1 · Locate"), anchor=False)
        st.markdown(said(TRACING))
        st.header(say("2 · Edit"), anchor=False)
        st.markdown(said(EDITING))
        _edit_methods()
        st.header(say("3 · Evaluate"), anchor=False)
        st.markdown(
            say(
                "Every score is taken on the unedited and on the edited model; the tile shows the edited one, the "
                "change, the number of prompts, and a 95 % interval. A metric without prompts is *not measured*; it is "
                "never 0."
            )
        )
        _metrics()
        st.header(say("Sources"), anchor=False)
        lines = [
            say(
                "- {title}, [arXiv:{number}](https://arxiv.org/abs/{number}): {used}.",
                title=title,
                number=number,
                used=said(used),
            )
            for number, title, used in PAPERS
        ]
        st.markdown("\n".join(lines))


def _edit_methods() -> None:
    """Every method in the first sentence of its own file."""
    with st.spinner(say("Reading the methods…")):
        from editing import METHODS
    lines = [say("| method | family | what it does |"), "|---|---|---|"]
    for method in METHODS.values():
        opening = said((sys.modules[type(method).__module__].__doc__ or "").strip().split("\n\n")[0].replace("\n", " "))
        lines.append(f"| **{said(method.title)}** | {said(method.family)} | {_cell(opening)} |")
    with st.expander(say("All {n} methods", n=len(METHODS))):
        st.markdown("\n".join(lines))


def _metrics() -> None:
    with st.spinner(say("Reading the definitions…")):
        from metrics.definitions import DEFINITIONS, METRICS
    for name, info in METRICS.items():
        lines = [say("| score | definition | unit |"), "|---|---|---|"]
        for full, entry in DEFINITIONS.items():
            metric, _, key = full.partition(".")
            if metric == name:
                label = f"**{said(entry.label)}**" if key == info.headline else said(entry.label)
                lines.append(f"| {_cell(label)} | {_cell(said(entry.sentence))} | {said(entry.unit)} |")
        with st.expander(f"{said(info.label)}: {said(info.question)}"):
            st.markdown("\n".join(lines))


def _cell(text: str) -> str:
    """Escape bars, which would end the cell of the table."""
    return text.replace("|", "\\|")


draw()
