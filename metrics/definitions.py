"""The registry: every number the package reports, with its sentence.  docs/metrics.md holds formulas and sources."""

from __future__ import annotations

from dataclasses import dataclass, replace

from metrics.types import Metric, Scorer, Unit


@dataclass(frozen=True)
class Definition:
    """One number: what it is called, what it counts in, which way is good."""

    label: str
    scorer: Scorer
    unit: Unit
    higher_is_better: bool
    sentence: str


@dataclass(frozen=True)
class MetricInfo:
    """One of the five metrics."""

    label: str
    question: str
    """What it asks, for people."""
    headline: str
    """Key of the score shown first."""


METRICS: dict[Metric, MetricInfo] = {
    "reliability": MetricInfo("Reliability", "Does the model now give the new answer to the edit prompt?", "greedy"),
    "generalization": MetricInfo("Generalization", "Does it give the new answer to paraphrases?", "greedy"),
    "locality": MetricInfo("Locality", "Does it leave other facts alone?", "greedy"),
    "portability": MetricInfo(
        "Portability", "Does it use the new fact under other names and in further steps?", "greedy"
    ),
    "efficiency": MetricInfo("Efficiency", "What did the edit cost?", "seconds"),
}


def _share(label: str, scorer: Scorer, sentence: str) -> Definition:
    return Definition(label, scorer, "share", True, sentence)


def _new_answer(prompts: str) -> dict[str, Definition]:
    """The numbers of prompts that should give the new answer."""
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


_PREFIXED = {
    f"prefixed_{key}": replace(known, label=f"{known.label}, after an unrelated sentence")
    for key, known in _new_answer("the paraphrases put after an unrelated sentence").items()
    if key in ("greedy", "comparison")
}

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

_SECONDS = {
    "trace": "Wall time of the causal trace.",
    "moments": "Wall time of estimating or loading the second moment of the keys.",
    "value": "Wall time of optimising the value vector.",
    "solve": "Wall time of solving for the weight change.",
    "apply": "Wall time of making the edited model from the base and the change.",
    "undo": "Wall time of going back to the unedited model.",
    "evaluate": "Wall time of this evaluation.",
}

_EFFICIENCY: dict[str, Definition] = {
    "seconds": Definition(
        "Edit time",
        "measured",
        "s",
        False,
        "Wall time of the edit: the measured ones of moments, value, solve and apply; without tracing and evaluation.",
    ),
    **{
        f"{stage}_seconds": Definition(f"{stage.capitalize()} time", "measured", "s", False, sentence)
        for stage, sentence in _SECONDS.items()
    },
    "peak_memory": Definition(
        "Peak memory",
        "measured",
        "bytes",
        False,
        "Most memory held by the process (on a GPU: by torch) up to the measurement.",
    ),
    "parameters_changed": Definition(
        "Parameters changed",
        "measured",
        "entries",
        False,
        "Number of weight entries that differ from the unedited model.",
    ),
    "parameters_share": Definition(
        "Share changed",
        "measured",
        "share",
        False,
        "Weight entries that differ from the unedited model, as a share of all.",
    ),
    "delta_norm": Definition(
        "Size of the change", "measured", "norm", False, "Frobenius norm of the difference of all weights."
    ),
}

DEFINITIONS: dict[str, Definition] = {
    **{f"reliability.{key}": value for key, value in _new_answer("edit prompts").items()},
    **{f"generalization.{key}": value for key, value in _new_answer("the paraphrases").items()},
    **{f"generalization.{key}": value for key, value in _PREFIXED.items()},
    **{f"locality.{key}": value for key, value in _LOCALITY.items()},
    **{f"portability.{key}": value for key, value in _PORTABILITY.items()},
    **{f"efficiency.{key}": value for key, value in _EFFICIENCY.items()},
}
"""By score name."""
