"""KnowledgeEditor's hypernetwork: from the words of an edit to a gated gradient.

De Cao et al. 2021, section 3 (arXiv:2104.08164).  A bidirectional LSTM reads "{old} >> {new} || {prompt}"; a head for
each weight (d_out x d_in, y = W x) turns its last states into

    delta W = sigmoid(eta) (grad_W L * a + b),    a = gamma_a softmax(alpha_a)^T,    b = gamma_b softmax(alpha_b)^T,

with gamma [d_out], alpha [d_in] and one eta.  The gradient is detached: there is no second derivative, and its sign is
learned.  a and b have rank one, so the change is low-rank too: with p = softmax(alpha_a) and the gradient
sum_t d_t x_t^T, grad * a = sum_t (gamma_a * d_t) (p * x_t)^T.  The softmax runs over the inputs whatever the module
stores, so that Conv1D and Linear mean the same; in the authors' code it runs over the rows of the stored matrix, which
are inputs for Conv1D and outputs for Linear.

Two choices of our own make it learn in minutes.  The gradient is divided by its usual norm and multiplied by d_in
(`scales`, measured before training), since its size differs from weight to weight and p has entries of 1 / d_in.  And
gamma_a starts near -1: a plain descent step.  Both say where gamma_a starts and how fast it moves, not what it can
express.  Embeddings are the language model's own, shared and frozen, where the paper trains a copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence

from editing.train.factors import Factors
from editing.train.rows import LowRank
from models import LanguageModel

MAX_CONDITION = 32
"""Most tokens of the condition."""


class WeightHead(nn.Module):
    """Maps the condition to one weight's gates; both layers are weight-normalised."""

    def __init__(self, d_in: int, d_out: int, condition: int, hidden: int) -> None:
        super().__init__()
        self.sizes = (d_out, d_in, d_out, d_in, 1)
        self.first = weight_norm(nn.Linear(condition, hidden))
        self.second = weight_norm(nn.Linear(hidden, sum(self.sizes)))

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """[edit, condition] -> gamma_a [edit, d_out], p_a [edit, d_in], gamma_b, p_b and sigmoid(eta) [edit, 1]."""
        gamma_a, alpha_a, gamma_b, alpha_b, eta = self.second(self.first(condition).tanh()).split(self.sizes, -1)
        return gamma_a, alpha_a.softmax(-1), gamma_b, alpha_b.softmax(-1), eta.sigmoid()


class KeNetwork(nn.Module):
    """The hypernetwork.

    `scales` [weight] is what each weight's gradient is multiplied by; 1 until `measure` was called.

    Args:
        shapes: parameter name -> (d_in, d_out).
        d_embedding: width of the language model's embeddings.
        hidden: of the LSTM, each way, and of the heads.
        condition: width of what the heads read.
        seed: of all weights.
    """

    scales: Tensor

    def __init__(
        self, shapes: Mapping[str, tuple[int, int]], d_embedding: int, hidden: int, condition: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.names = tuple(shapes)
        with torch.device("meta"):  # torch's own start draws from the global generator, which is not ours to move
            self.lstm = nn.LSTM(d_embedding, hidden, batch_first=True, bidirectional=True)
            self.condition = nn.Linear(2 * hidden, condition)
            self.heads = nn.ModuleList([WeightHead(*shapes[name], condition, hidden) for name in self.names])
        self.to_empty(device="cpu")
        self.register_buffer("scales", torch.ones(len(self.names)))
        self._draw(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _draw(self, generator: torch.Generator) -> None:
        """Uniform in +-1/sqrt(fan in), PyTorch's default, but from a generator instead of the global state."""
        for name, parameter in self.named_parameters():
            if name.endswith("original0"):  # weight norm's gains follow from its directions, drawn with them
                continue
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else self.lstm.hidden_size
            parameter.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
        for head in self.heads:
            assert isinstance(head, WeightHead)
            for linear in (head.first, head.second):
                parts = linear.parametrizations["weight"]
                parts.original0.copy_(parts.original1.norm(dim=1, keepdim=True))
            head.second.bias[: head.sizes[0]] = -1.0  # gamma_a

    @torch.no_grad()
    def measure(self, factors: Mapping[str, Factors]) -> None:
        """Set `scales` by the root mean square of the gradients' Frobenius norms."""
        for index, name in enumerate(self.names):
            norms = factors[name].matrices().flatten(1).norm(dim=1)
            self.scales[index] = factors[name].inputs.shape[-1] / norms.square().mean().sqrt().clamp_min(1e-12)

    def read(self, embedded: Tensor, lengths: Sequence[int]) -> Tensor:
        """Condition of each edit: [edit, pos, d_embedding], padded on the right -> [edit, condition]."""
        packed = pack_padded_sequence(embedded, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        read: Tensor = self.condition(torch.cat([last[0], last[1]], -1)).tanh()
        return read

    def forward(self, factors: Mapping[str, Factors], embedded: Tensor, lengths: Sequence[int]) -> dict[str, LowRank]:
        """Each weight's change for each edit, of rank pos + 1."""
        condition = self.read(embedded, lengths)
        changes = {}
        for name, head, scale in zip(self.names, self.heads, self.scales, strict=True):
            changes[name] = gated(head(condition), Factors(factors[name].inputs, scale * factors[name].grads))
        return changes


def gated(gates: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], factors: Factors) -> LowRank:
    """sigmoid(eta) (grad * a + b) in factors."""
    gamma_a, p_a, gamma_b, p_b, size = gates
    rows = torch.cat([gamma_a[:, None] * factors.grads, gamma_b[:, None]], 1)
    cols = torch.cat([p_a[:, None] * factors.inputs, p_b[:, None]], 1)
    return LowRank(size[:, None] * rows, cols)


def condition_ids(model: LanguageModel, old: str, new: str, prompt: str) -> list[int]:
    """Token ids of "{old} >> {new} || {prompt}", cut after `MAX_CONDITION`."""
    return model.tokenize(f"{old} >> {new} || {prompt}", special_tokens=False)[:MAX_CONDITION]


def embed_conditions(model: LanguageModel, conditions: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
    """Input embeddings of the conditions, [edit, pos, d_model] padded on the right, and their lengths."""
    lengths = [len(ids) for ids in conditions]
    width = max(lengths)
    ids = torch.tensor([[*ids, *([model.pad_id] * (width - len(ids)))] for ids in conditions])
    return model.embedding(ids).float(), lengths
