"""The generation scores of Meng et al. 2022: how varied a text is, and how similar to reference texts.

Generation entropy GE (arXiv:2202.05262, section 3.3, after Zhang et al. 2018), over the n-grams of words:

    H_n = - sum_g f(g) log2 f(g),  f(g) the share of n-gram g among all n-grams;  GE = (2/3 H_2 + 4/3 H_3) / 2, bits

which is what their code computes: the mean of the weighted entropies, so the weights are 1/3 and 2/3.  Papers print 100
times this number.

Reference score RS: the cosine of two tf-idf vectors, of the generated texts and of encyclopedia texts about things that
have the new answer (same sections).  Term frequencies are counts, and

    idf(t) = ln((1 + N) / (1 + N_t)) + 1

over all N reference texts of which N_t hold t, as scikit-learn's TfidfVectorizer has it, which their code uses.  A term
is a run of two or more letters, digits or underscores, in lower case; terms that no reference text holds are
ignored.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import fmean

WEIGHTS = {2: 2 / 3, 3: 4 / 3}
"""Weights of the entropies of bigrams and trigrams; see the module's equation."""

_ABBREVIATIONS = (
    "a.d a.m adm ala ariz aug ave b.v bros calif co col colo conn corp cos ct d.c dec dr feb fla fri ft ga gen ill inc "
    "jan jr kan ky l.a lt ltd m.b.a maj messrs mg mich minn mr mrs ms n.c n.h n.j n.m n.v n.y nev nov oct okla ore p.m "
    "pa ph.d prof rep reps s.a s.c s.p.a sen sep sept sr st tenn tues u.k u.n u.s u.s.a u.s.s.r va vs vt w.va wash wed "
    "wis yr"
)
"""What a full stop may follow within a sentence, in small letters."""
_STARTERS = (
    "according although among both but despite even he however i if in indeed instead it many meanwhile moreover most "
    "nevertheless nonetheless nor similarly since so some the there these they this though thus under when while yet"
)
"""Words that begin a sentence where they follow an abbreviation and have a capital."""
_TERM = re.compile(r"\b\w\w+\b")


def words(text: str) -> list[str]:
    """A text's words and punctuation marks, in order, as `nltk.word_tokenize` has them: sentences, then words.

    NLTK finds sentences with a model that has to be downloaded.  Its algorithm (Kiss and Strunk 2006, doi
    10.1162/coli.2006.32.4.485) is given common abbreviations here in place of that model.
    """
    sentences, words_of = _splitters()
    return [word for sentence in sentences(text) for word in words_of(sentence)]


@cache
def _splitters() -> tuple[Callable[[str], list[str]], Callable[[str], list[str]]]:
    """(text -> sentences, sentence -> words)."""
    from nltk.tokenize.destructive import NLTKWordTokenizer  # takes seconds
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS.split())
    parameters.sent_starters = set(_STARTERS.split())
    return PunktSentenceTokenizer(parameters).tokenize, NLTKWordTokenizer().tokenize


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
    """Its subject."""
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
        """The texts of one relation and answer; empty if there are none."""
        return self.snippets.get((relation, answer), ())

    @cached_property
    def idf(self) -> dict[str, float]:
        """idf of every term of the reference texts."""
        texts = [snippet.text for group in self.snippets.values() for snippet in group]
        holding = Counter(term for text in texts for term in set(_terms(text)))
        return {term: math.log((1 + len(texts)) / (1 + count)) + 1 for term, count in holding.items()}

    def similarity(self, first: Iterable[str], second: Iterable[str]) -> float:
        """Cosine of the tf-idf vectors of two groups of texts, each group joined; 0 if one holds no known term."""
        left, right = self._vector(" ".join(first)), self._vector(" ".join(second))
        dot = math.fsum(weight * right.get(term, 0.0) for term, weight in left.items())
        norms = math.hypot(*left.values()) * math.hypot(*right.values())
        return dot / norms if norms else 0.0

    def _vector(self, text: str) -> dict[str, float]:
        return {term: count * self.idf[term] for term, count in Counter(_terms(text)).items() if term in self.idf}


def _terms(text: str) -> list[str]:
    return _TERM.findall(text.lower())
