"""Text from anywhere is shown as it is and fits, whatever it holds."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtcp_bench.notify.message import Line, Link, Listing, Message
from bigtcp_bench.notify.slack import blocks
from tests.support.slack_server import content_refusal

LETTERS = st.one_of(st.characters(), st.sampled_from("<>&*_~`|@#! \n"))
ANY = st.one_of(st.text(LETTERS, max_size=200), st.sampled_from(["c" * 5000, "<&>" * 1500, "*_~` " * 900]))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<!channel> & <http://evil|look>", "&lt;!channel&gt; &amp; &lt;http://evil|look&gt;"),
        ("*bold* _it_ ~no~ `code`", "∗bold* ˍit_ ∼no~ ˋcodeˋ"),
        ("scheduled__2026_11 bigtcp_benchmark a*b", "scheduled__2026_11 bigtcp_benchmark a*b"),
        ("two\nlines\x1b[31m", "two lines[31m"),
    ],
)
def test_text_is_shown_as_it_is(text, shown):
    assert blocks.escaped(text) == shown


@given(ANY)
def test_no_text_can_mention_link_or_format(text):
    shown = blocks.escaped(text)
    assert not re.search(r"[<>\n]|&(?!amp;|lt;|gt;)|(?<!\w)[*_~]|`", shown)


@given(ANY, st.integers(1, 300))
def test_what_is_cut_fits_and_is_whole(text, limit):
    shown = blocks.cut(blocks.escaped(text), limit)
    assert len(shown) <= limit
    assert not re.search(r"&(?!amp;|lt;|gt;)", shown)


def test_no_half_of_a_link_is_left():
    text = blocks.link("https://airflow.example/a|b <c>?x=1&y=2", "The run")
    assert text == "<https://airflow.example/a%7Cb%20%3Cc%3E?x=1&amp;y=2|The run>"
    assert {blocks.cut(f"see {text} and more", limit) for limit in range(5, 60)} <= {"see …", "see…"}


LISTINGS = st.builds(Listing, st.lists(ANY, max_size=12).map(tuple), st.sampled_from(["", "Title"]))
MESSAGES = st.builds(
    Message,
    lines=st.lists(st.builds(Line, ANY, ANY, st.booleans()), min_size=1, max_size=12).map(tuple),
    kind=st.sampled_from(["restore", "regression", "", "unheard of"]),
    title=ANY,
    lists=st.lists(LISTINGS, max_size=3).map(tuple),
    tables=st.lists(ANY, max_size=2).map(tuple),
    facts=st.lists(st.tuples(st.just("label"), ANY), max_size=12).map(tuple),
    links=st.lists(st.builds(Link, ANY.map("https://x/{}".format), st.just("label")), max_size=2).map(tuple),
    urgent=st.just(True),
)


@settings(max_examples=30)
@given(MESSAGES)
def test_a_message_of_anything_is_one_that_slack_takes(message):
    made = blocks.rendered(message, "<!channel>")
    assert content_refusal({"text": made.text, "blocks": list(made.blocks)}) is None
    assert made.text.startswith("<!channel> ")
    assert len(made.text) <= blocks.TEXT_CHARS + len("<!channel> :small_red_triangle_down: ")
