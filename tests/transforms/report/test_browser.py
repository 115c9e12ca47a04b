"""Reports in a real headless Chromium: what users do with them, and what the browser reports.

These tests need Debian's chromium and chromium-driver, and are skipped without them. With
SPANMILL_SCREENSHOTS, a folder, they leave screenshots there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.browsers import CONTRAST, NEEDS_BROWSER, chromium
from tests.model.audit.test_comparison import compared, drawn_pairs
from tests.transforms.report.samples import ABOUT, PASSAGES, SCRIPT, sample_audit
from transforms.report.page import audit_page, comparison_page

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def audit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "report.html"
    path.write_bytes(audit_page(*sample_audit(), ABOUT))
    return path


@pytest.fixture
def audit(browser: Chrome, audit_file: Path) -> Iterator[Chrome]:
    """Yield the fresh page of an audit on a desktop screen; its console must stay empty."""
    browser.set_window_size(1200, 900)
    # On a busy machine, a page that is loaded again is taken for one that loaded too early.
    browser.get("about:blank")
    browser.get(audit_file.as_uri())
    WebDriverWait(browser, 600).until(
        lambda _: browser.execute_script("return document.readyState") == "complete"
    )
    yield browser
    assert browser.get_log("browser") == []
    assert browser.title == "Audit – Spanmill"  # a script in the texts would have changed it


def screenshot(browser: Chrome, name: str, height: int = 900) -> None:
    folder = os.environ.get("SPANMILL_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.set_window_size(browser.get_window_size()["width"], height)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


@contextmanager
def phone(browser: Chrome, width: int) -> Iterator[None]:
    """Emulate a screen of this size in CSS pixels, with the density of a phone."""
    screen = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def one(browser: Chrome | WebElement, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def every(browser: Chrome | WebElement, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def example(browser: Chrome, name: str) -> WebElement:
    """Return one of the suspects, opened by keyboard."""
    details = every(browser, "#suspect-list details")[list(PASSAGES).index(name)]
    one(details, "summary").send_keys(Keys.ENTER)
    assert details.get_attribute("open") is not None
    return details


def column(browser: Chrome, table: str, number: int) -> list[str]:
    return [cell.text for cell in every(browser, f"#{table} tbody tr > :nth-child({number})")]


def test_it_loads_without_a_request_and_says_nothing_to_the_console(audit: Chrome):
    entries = audit.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert [entry for entry in entries if not entry.startswith("data:")] == []
    assert len(every(audit, "figure svg")) == 4
    screenshot(audit, "audit", 3000)


def test_bars_are_as_long_as_their_means_and_whiskers_end_at_their_intervals(audit: Chrome):
    losses = [
        part["losses"]["nll"] for part in sample_audit()[0]["slices"]["answer_position"].values()
    ]
    bars = next(table for table in every(audit, ".bars") if "1 of 5" in table.text)
    tracks = every(bars, ".track")
    assert len(tracks) == len(losses)
    left, room = tracks[0].rect["x"], tracks[0].rect["width"]
    most = max(loss["mean"] + 1.96 * loss["standard_error"] for loss in losses)
    for track, loss in zip(tracks, losses, strict=True):
        bar, spread, half = (
            one(track, ".bar").rect,
            one(track, ".spread").rect,
            1.96 * loss["standard_error"],
        )
        assert bar["width"] == pytest.approx(room * loss["mean"] / most, abs=1)
        assert spread["x"] - left == pytest.approx(room * (loss["mean"] - half) / most, abs=1)
        assert spread["width"] == pytest.approx(room * 2 * half / most, abs=1)
        assert bar["height"] > spread["height"] > 0
    parts = every(audit, ".shares span")
    rows = [
        count for name, count in sample_audit()[0]["rows"].items() if name != "planned" and count
    ]
    widths = [part.rect["width"] for part in parts]
    assert widths == pytest.approx([sum(widths) * count / sum(rows) for count in rows], abs=1)
    assert one(audit, ".shares-legend li").text == f"scored: {rows[0]} rows"
    assert len({part.value_of_css_property("background-color") for part in parts}) == len(parts)


def test_tables_sort_by_number_and_by_text(audit: Chrome):
    examples = one(audit, "#slice-table th:nth-child(3) button")
    examples.click()
    assert one(audit, "#slice-table th:nth-child(3)").get_attribute("aria-sort") == "descending"
    values = [int(text.replace(",", "")) for text in column(audit, "slice-table", 3)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) > 5
    examples.send_keys(Keys.SPACE)
    assert [int(text.replace(",", "")) for text in column(audit, "slice-table", 3)] == sorted(
        values
    )
    one(audit, "#slice-table th:nth-child(1) button").click()
    names = column(audit, "slice-table", 1)
    assert names == sorted(names, reverse=True)
    assert one(audit, "#slice-table th:nth-child(3)").get_attribute("aria-sort") is None


def test_cells_without_a_value_sort_to_the_end_either_way(audit: Chrome):
    audit.execute_script(
        "document.querySelector('#slice-table tbody tr:nth-child(2) td:nth-child(4)')"
        ".textContent = '–'"
    )
    for _ in range(2):
        one(audit, "#slice-table th:nth-child(4) button").click()
        values = column(audit, "slice-table", 4)
        assert values[-1] == "–"
        numbers = [float(text) for text in values[:-1]]
        assert numbers in (sorted(numbers), sorted(numbers, reverse=True))


def test_tables_and_examples_are_filtered(audit: Chrome):
    rows = every(audit, "#slice-table tbody tr")
    one(audit, "#slice-table-filter").send_keys("ANSWER_pos")
    shown = [row for row in rows if row.is_displayed()]
    assert {one(row, "th").text for row in shown} == {"answer_position"}
    counter = one(audit, "output[for=slice-table-filter]")
    assert counter.text == f"{len(shown)} of {len(rows)}"
    assert counter.get_attribute("aria-live") == "polite"
    one(audit, "#suspects-filter").send_keys("سلمى")
    assert [details.is_displayed() for details in every(audit, "#suspect-list details")] == [
        False,
        True,
        False,
        False,
        False,
    ]
    one(audit, "#suspects-filter").send_keys(Keys.BACKSPACE * 4)
    assert all(details.is_displayed() for details in every(audit, "#suspect-list details"))


def test_gold_and_prediction_are_marked_in_their_passage(audit: Chrome):
    for name, (_, context, gold, prediction) in PASSAGES.items():
        details = example(audit, name)
        assert one(details, ".passage .text").get_attribute("textContent") == context
        for kind, text in (("gold", gold), ("prediction", prediction)):
            assert (
                "".join(
                    mark.get_attribute("textContent")
                    for mark in every(details, f".passage mark.{kind}")
                )
                == text
            )
    (both,) = every(audit, "#suspect-list details:nth-child(5) .passage mark.gold.prediction")
    assert both.get_attribute("textContent") == "spring"


def test_token_probabilities_are_shown_on_demand(audit: Chrome):
    """Offsets after an emoji are right, although JavaScript counts it as two."""
    details = example(audit, "chinese")
    assert every(details, ".token") == []
    button = one(details, "button.heat")
    button.send_keys(Keys.ENTER)
    assert button.get_attribute("aria-pressed") == "true"
    tokens = {token.text: token.get_attribute("title") for token in every(details, ".token")}
    assert tokens == {
        "小": "start 0.250, end –",
        "林": "start –, end 0.250",
        "老": "start 0.750, end –",
        "王": "start –, end 0.750",
    }
    assert one(details, ".coloured").text == PASSAGES["chinese"][1]
    assert not one(details, ".text:not(.coloured)").is_displayed()
    assert one(details, "table.tokens tbody tr").text == "老 0.750 –"
    assert "gradient" in every(details, ".token")[0].value_of_css_property("background-image")
    button.send_keys(Keys.SPACE)
    assert button.get_attribute("aria-pressed") == "false"
    assert every(details, ".token, table.tokens") == []
    assert one(details, ".text").is_displayed()


def test_right_to_left_text_stands_right_to_left(audit: Chrome):
    """Painted positions count, not attributes: an Arabic line begins at the right."""
    details = example(audit, "arabic")
    places = audit.execute_script(
        """const text = arguments[0].querySelector('.passage .text').firstChild;
        const place = (offset) => {
          const range = document.createRange();
          range.setStart(text, offset);
          range.setEnd(text, offset + 1);
          return range.getBoundingClientRect().x;
        };
        return [place(0), place(text.length - 1)];""",
        details,
    )
    assert places[0] > places[1]
    assert one(details, "summary .question").value_of_css_property("direction") == "rtl"
    assert one(example(audit, "latin"), ".passage p").value_of_css_property("direction") == "ltr"
    screenshot(audit, "right-to-left", 2600)


def test_script_in_a_text_stays_text(audit: Chrome):
    details = example(audit, "script")
    one(details, "button.heat").click()
    assert one(details, ".coloured").text == PASSAGES["script"][1]
    assert SCRIPT in one(details, "summary").text
    assert SCRIPT[:80] in column(audit, "slice-table", 2)
    assert every(audit, "img") == []
    assert len(every(audit, "script")) == 1


def test_the_page_s_policy_stops_a_script_that_got_in(
    browser: Chrome, audit_file: Path, tmp_path: Path
):
    """A text that is not escaped by mistake would still not run."""
    broken = tmp_path / "broken.html"
    broken.write_bytes(
        audit_file.read_bytes().replace(
            b"<footer>", b"<script>document.title = 'run'</script><footer>"
        )
    )
    browser.get(broken.as_uri())
    assert browser.title == "Audit – Spanmill"
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]


OVERFLOWING = """
return [...document.querySelectorAll("figure .bars")].some(
  (table) => table.offsetWidth > table.parentElement.clientWidth);
