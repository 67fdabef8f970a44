"""The Methods page: the definitions that the code itself carries, with their sources."""

from __future__ import annotations

import streamlit as st

TRACING = """
**Causal trace.** The prompt is run three times: *clean*; *corrupted*, with Gaussian noise on the embeddings of the
subject's tokens; and *restored*, corrupted but with one state (token, layer) put back to its clean value.

| number | is |
|---|---|
| p clean, p corrupted | probability of the answer in those runs; corrupted is the mean over the noise samples |
| total effect | p clean − p corrupted: what the noise took away |
| indirect effect | p restored − p corrupted: what that one state gives back |
| interval | 95 %, Student's t over noise samples, each restored run paired with its own corrupted run |

A large effect says that a state *carries* what the answer needs. It does not say that the fact is stored there, nor that
an edit works best there: Hase et al. found next to no correlation between the two. So the layer is a suggestion.
"""

EDITING = """
**Rank-one edit (ROME).** The MLP of the chosen layer is read as a memory from keys to values. The key is its input at the
last subject token; the new value is found by gradient steps so that the model says the new answer; the smallest change of
the down-projection that maps the key to that value, with respect to the keys of ordinary text, is then solved for.
An edit is applied as a *view* that shares every weight but the changed matrix. Undo drops the view; nothing is subtracted.
"""

SOURCES = """
- Meng, Bau, Andonian, Belinkov 2022, *Locating and Editing Factual Associations in GPT*, [arXiv:2202.05262](https://arxiv.org/abs/2202.05262): causal tracing, ROME, efficacy, paraphrase and neighborhood scores.
- Hase, Bansal, Kim, Ghandeharioun 2023, *Does Localization Inform Editing?*, [arXiv:2301.04213](https://arxiv.org/abs/2301.04213): why the traced layer is only suggested.
- Gupta, Baskaran, Anumanchipalli 2024, *Rebuilding ROME*, [arXiv:2403.07175](https://arxiv.org/abs/2403.07175): the single-key form used by default.
- Cohen, Biran, Yoran, Globerson, Geva 2023, *Evaluating the Ripple Effects of Knowledge Editing*, [arXiv:2307.12976](https://arxiv.org/abs/2307.12976): portability, counted only where the model knew the bridge.
- Hoelscher-Obermaier et al. 2023, *Detecting Edit Failures* (CounterFact+), [arXiv:2305.17553](https://arxiv.org/abs/2305.17553): neighbours after the new fact.
- Yao et al. 2023, *Editing Large Language Models*, [arXiv:2305.13172](https://arxiv.org/abs/2305.13172): the five metrics side by side.
"""


def draw() -> None:
    """The whole page."""
    _, middle, _ = st.columns([1, 6, 1])
    with middle:
        st.title("Methods", anchor=False)
        st.subheader("1 · Locate", anchor=False)
        st.markdown(TRACING)
        st.subheader("2 · Edit", anchor=False)
        st.markdown(EDITING)
        st.subheader("3 · Evaluate", anchor=False)
        st.markdown(
            "Every score is taken on the unedited and on the edited model; the tile shows the edited one, the change, the "
            "number of prompts, and a 95 % bootstrap interval. A metric without prompts is *not measured*; it is never 0."
        )
        _metrics()
        st.subheader("Sources", anchor=False)
        st.markdown(SOURCES)


def _metrics() -> None:
    with st.spinner("Reading the definitions…"):
        from metrics.definitions import DEFINITIONS, METRICS
    for name, info in METRICS.items():
        lines = [
            f"| {'**' + entry.label + '**' if key == info.headline else entry.label} | {entry.sentence} | {entry.unit} |"
            for key, entry in (
                (full.partition(".")[2], entry) for full, entry in DEFINITIONS.items() if full.startswith(f"{name}.")
            )
        ]
        with st.expander(f"{info.label}: {info.question}", expanded=False):
            st.markdown("\n".join(["| score | definition | unit |", "|---|---|---|", *lines]).replace("||", "\\|\\|"))
