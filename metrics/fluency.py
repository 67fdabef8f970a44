"""How varied a text is, and how much it resembles reference texts: the generation scores of Meng et al. 2022.

Generation entropy GE (arXiv:2202.05262, section 3.3, after Zhang et al. 2018), over the n-grams of words:

    H_n = - sum_g f(g) log2 f(g),  f(g) the share of n-gram g among all n-grams;  GE = (2/3 H_2 + 4/3 H_3) / 2, bits

which is what their code computes: the mean of the weighted entropies, so the weights are 1/3 and 2/3.  Papers print 100
times this number.

Reference score RS: the cosine of two tf-idf vectors, of the generated texts and of encyclopedia texts about things that
have the new answer (same sections).  Term frequencies are counts, and

    idf(t) = ln((1 + N) / (1 + N_t)) + 1

over all N reference texts of which N_t hold t, as scikit-learn's TfidfVectorizer has it, which their code uses.  A term
is a run of two or more letters, digits or underscores, in lower case; terms that no reference text holds count for
nothing.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

WEIGHTS = {2: 2 / 3, 3: 4 / 3}
"""Of the entropies of bigrams and trigrams; see the module's equation."""

# Close to NLTK's word_tokenize, which needs a download: punctuation apart, n't and 's apart.
_WORD = re.compile(r"\w+?(?=n't\b)|n't\b|'(?:s|re|ve|d|m|ll)\b|\w+(?:[-.]\w+)*|[^\w\s]", re.IGNORECASE)
_TERM = re.compile(r"\b\w\w+\b")


def words(text: str) -> list[str]:
    """A text's words and punctuation marks, in order."""
    return _WORD.findall(text)


def ngram_entropy(tokens: Sequence[str], n: int) -> float:
    """H_n of the module's equation, bits; 0 for a text of fewer than `n` words."""
    counts = Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))
    total = sum(counts.values())
    return -math.fsum(count / total * math.log2(count / total) for count in counts.values())


def generation_entropy(texts: Iterable[str]) -> float:
    """GE: the mean over texts, bits.

    Raises:
        ValueError: if there is no text.
    """
    split = [words(text) for text in texts]
    if not split:
        raise ValueError("there is no text to measure; generate at least one")
    return fmean(fmean(weight * ngram_entropy(text, n) for n, weight in WEIGHTS.items()) for text in split)


@dataclass(frozen=True)
class Snippet:
    """A reference text."""

    name: str
    """What it is about."""
    text: str


@dataclass(frozen=True, eq=False)
class References:
    """Reference texts, as in ROME's attribute_snippets.json."""

    snippets: Mapping[tuple[str, str], tuple[Snippet, ...]]
    """By (relation, answer), in words or as a dataset's ids: texts about things that have that answer."""

    @classmethod
    def from_pairs(cls, snippets: Mapping[tuple[str, str], Sequence[tuple[str, str]]]) -> References:
        """Of (name, text) pairs, as `facts.importers.read_snippets` gives them."""
        return cls({key: tuple(Snippet(name, text) for name, text in group) for key, group in snippets.items()})

    def of(self, relation: str, answer: str) -> tuple[Snippet, ...]:
        """Those of one relation and answer; empty where there are none."""
        return self.snippets.get((relation, answer), ())

    @cached_property
    def idf(self) -> dict[str, float]:
        """idf of every term of the reference texts."""
        texts = [snippet.text for group in self.snippets.values() for snippet in group]
        holding = Counter(term for text in texts for term in set(_terms(text)))
        return {term: math.log((1 + len(texts)) / (1 + count)) + 1 for term, count in holding.items()}

    def similarity(self, first: Iterable[str], second: Iterable[str]) -> float:
        """Cosine of the tf-idf vectors of two groups of texts, each read as one; 0 where one holds no known term."""
        left, right = self._vector(" ".join(first)), self._vector(" ".join(second))
        dot = math.fsum(weight * right.get(term, 0.0) for term, weight in left.items())
        norms = math.hypot(*left.values()) * math.hypot(*right.values())
        return dot / norms if norms else 0.0

    def _vector(self, text: str) -> dict[str, float]:
        return {term: count * self.idf[term] for term, count in Counter(_terms(text)).items() if term in self.idf}


def _terms(text: str) -> list[str]:
    return _TERM.findall(text.lower())
