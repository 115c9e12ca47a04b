"""Where an answer is: sentences partition the text, pages and sections hold the answer's start."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.reading.places import (
    ContextLayout,
    GivenPlaces,
    count_unusable,
    given_page,
    given_section,
    headings,
    locate,
    sentence_ends,
    unwrapped,
)

PIECES = st.sampled_from(
    [
        *(
            "Ada",
            "lit",
            "灯台",
            "ランプ。",
            "谁点灯？",
            "สวัสดี",
            "دیا",
            "هل عادت؟",
            "जलाया।",
            "é",
            "e\u0301",
        ),
        *(
            "👩\u200d👩\u200d👧",
            "🌊",
            "\U00020000",
            "\ufeff",
            "\x00",
            "Dr.",
            "U.S.",
            "e.g.",
            "3.5",
            "1.",
        ),
        *(".", "!", "?", "…", "。", "\u3000", "\u2028", "\u2029", "\x85", "\u200d", '"', "(", ")"),
        *(
            " ",
            "  ",
            "\t",
            "\n",
            "\r\n",
            "\r",
            "\n\n",
            "\f",
            "\x0b",
            "# ",
            "## ",
            "```",
            "===",
            "- ",
        ),
    ]
)
TEXTS = st.lists(PIECES, max_size=30).map("".join)


def sentences(context: str) -> list[str]:
    ends = sentence_ends(context)
    return [context[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


class TestSentences:
    @given(TEXTS | st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    def test_they_partition_the_text(self, context: str):
        ends = sentence_ends(context)
        assert ends == sorted(set(ends))
        assert 0 not in ends
        assert "".join(sentences(context)) == context

    @given(TEXTS)
    def test_unwrapping_changes_line_breaks_alone(self, context: str):
        changed = unwrapped(context)
        assert len(changed) == len(context)
        for old, new in zip(context, changed, strict=True):
            assert new == old or (old in "\r\n" and new == " ")

    @pytest.mark.parametrize(
        "parts",
        [
            ["Ada lit 🌊 the lamp. ", "She left at 5.30 p.m. on foot. ", "Why?"],
            ["Mr. Kern paid $3.50 to him. ", "It was late."],
            ["灯塔在北岸。", "谁点灯？", "阿达。"],
            ["أضاءت آدا المصباح. ", "هل عادت؟ ", "نعم."],
            ["अदा ने दीया जलाया। ", "वह घर गई।"],
            ["Wrapped at\r\nthe end of\r\na line. ", "And\nagain.\n", "\n", "Apart"],
            ["# Heading\n", "Text of\nit.\n", "- one\n", "- two\n", "> quoted"],
            ["Title\n", "=====\n", "Text."],
            ["She asked Dr. 🌊 Kern (cf. Ben\nand e.g. Ada) at St. Anne. ", "He left."],
            ["See Fig. 2 Lamps and No. ٣ Boats. ", "Is it p. 7 A? ", "No. ", "It is not."],
            ["He asked the Dr.\n", "\n", "Kern came.\n", "Dr.\n", "- One"],
            ["Call Xdr. ", "Kern slept. ", "Dr. "],
        ],
    )
    def test_in_many_scripts_and_layouts(self, parts: list[str]):
        assert sentences("".join(parts)) == parts

    def test_a_megabyte_of_anything_takes_linear_memory_and_has_one_partition(self):
        for piece in ("word ", "a", "\n", ".", "A. ", "Ada lit 🌊. "):
            context = piece * (10**5 // len(piece))
            assert sentence_ends(context)[-1] == len(context)


def slow_sentence(context: str, start: int, end: int) -> tuple[int, int]:
    """Return start and end of the sentences of a span by looking at each sentence."""
    begin, touched = 0, []
    for stop in sentence_ends(context):
        if begin < end and start < stop:
            touched.append((begin, stop))
        begin = stop
    low, high = touched[0][0], touched[-1][1]
    while low < start and context[low].isspace():
        low += 1
    while high > end and context[high - 1].isspace():
        high -= 1
    return low, high


class TestLayout:
    @given(TEXTS.filter(bool), st.data())
    def test_the_sentences_of_a_span_are_those_that_it_touches(
        self, context: str, data: st.DataObject
    ):
        start = data.draw(st.integers(0, len(context) - 1))
        end = data.draw(st.integers(start + 1, len(context)))
        assert ContextLayout(context).sentence(start, end) == slow_sentence(context, start, end)
        place = locate(context, start, end)
        assert place.sentence_text == context[place.sentence_start : place.sentence_end]
        assert context[start:end] in place.sentence_text
        assert place.page == len(context[:start].split("\f"))

    @given(TEXTS.filter(bool), st.data())
    def test_the_section_is_that_of_the_last_heading_before(
        self, context: str, data: st.DataObject
    ):
        start = data.draw(st.integers(0, len(context) - 1))
        path: list[tuple[int, str]] = []
        for offset, level, title in headings(context):
            if offset <= start:
                path = [each for each in path if each[0] < level] + [(level, title)]
        place = locate(context, start, start + 1)
        assert place.section_path == tuple(title for _, title in path)
        assert place.section == (path[-1][1] if path else None)

    def test_an_answer_across_sentences_pages_and_sections_is_where_it_begins(self):
        context = "# One\nAda 🌊 lit it.\fThen she\n\n## Two\nleft. Kern slept."
        start, end = context.index("lit"), context.index("left") + 4
        place = locate(context, start, end)
        assert place.sentence_text == "Ada 🌊 lit it.\fThen she\n\n## Two\nleft."
        assert (place.page, place.section, place.section_path) == (1, "One", ("One",))
        after = locate(context, context.index("Kern"), len(context))
        assert (after.page, after.section, after.section_path) == (2, "Two", ("One", "Two"))

    def test_before_the_first_heading_there_is_no_section(self):
        place = locate("Preface.\n# One", 0, 7)
        assert (place.section, place.section_path) == (None, ())

    @pytest.mark.parametrize(("start", "end"), [(0, 0), (-1, 2), (2, 1), (0, 4)])
    def test_a_span_outside_the_context_is_refused(self, start: int, end: int):
        with pytest.raises(ValueError, match=r"is not a span of a context of 3 code points"):
            locate("abc", start, end)


STARTS = st.lists(st.integers(0, 12), max_size=6).map(sorted)

MALFORMED = [None, [3, 2], [-1, 2], [2, 13], [None, 2], [2, None], [True], [1.0], ["1"], "12", 4]


class TestGivenPlaces:
    @given(STARTS, st.integers(0, 11))
    def test_a_place_is_the_last_that_begins_at_or_before(self, starts: list[int], at: int):
        before = [number for number, start in enumerate(starts) if start <= at]
        assert given_page(starts, 12, at) == (before[-1] + 1 if before else None)
        sections = [
            {"start": start, "title": f"{number} 🌊"} for number, start in enumerate(starts)
        ]
        path = (f"{before[-1]} 🌊",) if before else ()
        assert given_section(sections, 12, at) == path
        place = locate("x" * 12, at, 12, starts, sections)
        assert (place.page, place.section_path) == (given_page(starts, 12, at), path)
        assert place.section == (path[0] if path else None)

    @pytest.mark.parametrize("starts", MALFORMED)
    def test_malformed_starts_give_no_place(self, starts: object):
        assert given_page(starts, 12, 5) is None
        sections = starts
        if isinstance(starts, list):
            sections = [{"start": start, "title": "One"} for start in starts]
        assert given_section(sections, 12, 5) is None

    def test_documents_without_usable_places_are_counted(self):
        usable = [[], [0, 3]]
        pages = [*MALFORMED, *usable]
        found = GivenPlaces(pages=pages)
        assert count_unusable(found, [12] * len(pages)) == {"pages": len(MALFORMED)}
        assert count_unusable(found, [None] * len(pages)) == {"pages": 0}
        sections = [[{"start": 0, "title": "One"}], [{"start": 0, "title": 1}], []]
        assert count_unusable(GivenPlaces(sections=sections), [3, 3, 3]) == {"sections": 1}
        assert count_unusable(GivenPlaces(), []) == {}

    @pytest.mark.parametrize("title", [None, 1, ["One"]])
    def test_a_title_must_be_text(self, title: object):
        assert given_section([{"start": 0, "title": title}], 12, 5) is None
        assert given_section([{"start": 0}], 12, 5) is None
        assert given_section([{"start": 0, "title": "One"}, None], 12, 5) is None

    def test_form_feeds_and_headings_count_for_nothing(self):
        context = "# One\fAda"
        place = locate(context, 6, 9, [0], [{"start": 9, "title": "End"}])
        assert (place.page, place.section, place.section_path) == (1, None, ())
        assert locate(context, 6, 9).page == 2

    def test_locate_refuses_what_is_malformed(self):
        with pytest.raises(ValueError, match="pages: must be starts in ascending order from 0 to"):
            locate("abc", 0, 1, pages=[2, 1])
        with pytest.raises(ValueError, match="sections: must have titles, and starts in ascending"):
            locate("abc", 0, 1, sections=[{"start": 4, "title": "One"}])


class TestHeadings:
    @pytest.mark.parametrize(
        ("context", "expected"),
        [
            ("# One\r\n## Two ##\r\n", [(0, 1, "One"), (7, 2, "Two")]),
            ("   ###### 🌊 六 #\ntext", [(0, 6, "🌊 六")]),
            ("#\n## \n", [(0, 1, ""), (2, 2, "")]),
            ("# C#\n# a #b", [(0, 1, "C#"), (5, 1, "a #b")]),
            ("#no\n####### seven\n    # code\n\\# escaped", []),
            ("text\nTitle\n===\nLess\n---\n", [(5, 1, "Title"), (15, 2, "Less")]),
            ("🌊 Title\r\n===\r\nText", [(0, 1, "🌊 Title")]),
            ("\n---\n- item\n---\n# One\n===\n", [(16, 1, "One")]),
            ("```py\n# no\n~~~\n```\n# yes", [(19, 1, "yes")]),
            ("~~~~\n# no\n~~~\n# no\n~~~~~\n# yes", [(25, 1, "yes")]),
            ("text.\n\f# Page two", [(6, 1, "Page two")]),
            ("```\n# never closed", []),
            ("```lamp``` is code within a line\n# yes", [(33, 1, "yes")]),
        ],
    )
    def test_markdown(self, context: str, expected: list[tuple[int, int, str]]):
        assert list(headings(context)) == expected
