"""Branches: sets of edits by their keys, which the ledger of a folder and the page's list both are."""

import subprocess
import sys

import pytest

from facts.branches import Branches


def test_an_edit_is_added_anywhere_and_taken_out_of_the_current_branch_alone() -> None:
    empty = Branches({"main": (), "other": ("a", "b")}, "main")
    two = empty.added("a").added("b").added("c", position=1)
    assert two.edits() == ("a", "c", "b")
    assert two.without("a").edits() == ("c", "b")
    assert two.without("a").added("a", position=0) == two
    assert two.without("unknown") == two
    assert two.without("a").edits("other") == ("a", "b")
    assert empty.edits() == ()  # nothing changed what it was made from
    with pytest.raises(ValueError, match="the branch 'main' already has this edit, a"):
        two.added("a")


def test_branches_are_put_and_switched_to() -> None:
    first = Branches({"main": ("a",)}, "main")
    second = first.put("more", ["a", "b"]).switched("more")
    assert (second.current, second.edits(), list(second.by_name)) == ("more", ("a", "b"), ["main", "more"])
    assert second.put("main", []).edits("main") == ()
    assert list(second.put("main", []).by_name) == ["main", "more"]
    with pytest.raises(ValueError, match="unknown branch 'mor'; did you mean 'more'"):
        second.switched("mor")
    with pytest.raises(ValueError, match="unknown branch 'other'"):
        Branches({"main": ()}, "other")


def test_the_page_can_have_them_before_torch() -> None:
    script = "import facts.branches, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
