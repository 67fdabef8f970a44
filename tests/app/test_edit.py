"""Editing on the page, without a browser: tiles, what is marked after a change, undo."""

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

NewPage = Callable[..., AppTest]
METRICS = ["Reliability", "Generalization", "Locality", "Portability", "Efficiency"]


def edited(new_page: NewPage, **params: str) -> AppTest:
    """A page with an edit applied."""
    page = new_page(run="1", samples="2", layer="2", **params)
    page.number_input(key="rome_steps").set_value(2)
    page.number_input(key="rome_moment_tokens").set_value(500)
    page.button(key="apply_edit").click().run()
    assert not page.exception
    return page


def tiles(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric if metric.label in METRICS}


def notices(page: AppTest) -> str:
    return " ".join(element.value for kind in (page.error, page.warning, page.info) for element in kind)


def test_apply_and_undo(new_page: NewPage) -> None:
    page = edited(new_page)
    assert list(tiles(page)) == METRICS
    # A random model knows no neighbours and no bridges, so nothing can be kept or followed there.
    assert [name for name in METRICS if tiles(page)[name] == "—"] == ["Locality", "Portability"]
    page.button(key="undo").click().run()
    assert set(tiles(page).values()) == {"—"}


def test_without_probes_a_metric_is_not_measured_and_never_zero(new_page: NewPage) -> None:  # check 16
    page = edited(new_page, prompt="Some say the Space Needle stands in")
    shown = tiles(page)
    assert [name for name in METRICS if shown[name] == "—"] == ["Generalization", "Locality", "Portability"]
    assert shown["Reliability"].endswith("%")
    assert sum("Not measured" in caption.value for caption in page.caption) == 3


def test_changes_after_an_edit_are_marked(new_page: NewPage) -> None:
    page = edited(new_page)
    page.text_input(key="new").set_value("London").run()
    assert "Inputs changed since this edit" in notices(page)
    page.button(key="apply_edit").click().run()
    assert "Inputs changed since this edit" not in notices(page)
    assert any("→ London" in caption.value for caption in page.caption)
