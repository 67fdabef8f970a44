"""The closed forms of MEMIT, EMMET and AlphaEdit, against hand-worked numbers and the identities of their papers."""

import pytest
import torch

from editing.methods.alphaedit import alphaedit_directions, null_basis
from editing.methods.emmet import emmet_directions
from editing.methods.memit import memit_directions
from editing.parts.moments import Moment
from editing.parts.rank_one import key_direction, rank_one_update

D_MLP, D_MODEL, N = 12, 7, 3


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def moment() -> torch.Tensor:
    """C of a hundred old keys: [d_mlp, d_mlp]."""
    old = random(100, D_MLP, seed=1)
    return old.T @ old / 100


KEYS, RESIDUALS = random(D_MLP, N, seed=2), random(D_MODEL, N, seed=3)


def test_memit_by_hand() -> None:
    # C = diag(1, 2), lambda 2, k = (1, 2): k k^T + 2 C = [[3, 2], [2, 8]], its inverse times k = (4, 4) / 20
    directions = memit_directions(torch.tensor([[1.0], [2.0]]).double(), torch.diag(torch.tensor([1.0, 2.0])), 2.0)
    torch.testing.assert_close(directions, torch.tensor([[0.2, 0.2]]).double())


def test_memit_solves_its_normal_equations(moment: torch.Tensor) -> None:
    change = RESIDUALS @ memit_directions(KEYS, moment, 5.0)
    torch.testing.assert_close(change @ (5.0 * moment + KEYS @ KEYS.T), RESIDUALS @ KEYS.T)
    assert int(torch.linalg.matrix_rank(change)) == N


def test_memit_of_one_fact_is_a_shortened_rome(moment: torch.Tensor) -> None:
    key, residual = KEYS[:, 0], RESIDUALS[:, 0]
    exact = Moment(moment, 100, 1.0, "old keys")
    rows, cols = rank_one_update(residual, key, key_direction(key, exact, 0.0))
    leverage = float(key @ torch.linalg.solve(moment, key))
    for weight in (10.0, 1.0, 1e-6):
        change = residual[:, None] @ memit_directions(key[:, None], moment, weight)
        torch.testing.assert_close(change, leverage / (weight + leverage) * rows @ cols)
    torch.testing.assert_close(change, rows @ cols, rtol=1e-5, atol=1e-8)  # with the last weight, ROME itself


def test_memit_with_heavy_old_keys_does_nothing(moment: torch.Tensor) -> None:
    sizes = [float((RESIDUALS @ memit_directions(KEYS, moment, weight)).norm()) for weight in (1.0, 1e3, 1e9)]
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[2] < 1e-6


def test_a_fact_given_twice_to_memit_weighs_twice_and_no_more(moment: torch.Tensor) -> None:
    twice, wanted = torch.cat([KEYS, KEYS], 1), torch.cat([RESIDUALS, RESIDUALS], 1)
    change = wanted @ memit_directions(twice, moment, 4.0)
    torch.testing.assert_close(change, RESIDUALS @ memit_directions(KEYS, moment, 2.0))


def test_shares_of_what_is_missing_close_the_gap() -> None:
    """R / (L - i) of what is left, exactly written by every layer of a linear network, leaves nothing."""
    key, height = random(D_MLP, 1, seed=4), torch.zeros(D_MODEL, 1).double()
    for index in range(3):
        missing = RESIDUALS[:, :1] - height
        height = height + (missing / (3 - index)) @ memit_directions(key, torch.eye(D_MLP), 1e-12) @ key
    torch.testing.assert_close(height, RESIDUALS[:, :1])


def test_emmet_of_one_fact_is_rome(moment: torch.Tensor) -> None:
    key, residual = KEYS[:, 0], RESIDUALS[:, 0]
    rows, cols = rank_one_update(residual, key, key_direction(key, Moment(moment, 100, 1.0, "old keys"), 0.0))
    torch.testing.assert_close(residual[:, None] @ emmet_directions(key[:, None], moment, 0.0), rows @ cols)


def test_emmet_maps_every_key_and_disturbs_old_ones_least(moment: torch.Tensor) -> None:
    change = RESIDUALS @ emmet_directions(KEYS, moment, 0.0)
    torch.testing.assert_close(change @ KEYS, RESIDUALS)
    ours = torch.trace(change @ moment @ change.T)
    for seed in range(10):
        other = change + random(D_MODEL, D_MLP, seed=seed)
        other = other + (RESIDUALS - other @ KEYS) @ torch.linalg.pinv(KEYS)
        torch.testing.assert_close(other @ KEYS, RESIDUALS)
        assert torch.trace(other @ moment @ other.T) > ours


def test_emmet_needs_slack_where_keys_are_alike(moment: torch.Tensor) -> None:
    alike = torch.cat([KEYS[:, :1], KEYS[:, :1]], 1)
    with pytest.raises(ValueError, match="two of the new keys are equal"):
        emmet_directions(alike, moment, 0.0)
    change = RESIDUALS[:, :2] @ emmet_directions(alike, moment, 1e-3)
    torch.testing.assert_close(change @ KEYS[:, 0], RESIDUALS[:, :2].mean(1), rtol=1e-2, atol=1e-2)


