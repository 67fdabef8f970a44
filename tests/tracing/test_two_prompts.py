"""Patching between two prompts: against plain hooks, one state at a time, and what must hold whatever the model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from facts.watch import Cancelled, Watch
from models import own_answer
from tests.oracle.plain_hooks import hooked
from tests.tiny import tiny_model
from tracing.lenses.two_prompts import PatchResult, patch_between

SOURCE, BASE = "the city of Rome is in", "the city of Paris is in"


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "opt"])
@pytest.mark.parametrize("site", ["resid_post", "mlp_out", "attn_out"])
def test_each_state_is_written_where_it_belongs(family: str, site: str) -> None:
    model = tiny_model(family)
    result = patch_between(model, SOURCE, BASE, site=site, pairs=[(2, 3)])  # type: ignore[arg-type]
    source, base = (torch.tensor([model.encode(prompt)]) for prompt in (SOURCE, BASE))
    words = [own_answer(model, prompt)[0] for prompt in (SOURCE, BASE)]
    for layer in range(model.n_layers):
        _, states = hooked(model, source, [(site, layer)], {})
        state = states[site, layer][0, 2]

        def write(value: torch.Tensor, state: torch.Tensor = state) -> torch.Tensor:
            value[0, 3] = state
            return value

        logits, _ = hooked(model, base, [], {(site, layer): write})
        expected = logits[0, -1].float().softmax(-1)[words].numpy()
        assert np.allclose(result.patched[:, 0, layer], expected, atol=1e-6)


def test_the_last_state_carries_the_whole_answer_and_an_equal_prompt_changes_nothing() -> None:
    model = tiny_model("gpt2")
    last = (len(model.encode(SOURCE)) - 1, len(model.encode(BASE)) - 1)
    result = patch_between(model, SOURCE, BASE, pairs=[last])
    assert np.allclose(result.patched[:, 0, -1], result.unpatched[0], atol=1e-6)
    assert np.allclose(patch_between(model, BASE, BASE).change, 0, atol=1e-6)


def test_what_does_not_fit_is_refused_and_a_run_can_be_stopped() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="tokens have no partner"):
        patch_between(model, f"{SOURCE} the", BASE)
    with pytest.raises(ValueError, match="no token 0 in the source or 99"):
        patch_between(model, SOURCE, BASE, pairs=[(0, 99)])
    with pytest.raises(ValueError, match="single heads"):
        patch_between(model, SOURCE, BASE, site="attn_heads")
    with pytest.raises(Cancelled):
        patch_between(model, SOURCE, BASE, pairs=[(0, 0)], watch=Watch(cancelled=lambda: True))


def test_a_result_goes_into_a_file_and_back(tmp_path: Path) -> None:
    result = patch_between(tiny_model("gpt2"), SOURCE, BASE, pairs=[(1, 1)])
    result.save(tmp_path / "patched.json")
    again = PatchResult.load(tmp_path / "patched.json")
    assert (again.words, again.pairs) == (result.words, result.pairs)
    assert np.allclose(again.patched, result.patched)