"""
"""Whether bars are wider than their place among the figures."""


@pytest.mark.parametrize("width", [320, 390, 800])
def test_small_screens_scroll_in_one_direction(audit: Chrome, width: int):
    with phone(audit, width):
        audit.execute_script(
            "for (const each of document.querySelectorAll('details')) each.open = true"
        )
        assert audit.execute_script("return document.documentElement.scrollWidth") <= width
        assert not audit.execute_script(OVERFLOWING)
        assert (
            audit.execute_script(
                "return document.querySelector('.wide:has(#slice-table)').scrollWidth"
            )
            > width
        )
        if width == 390 and os.environ.get("SPANMILL_SCREENSHOTS"):
            audit.save_screenshot(str(Path(os.environ["SPANMILL_SCREENSHOTS"]) / "phone.png"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_both_schemes(audit: Chrome, scheme: str):
    audit.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    try:
        ground = audit.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 29)")
        audit.execute_script(
            "for (const each of document.querySelectorAll('details')) each.open = true"
        )
        assert audit.execute_script(CONTRAST) == []
        label, text = audit.execute_script(
            "return [getComputedStyle(document.querySelector('figure svg text')).fill, "
            "getComputedStyle(document.body).color]"
        )
        assert label == text  # figures follow the page
        screenshot(audit, f"audit-{scheme}", 3000)
    finally:
        audit.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_what_a_screen_reader_is_told(audit: Chrome):
    """In Chromium's accessibility tree, every control, figure and table has a name."""
    nodes = audit.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]
    for role in (
        "button",
        "searchbox",
        "image",
        "table",
        "link",
        "region",
        "columnheader",
        "navigation",
    ):
        names = [name for found, name in roles if found == role]
        assert names, role
        assert all(name.strip() for name in names), role
    assert ("heading", "Suspected label errors") in roles
    assert {role for role, _ in roles} >= {"main", "banner", "contentinfo"}


