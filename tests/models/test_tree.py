"""A tree's forward: the same logits and the same decoding as row by row, for every family that takes it."""

import pytest
import torch

from models.forwards.tree import Tree, TreeForward, joined_cache, shares_beginnings
from models.generation import greedy
from tests.tiny import FAMILIES, HYBRIDS, tiny_model

ROWS = [(5, 6, 7, 8), (5, 6, 9), (5, 6, 7, 10, 11, 12), (13, 6, 7)]


def test_nodes_of_a_tree_by_hand() -> None:
    tree = Tree()
    paths = [tree.add(row) for row in ROWS]
    assert paths == [[0, 1, 2, 3], [0, 1, 4], [0, 1, 2, 5, 6, 7], [8, 9, 10]]
    assert tree.depths == [0, 1, 2, 3, 2, 3, 4, 5, 0, 1, 2]
    assert (tree.child(2, 10), tree.child(2, 9)) == (5, None)
    assert (tree.new_nodes((5, 6, 7, 8, 1)), tree.new_nodes((5, 6)), tree.new_nodes((6,))) == (1, 0, 1)
    reads = [row.nonzero()[:, 0].tolist() for row in tree.ancestors]
    assert (reads[3], reads[7], reads[10]) == ([0, 1, 2, 3], [0, 1, 2, 5, 6, 7], [8, 9, 10])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_gives_the_logits_and_the_decoding_of_rows_alone(family: str) -> None:
    model = tiny_model(family)
    if not shares_beginnings(model):
        pytest.skip(f"{family} is read row by row")
    tree = Tree()
    paths = [tree.add(row) for row in ROWS]
    forward = TreeForward(model, tree, range(len(tree)))
    for row, path in zip(ROWS, paths, strict=True):
        torch.testing.assert_close(forward.logits[path], model.logits(torch.tensor([row]))[0], rtol=1e-4, atol=1e-4)
    cache = joined_cache([forward.keys_values([path[:-1] for path in paths], max(map(len, ROWS)) - 1)])
    lengths, steps = list(map(len, ROWS)), [3, 7, 5, 1]
    made = greedy(model.module, ROWS, lengths, steps, model.eos_ids, model.device, cache)
    alone = [model.continuations([row], n)[0] for row, n in zip(ROWS, steps, strict=True)]
    assert made == alone


def test_the_families_that_are_read_row_by_row_are_known() -> None:
    """Their scores depend on the distance within the packed row; a hybrid's states on all before them there."""
    assert {family for family in FAMILIES if not shares_beginnings(tiny_model(family))} == {"bloom", "mpt", *HYBRIDS}


def test_nodes_behind_the_first_fork_by_hand() -> None:
    tree = Tree()
    assert tree.behind_fork([1, 2, 3]) == 0  # a row alone has no fork
    tree.add([1, 2, 3])
    assert tree.behind_fork([1, 2, 3, 4]) == 1  # goes on behind the third
    assert tree.behind_fork([1, 2, 5, 6]) == 3  # 3, 5 and 6 stand behind the second
    assert tree.behind_fork([7]) == 4  # nothing is shared
    tree.add([1, 2, 5, 6])
    assert tree.behind_fork([1, 9]) == 5
