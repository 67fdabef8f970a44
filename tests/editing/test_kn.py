"""Knowledge neurons: the attributions add up, the choice is the paper's, and the edit touches what it says."""

import pytest
import torch

from editing import apply_edits
from editing.methods.kn import KnowledgeNeuronsConfig, Neuron, attributions, choose, read_prompt, rewrite
from editing.registry import get_method
from facts import EditRequest, Fact
from models import as_out_in, run, target_ids
from tests.editing.quick import NEEDLE, quick
from tests.tiny import tiny_model


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "qwen3_5_text"])
@pytest.mark.parametrize(("rule", "tolerance"), [("right", 0.1), ("midpoint", 0.01)])
def test_attributions_of_a_layer_add_up(family: str, rule: str, tolerance: float) -> None:
    """Completeness: sum_i Attr_i = P(old | w) - P(old | 0), the better the finer the steps (Sundararajan et al.)."""
    model = tiny_model(family)
    ids = model.encode(NEEDLE.fact.prompt)
    token = int(model.logits(torch.tensor([ids]))[0, -1].argmax())  # likely, so that there is something to attribute
    fractions = KnowledgeNeuronsConfig(rule=rule, steps=100).fractions  # type: ignore[arg-type]
    prompt = read_prompt(model, ids)
    for layer in range(model.n_layers):
        found, whole, nothing = attributions(model, prompt, layer, token, fractions)
        assert float(found.sum()) == pytest.approx(whole - nothing, abs=tolerance * max(abs(whole - nothing), 0.05))


def test_where_the_gradient_is_read() -> None:
    torch.testing.assert_close(KnowledgeNeuronsConfig(steps=4).fractions, torch.tensor([0.25, 0.5, 0.75, 1.0]))
    midpoint = KnowledgeNeuronsConfig(steps=4, rule="midpoint").fractions
    torch.testing.assert_close(midpoint, torch.tensor([0.125, 0.375, 0.625, 0.875]))


def test_neurons_are_read_behind_their_activation() -> None:
    """With all neurons of a layer at zero the MLP writes its bias alone: the site is the down projection's input."""
    model = tiny_model("gpt2")
    ids = model.encode(NEEDLE.fact.prompt)
    token = target_ids(model, "Seattle")[0]
    _, _, nothing = attributions(model, read_prompt(model, ids), 1, token, KnowledgeNeuronsConfig(steps=2).fractions)

    def bias_alone(written: torch.Tensor) -> torch.Tensor:
        written[:, -1] = model.key_module(1).bias
        return written

    logits = run(model, torch.tensor([ids]), patches={("mlp_out", 1): bias_alone}, last_only=True).logits
    assert nothing == pytest.approx(float(logits[0, -1].softmax(-1)[token]), rel=1e-4)


def test_choice_by_hand() -> None:
    # two prompts, one layer, four neurons; thresholds 0.2 x largest are 2 and 1
    attributed = torch.tensor([[[10.0, 3.0, 1.0, -9.0]], [[2.0, 0.5, 5.0, -9.0]]])
    first, second, third = (Neuron(0, index) for index in range(3))
    assert choose(attributed, 0.2, 1.0, 5) == [first]  # the only one in both
    assert choose(attributed, 0.2, 0.5, 5) == [first, third, second]  # means 6, 3, 1.75
    assert choose(attributed, 0.2, 0.5, 2) == [first, third]
    apart = torch.tensor([[[4.0, 0.0]], [[0.0, 3.0]]])
    assert choose(apart, 0.2, 0.9, 5) == [first, second]  # none in both, so the share is lowered
    with pytest.raises(ValueError, match="no neuron raises the probability of the old answer"):
        choose(-attributed.abs(), 0.2, 0.5, 5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_edit_touches_the_listed_neurons_by_their_own_norms(family: str) -> None:
    model = tiny_model(family)
    old, new = (target_ids(model, word)[0] for word in ("Seattle", "Rome"))
    neurons = [Neuron(1, 5), Neuron(1, 7), Neuron(3, 2)]
    head = model.weight(f"{model.architecture.head}.weight")
    for c_old, c_new, token, factor in ((1.0, 0.0, old, -1.0), (0.0, 8.0, new, 8.0)):
        deltas = rewrite(model, neurons, old, new, c_old, c_new)
        assert [delta.name for delta in deltas] == [model.architecture.key_weight_name(layer) for layer in (1, 3)]
        for delta, columns, layer in zip(deltas, ([5, 7], [2]), (1, 3), strict=True):
            change = delta.matrix()
            assert change.any(dim=0).nonzero().flatten().tolist() == columns
            weight = as_out_in(model.key_module(layer), model.weight(delta.name))
            for column in columns:
                expected = factor * weight[:, column].norm() * head[token] / head[token].norm()
                torch.testing.assert_close(change[:, column], expected, rtol=1e-4, atol=1e-5)


def test_without_its_neurons_the_old_answer_is_less_likely_than_without_others() -> None:
    model = tiny_model("gpt2")
    ids = model.encode(NEEDLE.fact.prompt)
    token = int(model.logits(torch.tensor([ids]))[0, -1].argmax())
    fractions, prompt = KnowledgeNeuronsConfig(steps=20).fractions, read_prompt(model, ids)
    found = torch.stack([attributions(model, prompt, layer, token, fractions)[0] for layer in range(model.n_layers)])

    def probability_without(neurons: list[Neuron]) -> float:
        def silence(layer: int):  # type: ignore[no-untyped-def]
            def patch(keys: torch.Tensor) -> torch.Tensor:
                keys[:, -1, [neuron.index for neuron in neurons if neuron.layer == layer]] = 0.0
                return keys

            return patch

        patches = {("mlp_key", layer): silence(layer) for layer in range(model.n_layers)}
        logits = run(model, torch.tensor([ids]), patches=patches, last_only=True).logits  # type: ignore[arg-type]
        return float(logits[0, -1].softmax(-1)[token])

    chosen = choose(found[None], 0.05, 0.5, 8)
    generator = torch.Generator().manual_seed(0)
    others = []
    for _ in range(10):
        places = torch.randint(0, found.numel(), (len(chosen),), generator=generator).tolist()
        others.append(probability_without([Neuron(i // model.d_mlp, i % model.d_mlp) for i in places]))
    assert probability_without(chosen) < min(others)


def test_the_old_answer_is_the_models_own_where_none_is_given() -> None:
    model = tiny_model("gpt2")
    unknown = EditRequest(Fact("Space Needle", "The {} is located in the city of", ""), "Paris")
    best = int(model.logits(torch.tensor([model.encode(unknown.fact.prompt)]))[0, -1].argmax())
    edit = get_method("kn").compute(model, (unknown,), quick("kn", ""))
    head = model.weight(f"{model.architecture.head}.weight")
    new = target_ids(model, "Paris")[0]
    direction = 8 * head[new] / head[new].norm() - head[best] / head[best].norm()
    cosine = torch.cosine_similarity(edit.weights[0].rows[:, 0], direction, dim=0)
    assert float(cosine) == pytest.approx(1.0, abs=1e-5)
    assert 1 <= edit.diagnostic("neurons").value <= 5
    assert not torch.equal(
        apply_edits(model, [edit]).logits(torch.tensor([model.encode("The")])), model.logits(torch.tensor([[5]]))
    )