def test_null_basis_is_a_projection_off_the_old_keys() -> None:
    old = random(5, D_MLP, seed=5)  # five old keys in twelve dimensions: seven are free
    basis, values = null_basis(*torch.linalg.eigh(old.T @ old / 5), 1e-9)
    project = basis @ basis.T
    assert basis.shape == (D_MLP, D_MLP - 5)
    assert float(values.abs().max()) < 1e-12
    torch.testing.assert_close(project @ project, project)
    torch.testing.assert_close(project, project.T)
    torch.testing.assert_close(project @ old.T, torch.zeros(D_MLP, 5).double(), rtol=0, atol=1e-9)


def test_without_a_free_direction_the_reader_is_told(moment: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="every direction has at least 1e-09 of the mean share"):
        null_basis(*torch.linalg.eigh(moment), 1e-9)


def test_alphaedit_leaves_old_keys_exactly_where_they_were() -> None:
    old, past = random(5, D_MLP, seed=5), random(D_MLP, 2, seed=6)
    basis, _ = null_basis(*torch.linalg.eigh(old.T @ old / 5), 1e-9)
    change = RESIDUALS @ alphaedit_directions(KEYS, past, basis, 0.1)
    assert float((change @ old.T).abs().max()) < 1e-9
    without = RESIDUALS @ memit_directions(KEYS, old.T @ old / 5 + torch.eye(D_MLP), 0.1)
    assert float((without @ old.T).abs().max()) > 0.1
    torch.testing.assert_close(change @ basis @ basis.T, change)


def test_alphaedit_is_the_published_solve(moment: torch.Tensor) -> None:
    """delta^T = solve(P (K K^T + K_p K_p^T) + L2 I, P K R^T), as the authors' code has it."""
    basis, _ = null_basis(*torch.linalg.eigh(moment), 0.9)
    project, past = basis @ basis.T, random(D_MLP, 4, seed=6)
    system = project @ (KEYS @ KEYS.T + past @ past.T) + 0.7 * torch.eye(D_MLP).double()
    published = torch.linalg.solve(system, project @ KEYS @ RESIDUALS.T).T
    torch.testing.assert_close(RESIDUALS @ alphaedit_directions(KEYS, past, basis, 0.7), published)


def test_alphaedit_with_nothing_to_protect_is_ridge_regression() -> None:
    directions = alphaedit_directions(KEYS, torch.zeros(D_MLP, 0).double(), torch.eye(D_MLP).double(), 0.7)
    ridge = KEYS.T @ torch.linalg.inv(KEYS @ KEYS.T + 0.7 * torch.eye(D_MLP))
    torch.testing.assert_close(directions, ridge)
    assert float(alphaedit_directions(KEYS, KEYS[:, :0], torch.eye(D_MLP).double(), 1e12).norm()) < 1e-9


def test_alphaedit_disturbs_old_keys_within_its_bound(moment: torch.Tensor) -> None:
    """E |delta k|^2 = tr(delta C delta^T) <= (largest eigenvalue kept) |delta|^2."""
    basis, values = null_basis(*torch.linalg.eigh(moment), 0.9)
    change = RESIDUALS @ alphaedit_directions(KEYS, KEYS[:, :0], basis, 0.1)
    assert torch.trace(change @ moment @ change.T) <= values.max() * change.square().sum()


def test_keys_of_earlier_edits_are_disturbed_less_when_they_are_known(moment: torch.Tensor) -> None:
    basis, _ = null_basis(*torch.linalg.eigh(moment), 0.9)
    first = KEYS[:, :1] + 0.1 * random(D_MLP, 1, seed=8)  # close to one of the new keys
    blind = RESIDUALS @ alphaedit_directions(KEYS, first[:, :0], basis, 0.1) @ first
    aware = RESIDUALS @ alphaedit_directions(KEYS, 10 * first, basis, 0.1) @ first
    assert float(aware.norm()) < 0.2 * float(blind.norm())


def test_edits_in_a_row_are_the_batch_where_keys_stay_as_they_were(moment: torch.Tensor) -> None:
    """Recursive least squares: with K_p, each edit writes what those before it left missing, and all of them together
    are the one solve for the whole batch.  Without K_p they are not."""
    basis, _ = null_basis(*torch.linalg.eigh(moment), 0.9)
    batch = RESIDUALS @ alphaedit_directions(KEYS, KEYS[:, :0], basis, 0.7)
    aware, blind = torch.zeros_like(batch), torch.zeros_like(batch)
    for index in range(KEYS.shape[1]):
        key, wanted = KEYS[:, index : index + 1], RESIDUALS[:, index : index + 1]
        aware += (wanted - aware @ key) @ alphaedit_directions(key, KEYS[:, :index], basis, 0.7)
        blind += (wanted - blind @ key) @ alphaedit_directions(key, KEYS[:, :0], basis, 0.7)
    torch.testing.assert_close(aware, batch)
    assert float((blind - batch).norm()) > 0.1 * float(batch.norm())