def test_the_first_stop_of_the_keyboard_leads_past_the_top(audit: Chrome):
    one(audit, "body").send_keys(Keys.TAB)
    link = audit.switch_to.active_element
    assert link.text == "Skip to the figures"
    link.send_keys(Keys.ENTER)
    assert audit.current_url.endswith("#main")


def test_it_prints_in_black_on_white_without_what_paper_can_t_do(audit: Chrome):
    audit.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    try:
        assert one(audit, "body").value_of_css_property("color") == "rgba(0, 0, 0, 1)"
        assert not any(
            element.is_displayed() for element in every(audit, "nav, .filter, button.heat")
        )
        assert one(audit, ".wide").value_of_css_property("overflow-x") == "visible"
    finally:
        audit.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert audit.print_page().startswith("JVBERi")  # "%PDF"


def test_a_comparison_s_page(browser: Chrome, tmp_path: Path):
    content = {
        "stage": "compare",
        "configuration": {"before": "/a", "after": "/b"},
        **compared(drawn_pairs(60)).summary(),
    }
    sides: list[dict[str, Any]] = [
        {"prediction": SCRIPT, "nll": 1.5, "f1": 0.5, "status": "scored"},
        {"prediction": "", "nll": None, "f1": 0.0, "status": "scored"},
    ]
    change = {
        "id": "row 1",
        "question": PASSAGES["arabic"][0],
        "gold": ["灯"],
        "before": sides[0],
        "after": sides[1],
    }
    content |= {
        "regressions": [change],
        "improvements": [],
        "why": ["F1 fell by 2.0000, more than --max_f1_drop=1.0"],
    }
    path = tmp_path / "report.html"
    path.write_bytes(comparison_page(content))
    browser.set_window_size(1200, 900)
    browser.get(path.as_uri())
    assert (
        one(browser, "[role=alert]").text
        == "Not passed: F1 fell by 2.0000, more than --max_f1_drop=1.0."
    )
    assert column(browser, "regression-table", 4) == [SCRIPT]
    assert column(browser, "regression-table", 5) == ["(no answer)"]
    one(browser, "#slice-table th:nth-child(3) button").click()
    assert column(browser, "slice-table", 3) == ["30", "30"]
    # For all pairs, and for two slices.
    assert [len(every(table, ".bar")) for table in every(browser, ".bars")] == [
        3,
        3,
    ]
    for table in every(browser, ".bars"):
        zero = float(str(table.get_attribute("style")).partition("--zero:")[2].strip(" %;")) / 100
        for row in every(table, "tr"):
            track, bar = one(row, ".track").rect, one(row, ".bar").rect
            ends = bar["x"], bar["x"] + bar["width"]
            place = track["x"] + zero * track["width"]
            assert min(abs(place - end) for end in ends) < 1
            assert (ends[0] < place - 1) == one(row, "td:last-child").text.startswith("-")
    screenshot(browser, "comparison", 2000)
    for width in (320, 800):
        with phone(browser, width):
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            assert not browser.execute_script(OVERFLOWING)
    assert browser.get_log("browser") == []
    assert browser.title == "Comparison – Spanmill"
