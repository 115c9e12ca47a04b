"""Pages as text: complete, escaped, small, and reproducible.

test_browser.py tests them in a browser.
"""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest

from model.audit.statistics import WITH_TOKENS, shortened
from tests.model.audit.test_comparison import compared, drawn_pairs
from tests.runs import HOUSE
from tests.transforms.report.samples import ABOUT, PASSAGES, SCRIPT, entry, sample_audit
from transforms.merge_receipts import Totals
from transforms.read_examples import Example
from transforms.report.page import DOUBTS, PAGE_BYTES, audit_page, comparison_page
from transforms.report.passages import excerpts, pieces, shown_passage
from transforms.write_audit import audit_report


class Elements(HTMLParser):
    """Collects all start tags with their attributes, and all ids."""

    def __init__(self, page: bytes):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.decode("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


def page_of(audit: dict[str, Any], examples: dict[Any, Example]) -> bytes:
    return audit_page(audit, examples, ABOUT)


@pytest.fixture(scope="module")
def page() -> bytes:
    return page_of(*sample_audit())


def test_nothing_is_loaded_and_no_text_is_markup(page: bytes):
    tags = Elements(page).tags
    assert SCRIPT.encode() not in page
    assert [attributes for tag, attributes in tags if tag == "script"] == [{}]
    assert not [
        tag for tag, _ in tags if tag in ("img", "iframe", "object", "embed", "base", "form")
    ]
    for tag, attributes in tags:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert b"@import" not in page
    assert not re.findall(rb"url\((?!#)", page)


def test_ids_are_unique_and_what_points_to_them_finds_them(page: bytes):
    tags = Elements(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tags:
        for name in ("for", "data-filters", "xlink:href", "href"):
            target = attributes.get(name)
            if target and not target.startswith("data:"):
                assert target.lstrip("#") in ids, attributes


def test_every_figure_has_a_name_and_follows_the_pages_colours(page: bytes):
    drawings = [attributes for tag, attributes in Elements(page).tags if tag == "svg"]
    assert len(drawings) == 4
    assert all(
        figure["role"] == "img" and figure["aria-label"] and "width" not in figure
        for figure in drawings
    )
    drawn = page[page.index(b"<svg") : page.rindex(b"</svg>")]
    # matplotlib's default for empty shapes.
    assert set(re.findall(rb"#[0-9a-f]{6}\b", drawn)) <= {b"#000000"}
    assert b"var(--accent)" in drawn


def test_figures_stand_with_their_intervals(page: bytes):
    audit, _ = sample_audit()
    text = page.decode()
    nll, f1 = audit["all"]["losses"]["nll"], audit["all"]["f1"]
    assert (
        f"<strong>{nll['mean']:.3f}</strong> "
        f'<span class="interval">± {1.96 * nll["standard_error"]:.3f}</span>' in text
    )
    assert f"[{f1['interval'][0]:.2f}, {f1['interval'][1]:.2f}]" in text
    perplexity = [audit["all"][f"perplexity_{side}_interval"] for side in ("start", "end")]
    assert " / ".join(f"[{low:.2f}, {high:.2f}]" for low, high in perplexity) in text
    assert "[{:.2f}, {:.2f}]".format(*audit["all"]["answerability_interval"]) in text
    assert "shares no token with any gold" in text


def test_columns_of_slice_by_have_figures(page: bytes):
    assert "<figcaption>Mean loss in nats, by source.</figcaption>" in page.decode()
    audit, examples = sample_audit()
    audit["slices"] |= {f"book {k}": audit["slices"]["source"] for k in range(9)}
    text = page_of(audit, examples).decode()
    captions = re.findall("<figcaption>Mean loss in nats, (by .*?)</figcaption>", text)
    assert len(captions) == 3 + 4
    assert captions[3:] == ["by source.", *(f"by book {k}." for k in range(3))]  # the table has all


def test_a_column_of_any_name_and_of_many_values():
    audit, examples = sample_audit()
    audit["slices"]["source"] = {f"{k:02}": audit["all"] for k in range(50)}
    audit["slices"]['"><script>'] = audit["slices"].pop("source")
    text = page_of(audit, examples).decode()
    assert "by &#34;&gt;&lt;script&gt;, the first 40 of 50 values." in text
    assert text.count("<script>") == 1


def test_one_example_has_no_interval():
    audit, examples = sample_audit()
    audit["all"]["losses"]["nll"]["count"] = audit["slices"]["source"]["book 1"]["losses"]["nll"][
        "count"
    ] = 1
    page = page_of(audit, examples).decode()
    assert f"{audit['all']['losses']['nll']['mean']:.3f}</strong><p>" in page
    rows = re.findall(
        r'<th scope="row">source</th><td><bdi>book (\d)</bdi></td>(?:<td.*?</td>){2}<td>(.*?)</td>',
        page,
    )
    assert [interval == "–" for _, interval in rows] == [False, True, False]
    assert (
        len(re.findall(r"<td>\d+\.\d{3}</td></tr>\n<tr><th scope=\"row\"><bdi>book 2<", page)) == 1
    )


def test_the_same_audit_is_the_same_page(page: bytes):
    assert page_of(*sample_audit()) == page


def test_no_row_at_all():
    page = page_of(audit_report(Totals(), ABOUT), {}).decode()
    assert page.count("<p>None.</p>") == 2
    assert "<strong>" not in page  # no figure is invented


def test_a_row_that_could_not_be_read_again_is_shown_without_its_passage():
    audit, _ = sample_audit()
    assert page_of(audit, {}).decode().count("The text of this row could not be read.") == 2 * len(
        PASSAGES
    )


def test_bars_say_their_means_and_intervals(page: bytes):
    audit, _ = sample_audit()
    found = re.findall(
        r'<bdi>(.*?)</bdi></th><td class="track">.*?</td><td>(.*?)</td>', page.decode()
    )
    rows = [(unescape(name), text) for name, text in found]
    for name in ("context_tokens", "answer_position", "question_word", "source"):
        for value, part in audit["slices"][name].items():
            loss = part["losses"]["nll"]
            interval = f" ± {1.96 * loss['standard_error']:.3f}" if loss["count"] > 1 else ""
            assert (value, f"{loss['mean']:.3f}{interval}") in rows


def test_rows_by_what_became_of_them_share_one_bar(page: bytes):
    audit, _ = sample_audit()
    shares = {
        name: int(count)
        for name, count in re.findall(
            r'<span class="(\w+)" style="flex-grow: (\d+)">', page.decode()
        )
    }
    assert shares == {
        name: count for name, count in audit["rows"].items() if count and name != "planned"
    }


def test_golds_that_disagree_are_described_as_in_the_manual():
    manual = (HOUSE / "docs" / "label_errors.md").read_text("utf-8")
    assert f"| `golds_disagree` | {DOUBTS['golds_disagree']}, and" in manual


def test_where_no_token_is_coloured_it_is_said():
    audit, examples = sample_audit()
    audit["highest_loss"][0]["likely_tokens"] = []
    del audit["highest_loss"][1]["likely_tokens"]  # as in a chunk of an older version
    page = page_of(audit, examples).decode()
    assert page.count('<p class="interval">No shown token is a likely start or end.</p>') == 2
    assert (
        page.count('<p class="interval">Token probabilities were not stored for this example.</p>')
        == 2
    )
    assert page.count('class="heat"') == 2 * (len(PASSAGES) - 2)


@pytest.mark.parametrize("letter", ["<", "🌊", "a"])
def test_it_stays_small_whatever_the_texts(letter: str):
    """Return long texts that escaping makes longer, with every character a likely token."""
    text = letter * 4000
    audit, _ = sample_audit(600)
    audit["slices"]["source"] = {
        f"{letter * 79}{k}": part for k, part in zip(range(100), [audit["all"]] * 100, strict=False)
    }
    audit["slices"] |= {f"source {k}": audit["slices"]["source"] for k in range(20)}
    changes = {"question": text, "gold": [text] * 3, "prediction": text, "id": text}
    places = {
        "gold_start": 1000,
        "gold_end": 1500,
        "prediction_start": 2500,
        "prediction_end": 3000,
    }
    tokens = [[place, place + 1, 0.0021, 0.0021] for place in range(4000)]
    entries = [
        {**entry("latin", row), **changes, **places, "likely_tokens": tokens}
        for row in range(10**4)
    ]
    audit["highest_loss"], audit["suspected_label_errors"] = entries, entries[::-1]
    page = page_of(audit, {("/in/a.parquet", row): Example(text, text) for row in range(10**4)})
    assert len(page) < PAGE_BYTES == 3_000_000
    assert page.count(b'<details class="example">') > WITH_TOKENS // 4  # it is cut, not emptied


def comparison(slices: int, pairs: int, listed: int) -> dict[str, Any]:
    """Return `comparison.json` of random pairs in this many slices."""
    drawn = [
        (replace(before, labels=(("source", f"{k % slices:03d}"),)), after)
        for k, (before, after) in enumerate(drawn_pairs(pairs))
    ]
    content = compared(drawn).summary()
    content["slices"] = {
        f"by {k}": part
        for k, part in enumerate([content["slices"]["source"]] * (1 + slices // 100))
    }
    side = {"prediction": "Ada", "nll": 1.0, "f1": 0.5, "status": "scored"}
    change = {"id": "a", "question": "Who?", "gold": ["Otto"], "before": side, "after": side}
    lists = {
        name: [change] * min(listed, content["changes"][name])
        for name in ("regressions", "improvements")
    }
    return {"configuration": {"before": "/a", "after": "/b"}, "why": [], **content, **lists}


class TestComparison:
    def test_slices_have_the_intervals_of_every_figure(self):
        content = comparison(slices=2, pairs=40, listed=100)
        page = comparison_page(content).decode()
        cells = re.findall(r"<td>(.*?)</td>", page[page.index('<table id="slice-table">') :])[2:11]
        f1, em, nll = (
            content["slices"]["by 0"]["000"][name] for name in ("f1", "exact_match", "nll")
        )
        assert cells == [
            f"{value:+.3f}"
            for each in (f1, em, nll)
            for value in (each["difference"], *each["interval"])
        ]

    def test_one_pair_has_no_interval(self):
        page = comparison_page(comparison(slices=2, pairs=2, listed=2)).decode()
        cells = re.findall(r"<td>(.*?)</td>", page[page.index('<table id="slice-table">') :])[2:11]
        assert [cell == "–" for cell in cells] == [False, True, True] * 3

    def test_bars_say_differences_and_intervals(self):
        content = comparison(slices=2, pairs=40, listed=1)
        f1 = {
            "count": 2,
            "difference": -1.5,
            "interval": [-2.0, -1.0],
            "before": 0,
            "after": 0,
            "better": 0,
            "worse": 2,
        }
        alone, none = {**f1, "count": 1, "difference": 0.0625}, {"count": 0}
        part = {"rows": 2, "exact_match": none, "nll": none}
        content["slices"] = {
            "a": {"b: c": {**part, "f1": f1}, "none": {**part, "f1": none}},
            "a: b": {"c": {**part, "f1": alone}},
        }
        page = comparison_page(content).decode()
        found = re.findall(r'<bdi>(.*?)</bdi></th><td class="track">.*?</td><td>(.*?)</td>', page)
        assert found[1:3] == [("a: b: c", "-1.500 [-2.000, -1.000]"), ("a: b: c", "+0.062")]
        assert [name for name, _ in found] == ["all", "a: b: c", "a: b: c", "all"]

    def test_a_difference_that_rounds_to_nothing_has_no_minus(self):
        content = comparison(slices=2, pairs=40, listed=1)
        nothing = {"difference": -1e-5, "interval": [-2e-5, -0.0], "before": 0.5, "after": 0.5}
        for metric in ("f1", "exact_match", "nll"):
            for each in (
                content["all"],
                *(part for values in content["slices"].values() for part in values.values()),
            ):
                each[metric].update(nothing)
        page = comparison_page(content).decode()
        assert "+0.000 [+0.000, +0.000]" in page
        assert "-0.000" not in page

    def test_what_is_left_out_is_said(self):
        content = comparison(slices=100, pairs=200, listed=7)
        content["slices"] = {f"by {k}": content["slices"]["by 0"] for k in range(6)}
        content["unpaired"]["only_after"] = {"rows": 300, "ids": [f"row {k}" for k in range(100)]}
        page = comparison_page(content).decode()
        assert "The figures show all pairs and the first 40 of 600 slices." in page
        assert "500 of 600 slices are shown; comparison.json has all." in page
        for name in ("regressions", "improvements"):
            assert (
                f"7 of {content['changes'][name]} {name} are shown; comparison.json has 7." in page
            )
        assert "(20 ids are shown, comparison.json has 100)" in page

    def test_nothing_is_said_where_nothing_is_left_out(self):
        page = comparison_page(comparison(slices=2, pairs=40, listed=100)).decode()
        assert "are shown" not in page
        assert "The figures show" not in page


class TestPassages:
    def test_a_text_that_is_cut_says_so(self):
        assert shortened("a" * 300) == "a" * 300
        assert shortened("a" * 301) == shortened(shortened("a" * 301)) == "a" * 300 + "…"
        assert shortened(None) == ""

    def test_parts_around_borders(self):
        assert excerpts("x" * 100, [(40, 45)]) == [(0, 100)]
        assert excerpts("x" * 5000, [(2000, 2010), (4900, 4950)]) == [(1760, 2250), (4660, 5000)]
        # The middle of a long answer is left out.
        assert excerpts("x" * 5000, [(1000, 4000)]) == [
            (760, 1240),
            (3760, 4240),
        ]
        assert excerpts("x" * 5000, []) == [(0, 240)]

    def test_parts_end_between_words_and_hold_the_span(self):
        text = "one two three four five six"
        (part,) = excerpts(text, [(8, 13)], around=6)
        assert text[slice(*part)] == "two three four"
        for start in range(len(text)):
            for around in range(8):
                (first, *_, last) = 2 * excerpts(text, [(start, start + 1)], around)
                assert first[0] <= start < last[1]

    def test_pieces_put_together_are_the_part(self):
        text = "abcdefghij"
        found = pieces(text, (1, 9), [("gold", (2, 6)), ("prediction", (4, 12))])
        assert found == [
            ("", "b"),
            ("gold", "cd"),
            ("gold prediction", "ef"),
            ("prediction", "ghi"),
        ]

    def test_tokens_count_code_points_of_their_part(self):
        context = "🌊" * 1000 + "Ada"
        tokens = [[0, 1, 0.5, 0.5], [1000, 1003, 0.25, 0.5]]
        (part,) = shown_passage(Example("?", context), [("gold", (1000, 1003))], tokens)
        assert part["before"]
        assert not part["after"]
        assert part["tokens"] == [[240, 243, 250, 500]]
        assert part["pieces"] == [("", "🌊" * 240), ("gold", "Ada")]
