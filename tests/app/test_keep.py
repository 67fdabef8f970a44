"""Sessions that outlive a reload."""

from app.session.keep import TAKEN_OVER, Keeper
from app.session.session import Session


def test_sessions_are_held_by_name_and_the_idle_ones_go_first() -> None:
    keeper, sessions = Keeper(2), {name: Session() for name in "abc"}
    keeper.put("a", sessions["a"])
    keeper.put("b", sessions["b"])
    keeper.put("a", sessions["a"])  # it did something
    keeper.put("c", sessions["c"])
    assert keeper.get("a") is sessions["a"]
    assert keeper.get("b") is None
    assert keeper.get("c") is sessions["c"]
    assert keeper.get("") is None


def test_what_is_taken_over_are_fields_of_a_session() -> None:
    assert set(TAKEN_OVER) <= set(Session.__dataclass_fields__)
    assert {"ledger", "edit_ask", "score_ask", "runs"} <= set(TAKEN_OVER)
    assert "tab" not in TAKEN_OVER  # so that a duplicated tab has a session of its own
