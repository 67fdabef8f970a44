"""The four metrics that are asked with prompts: reliability, generalization, locality and portability.

Reliability: does the edited model give the new answer to the edit prompt?  The greedy match is the headline; beside it
stand P(new) > P(true), the efficacy of Meng et al. 2022 (arXiv:2202.05262, section 3.2), and the token accuracy of
EasyEdit's `rewrite_acc`.

Generalization: does it give the new answer to the same question in other words?  Paraphrases as given are the headline.
The same paraphrases after an unrelated sentence are scored apart: CounterFact's own paraphrases carry such prefixes
(Meng et al. 2022, appendix D), so its PS is nearer to those.

Locality: does the edit leave other facts alone?  The headline counts neighbour prompts (another subject, same relation,
same true object) that the unedited model answered correctly, since only those can be lost.  Beside it stand the
neighbourhood score NS of Meng et al. 2022 (section 3.2) over all neighbours, the same with the rewritten fact in front
(CounterFact+, arXiv:2305.17553), other facts of the same subject, the divergence of next-token distributions, and the
perplexity of neutral texts.

Portability: does the model use the new fact where it should follow?  The prompts name the subject by another name, ask
one stored fact further, or ask the reverse question (Yao et al. 2023, arXiv:2305.13172; RippleEdits, Cohen et al. 2023,
arXiv:2307.12976); other kinds come with datasets.  A prompt counts only where the unedited model knew the bridge fact:
without it, a failure says nothing about the edit.

Formulas: docs/metrics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from metrics.asking.scoring import (
    NOT_FINITE,
    average,
    comparison,
    greedy,
    left_out,
    not_measured,
    readable,
    share,
    teacher_forced,
    why_none,
)
from metrics.statistics import perplexity
from metrics.types import Definition, Evidence, Measured, Metric, PromptRow, Scorer


def _share(label: str, scorer: Scorer, sentence: str) -> Definition:
    return Definition(label, scorer, "share", True, sentence)


def _new_answer(prompts: str) -> dict[str, Definition]:
    """Definitions for prompts that should give the new answer."""
    return {
        "greedy": _share(
            "Says the new answer",
            "greedy",
            f"Share of {prompts} whose greedy continuation, generated freely, starts with the new answer.",
        ),
        "token_accuracy": _share(
            "Token accuracy",
            "teacher-forced",
            f"Mean share of the new answer's tokens that are the most probable next token when the tokens before them "
            f"are given, over {prompts}; this leaks the answer and its length, so it is not the headline.",
        ),
        "comparison": _share(
            "P(new) > P(true)",
            "comparison",
            f"Share of {prompts} on which the new answer is more probable per token than the true one.",
        ),
        "rank": Definition(
            "First-token rank",
            "teacher-forced",
            "rank",
            False,
            f"Median rank of the new answer's first token among all tokens, over {prompts}; 1 is the most probable.",
        ),
        "p_answer": Definition(
            "P(new)",
            "teacher-forced",
            "probability",
            True,
            f"Mean probability of the whole new answer after {prompts}.",
        ),
        "p_other": Definition(
            "P(true)",
            "teacher-forced",
            "probability",
            False,
            f"Mean probability of the whole true answer after {prompts}.",
        ),
    }


def _reliability(evidence: Evidence) -> dict[str, Measured]:
    rows, noun = evidence.of("reliability"), "edit prompts"
    return {
        "greedy": greedy(rows, noun),
        "comparison": comparison(rows, noun),
        **teacher_forced(rows, noun, evidence.seed),
    }


RELIABILITY = Metric(
    name="reliability",
    label="Reliability",
    question="Does the model now give the new answer to the edit prompt?",
    headline="greedy",
    definitions=_new_answer("edit prompts"),
    measure=_reliability,
)


_PREFIXED = {
    f"prefixed_{key}": replace(known, label=f"{known.label}, after an unrelated sentence")
    for key, known in _new_answer("the paraphrases put after an unrelated sentence").items()
    if key in ("greedy", "comparison")
}


def _generalization(evidence: Evidence) -> dict[str, Measured]:
    plain = evidence.of("generalization", "paraphrase")
    prefixed = evidence.of("generalization", "paraphrase_prefixed")
    noun, noun_prefixed = "paraphrases", "paraphrases behind an unrelated sentence"
    return {
        "greedy": greedy(plain, noun),
        "comparison": comparison(plain, noun),
        **teacher_forced(plain, noun, evidence.seed),
        "prefixed_greedy": greedy(prefixed, noun_prefixed),
        "prefixed_comparison": comparison(prefixed, noun_prefixed),
    }


GENERALIZATION = Metric(
    name="generalization",
    label="Generalization",
    question="Does it give the new answer to paraphrases?",
    headline="greedy",
    definitions=_new_answer("the paraphrases") | _PREFIXED,
    measure=_generalization,
    unknown="the unedited model did not know the fact it depends on",
)

_LOCALITY: dict[str, Definition] = {
    "greedy": _share(
        "Neighbours kept",
        "greedy",
        "Of the neighbour prompts the unedited model answered correctly, generated freely, the share the edited model "
        "still answers correctly; an edit that does nothing scores 100 %.",
    ),
    "token_accuracy": _share(
        "Token accuracy",
        "teacher-forced",
        "Mean share of the neighbours' true answers' tokens that are the most probable next token when the tokens "
        "before them are given.",
    ),
    "comparison": _share(
        "P(true) > P(new)",
        "comparison",
        "Share of all neighbour prompts on which their own true answer is more probable per token than the edit's new "
        "answer.",
    ),
    "rank": Definition(
        "First-token rank",
        "teacher-forced",
        "rank",
        False,
        "Median rank of the neighbours' true answers' first token among all tokens; 1 is the most probable.",
    ),
    "p_answer": Definition(
        "P(true)", "teacher-forced", "probability", True, "Mean probability of the neighbours' true answers."
    ),
    "p_other": Definition(
        "P(new)", "teacher-forced", "probability", False, "Mean probability of the edit's new answer at the neighbours."
    ),
    "same_subject_greedy": _share(
        "Same subject kept",
        "greedy",
        "Of the other facts about the edited subject that the unedited model answered correctly, the share the edited "
        "model still answers correctly.",
    ),
    "other_greedy": _share(
        "Other prompts kept",
        "greedy",
        "Of the prompts a dataset says the edit must leave alone, and that are neither neighbours nor about the edited "
        "subject, the share still answered correctly, where the unedited model answered correctly.",
    ),
    "prefixed_greedy": _share(
        "Neighbours kept after the new fact",
        "greedy",
        "As neighbours kept, with the rewritten fact put in front of each prompt (CounterFact+); counted where the "
        "unedited model knew the plain neighbour, so the value before shows what the prefix alone does.",
    ),
    "prefixed_comparison": _share(
        "P(true) > P(new) after the new fact",
        "comparison",
        "As P(true) > P(new), with the rewritten fact put in front of each neighbour prompt (CounterFact+).",
    ),
    "same_top": _share(
        "Same top token",
        "distribution",
        "Share of neighbour and same-subject prompts whose most probable next token is unchanged, right or wrong.",
    ),
    "kl": Definition(
        "KL(before || after)",
        "distribution",
        "nats",
        False,
        "Mean Kullback-Leibler divergence from the unedited to the edited next-token distribution at neighbour and "
        "same-subject prompts; 0 means unchanged.",
    ),
    "perplexity": Definition(
        "Perplexity guard",
        "distribution",
        "perplexity",
        False,
        "exp of the mean negative log probability per token of neutral texts; a jump means the edit broke the model.",
    ),
}


def _locality(evidence: Evidence) -> dict[str, Measured]:
    plain, subject = evidence.of("locality", "neighborhood"), evidence.of("locality", "same_subject")
    prefixed = evidence.of("locality", "neighborhood_prefixed")
    other = evidence.of("locality", "forgetfulness", "unchanged")
    noun, noun_prefixed = "neighbour prompts", "neighbour prompts behind the new fact"
    return {
        "greedy": greedy(plain, noun),
        "comparison": comparison(readable(plain), noun),
        **teacher_forced(readable(plain), noun, evidence.seed),
        "same_subject_greedy": greedy(subject, "same-subject prompts"),
        "other_greedy": greedy(other, "other locality prompts"),
        "prefixed_greedy": greedy(prefixed, noun_prefixed),
        "prefixed_comparison": comparison(readable(prefixed), noun_prefixed),
        **_moved(readable([*plain, *subject]), evidence.seed),
        "perplexity": neutral_perplexity(evidence),
    }


def _moved(rows: Sequence[PromptRow], seed: int) -> dict[str, Measured]:
    """Top-token agreement and divergence; the unedited model agrees with itself, so their values before are 1 and 0."""
    counted = [row for row in rows if row.counted]
    finite = [(0.0, row.kl) for row in counted if row.kl is not None]
    missing = len(counted) - len(finite)
    reason, out = why_none(rows, "locality prompts"), left_out(rows)
    unread = [(NOT_FINITE, missing)] if missing else []
    return {
        "same_top": share([(True, bool(row.same_top)) for row in counted], reason, out),
        "kl": average(finite, reason or NOT_FINITE, (*out, *unread), seed=seed),
    }


def neutral_perplexity(evidence: Evidence) -> Measured:
    """exp(summed nll / tokens) over all neutral texts, before and after; texts are resampled as wholes."""
    pairs = evidence.neutral
    if not pairs:
        return not_measured("no neutral texts were given")
    usable = [(before, after) for before, after in pairs if before[1]]
    if not usable:
        return not_measured("the neutral texts have fewer than two tokens each")
    finite = [pair for pair in usable if math.isfinite(pair[0][0]) and math.isfinite(pair[1][0])]
    out = [("fewer than two tokens", len(pairs) - len(usable)), (NOT_FINITE, len(usable) - len(finite))]
    counts = [(reason, count) for reason, count in out if count]
    return average(finite, NOT_FINITE, counts, seed=evidence.seed, statistic=perplexity)


LOCALITY = Metric(
    name="locality",
    label="Locality",
    question="Does it leave other facts alone?",
    headline="greedy",
    definitions=_LOCALITY,
    measure=_locality,
    unknown="the unedited model did not know the answer",
)

_PORTABILITY: dict[str, Definition] = {
    "greedy": _share(
        "Carries over",
        "greedy",
        "Share of alias, one-hop and inverse prompts, and of those a dataset adds, whose greedy continuation, "
        "generated freely, starts with the answer that follows from the edit, counted only where the unedited model "
        "knew the bridge fact.",
    ),
    "alias_greedy": _share(
        "Other name",
        "greedy",
        "Share of prompts naming the subject by another name that give the new answer, where the unedited model gave "
        "the true answer under that name.",
    ),
    "one_hop_greedy": _share(
        "One step on",
        "greedy",
        "Share of prompts asking one stored fact further that give what follows from the new answer, where the "
        "unedited model knew that stored fact.",
    ),
    "inverse_greedy": _share(
        "Reverse",
        "greedy",
        "Share of prompts asking for the subject of the new answer that give the edited subject, where the unedited "
        "model could answer the reverse question about the true answer.",
    ),
    "token_accuracy": _share(
        "Token accuracy",
        "teacher-forced",
        "Mean share of the expected answers' tokens that are the most probable next token when the tokens before them "
        "are given, over the counted portability prompts.",
    ),
    "comparison": _share(
        "P(new) > P(true)",
        "comparison",
        "Share of counted alias prompts on which the new answer is more probable per token than the true one; for the "
        "other kinds no old answer is known.",
    ),
    "rank": Definition(
        "First-token rank",
        "teacher-forced",
        "rank",
        False,
        "Median rank of the expected answers' first token over the counted portability prompts; 1 is the most "
        "probable.",
    ),
    "p_answer": Definition(
        "P(expected)",
        "teacher-forced",
        "probability",
        True,
        "Mean probability of the whole expected answer over the counted portability prompts.",
    ),
}


def _portability(evidence: Evidence) -> dict[str, Measured]:
    rows, alias = evidence.of("portability"), evidence.of("portability", "alias")
    return {
        "greedy": greedy(rows, "portability prompts"),
        "alias_greedy": greedy(alias, "alias prompts"),
        "one_hop_greedy": greedy(evidence.of("portability", "one_hop"), "one-hop prompts"),
        "inverse_greedy": greedy(evidence.of("portability", "inverse"), "inverse prompts"),
        "comparison": comparison(alias, "alias prompts"),
        **teacher_forced(rows, "portability prompts", evidence.seed, ("token_accuracy", "rank", "p_answer")),
    }


PORTABILITY = Metric(
    name="portability",
    label="Portability",
    question="Does it use the new fact under other names and in further steps?",
    headline="greedy",
    definitions=_PORTABILITY,
    measure=_portability,
    unknown="the unedited model did not know the bridge fact",
)
