"""The fact bar: four fields, the tokens as the model sees them, and what the model says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.language.say import later, said, say
from app.server.job import Job
from app.session import examples, state
from app.session.form import Form
from app.session.session import session
from app.session.state import BOUND, KEEP
from app.shared import wording
from app.shared.wording import markup, plain, probability, visible
from facts.words import occurrences

if TYPE_CHECKING:
    from app.first_look import FirstLook

LABELS = {
    "prompt": later("Prompt"),
    "subject": later("Subject"),
    "answer": later("True answer"),
    "new": later("New answer"),
    "against": later("Other answer"),
}
STYLE = """
<style>
.read { display: flex; flex-wrap: wrap; gap: 2px 18px; align-items: center }
.tokens { display: flex; flex-wrap: wrap; gap: 4px; align-items: center }
.tokens span { font: 0.85rem/1.5 "Source Code Pro", monospace; padding: 1px 6px; border-radius: 5px;
  background: color-mix(in srgb, currentColor 7%, transparent); white-space: pre }
.tokens span.subject { background: color-mix(in srgb, #2f8fce 24%, transparent); font-weight: 600 }
.read p { margin: 0; font-size: 0.93rem; line-height: 1.5 }
.read b { font-weight: 600 }
.read small { color: color-mix(in srgb, currentColor 78%, transparent) }
.earlier { opacity: 0.45 }
</style>
"""


def fields() -> dict[str, Any]:
    """Draw the four fields and the examples; the words in the fields."""
    prompt, subject, answer, new, example = st.columns([4.6, 2.1, 1.7, 1.7, 1.3], vertical_alignment="bottom")
    # A menu, not a select box: a box would keep showing the last example after the reader changed the words, and would
    # choose it again.
    with example:
        st.menu_button(
            say("Examples"),
            [known.title for known in examples.EXAMPLES],
            format_func=said,
            key="example",
            on_click=state.choose_example,
            width="stretch",
        )
    with prompt:
        st.text_input(
            say("Prompt"),
            max_chars=state.ROOM,
            key="prompt",
            help=say("Stops where the answer should come."),
            **KEEP,
        )
    with subject:
        st.text_input(
            say("Subject"),
            max_chars=state.ROOM,
            key="subject",
            help=say("The words of the prompt that get corrupted."),
            **KEEP,
        )
    with answer:
        st.text_input(
            say("True answer"),
            "",
            state.ROOM,
            key="answer",
            placeholder=say("model’s own"),
            help=say("Empty: the word the model itself says."),
            **BOUND,
        )
    with new:
        st.text_input(
            say("New answer"),
            examples.DEFAULT.new,
            state.ROOM,
            key="new",
            help=say("What the edited model should say instead."),
            **BOUND,
        )
    words = {name: st.session_state[name] or "" for name in ("prompt", "subject", "answer", "new")}
    return words | {"occurrence": _occurrence(words["prompt"], words["subject"])}


def _occurrence(prompt: str, subject: str) -> int:
    """Which occurrence of the subject is meant; draws a choice if there are several."""
    n = len(occurrences(prompt, subject))
    if n < 2:
        return 0
    fields = st.session_state
    fields.occurrence = min(fields.occurrence, n - 1)
    st.selectbox(
        say("The subject occurs {n} times in the prompt; which one is meant?", n=n),
        range(n),
        key="occurrence",
        format_func=lambda index: say("{done} of {total}", done=index + 1, total=n),
        width=420,
        **KEEP,
    )
    return int(fields.occurrence)


def problems(form: Form) -> None:
    """What is wrong with the fields, in plain sentences."""
    for name, problem in form.problems.items():
        st.error(f"**{said(LABELS[name])}:** {plain(said(problem))}", icon=":material/edit_note:")
    if not form.problems and form.edit_problem:
        st.warning(
            say("**New answer:** {problem}", problem=plain(said(form.edit_problem))),
            icon=":material/edit_note:",
        )


def reading(form: Form, job: Job | None) -> None:
    """The token strip with the model's answer, or why there is none.

    While changed words are being read, the earlier strip stays, dimmed: if the page moved, the click that left the
    field would miss its target.
    """
    if form.problems:
        return
    if job is not None and job.state == "failed":
        st.error(plain(said(job.error)), icon=":material/error:")
    elif job is not None and job.state == "done":
        session().look = (form.model.key, job.result)
        _strip(job.result)
    elif read_before(form):
        _strip(session().look[1], earlier=True)
    else:
        st.html(
            f'{STYLE}<div class="read"><p>{say("Loading the model; the form can be filled in meanwhile.")}</p></div>'
        )


def read_before(form: Form) -> bool:
    """Whether this session has read a prompt with this model."""
    look = session().look
    return look is not None and look[0] == form.model.key


def _strip(look: FirstLook, earlier: bool = False) -> None:
    start, stop = look.span
    chips = "".join(
        f'<span class="subject" title="{said("subject")}">{markup(visible(token))}*</span>'
        if start <= position < stop
        else f"<span>{markup(visible(token))}</span>"
        for position, token in enumerate(look.tokens)
        if position >= look.lead
    )
    if look.lead:
        before = markup(visible("".join(look.tokens[: look.lead])))
        chips = f'<span title="{before}">{say("chat template: {n} tokens", n=look.lead)}</span>{chips}'
    first, p = look.top[0]
    sentence = say(
        "The model says <b>{answer}</b> with probability <b>{p}</b>{judged} <small>{tokens} tokens, * subject.</small>",
        answer=markup(first.strip()),
        p=probability(p),
        judged=_judged(look),
        tokens=len(look.tokens),
    )
    notes = "".join(f"<p><small>{markup(said(wording.sentence(note)))}</small></p>" for note in look.notes)
    st.html(
        f'{STYLE}<div class="read {"earlier" if earlier else "now"}"><div class="tokens" role="group" '
        f'aria-label="{say("Tokens of the prompt")}">{chips}</div><p>{sentence}</p>{notes}</div>'
    )
    doubt = _doubt(look)
    if doubt:
        st.warning(doubt, icon=":material/help:")


def _judged(look: FirstLook) -> str:
    """Whether what the model says is true, if the true answer is given."""
    if look.own:
        return say(", its own answer; you gave no true answer.")
    return say(": ✓ it knows this.") if look.knows else "."


def _doubt(look: FirstLook) -> str:
    from app.first_look import SURE_OF_ITSELF

    if look.knows or (look.own and look.p_answer >= SURE_OF_ITSELF):
        return ""
    p, answer = plain(probability(look.p_answer)), plain(look.answer)
    if look.own:
        words = say("The model is not sure: its own answer, **{answer}**, gets only {p}.", answer=answer, p=p)
    elif look.rank > 1:
        words = say(
            "The model does not know this: it gives the true answer, **{answer}**, {p} (rank {rank}).",
            answer=answer,
            p=p,
            rank=look.rank,
        )
    else:
        words = say(
            "The model hardly knows this: the true answer, **{answer}**, comes first but gets only {p}.",
            answer=answer,
            p=p,
        )
    return say("{words} You can still run a trace, but it explains a guess.", words=words)
