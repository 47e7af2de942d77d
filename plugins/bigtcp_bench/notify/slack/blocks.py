"""Messages in Slack's Block Kit: text made harmless, and cut to what Slack takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from slack_sdk.models.blocks import (
    Block,
    ContextBlock,
    HeaderBlock,
    MarkdownTextObject,
    PlainTextObject,
    SectionBlock,
)

from bigtcp_bench.errors import clean

if TYPE_CHECKING:
    from bigtcp_bench.notify.message import Line, Message

# Limits: https://docs.slack.dev/reference/block-kit/blocks
HEADER_CHARS = HeaderBlock.text_max_length
SECTION_CHARS = SectionBlock.text_max_length

#: Slack refuses blocks of about 13,000 characters altogether (msg_blocks_too_long), which its reference does not
#: mention: https://github.com/slackapi/bolt-js/issues/2509.
MESSAGE_CHARS = 12_500
TABLE_SECTIONS = 2
LINES_CHARS = 1_500
BULLETS_CHARS = 2_000
#: Slack takes 3,000: https://docs.slack.dev/reference/block-kit/composition-objects/text-object
FACTS_CHARS = 1_500
BULLETS_SHOWN = 10
#: https://docs.slack.dev/reference/methods/chat.postMessage advises to stay below this.
TEXT_CHARS = 4_000

#: Slack has no escape for what makes text bold, italic, struck through or code. It does so only where a word
#: begins, so the signs in names such as bigtcp_benchmark can stay. Backticks come in pairs, so both go.
_MARKUP = re.compile(r"(?<!\w)[*_~]|`")
_LOOKALIKES = str.maketrans({"*": "∗", "_": "ˍ", "~": "∼", "`": "ˋ"})


#: What stands before a message of each kind.
_SIGNS = {
    "worse": ":warning:",
    "restore": ":rotating_light:",
    "valid": ":white_check_mark:",
    "invalid": ":warning:",
    "failed": ":x:",
    "running": ":hourglass:",
    "regression": ":small_red_triangle_down:",
    "suspect": ":eyes:",
    "acknowledged": ":thumbsup:",
    "recovered": ":white_check_mark:",
    "new-normal": ":arrow_heading_down:",
    "dismissed": ":heavy_minus_sign:",
    "unmeasured": ":heavy_minus_sign:",
    "closed": ":heavy_minus_sign:",
    "digest": ":calendar:",
    "test": ":wave:",
}


#: Messages about a run: their first line has all that is in their title.
_OF_RUNS = frozenset({"worse", "restore", "valid", "invalid", "failed", "running"})


@dataclass(frozen=True)
class SlackMessage:
    """Blocks for Slack's window, and the text that notifications and screen readers get instead."""

    text: str
    blocks: tuple[dict[str, Any], ...]


def rendered(message: Message, mention: str = "") -> SlackMessage:
    """Return ``message`` for Slack; an urgent one begins with ``mention``, which is Slack's markup.

    Of more than Slack takes, the blocks before the small print at the end, which has the links, are left out.
    """
    mention = mention if message.urgent else ""
    sign = _SIGNS.get(message.kind, "")
    parts: list[Block] = [header(f"{sign} {message.title}".lstrip())] if message.title else []
    # An answer has no title that the sign could stand before.
    before = "" if message.title else sign
    parts.append(lines_section([_line(line) for line in message.lines], f"{mention} {before}".strip()))
    for listing in message.lists:
        parts += bullets(listing.lines, listing.title)
    for table in message.tables:
        parts += code(table)
    links = " · ".join(link(one.url, one.label) for one in message.links)
    parts += facts([*([links] if links else []), *(f"*{label}* {escaped(text)}" for label, text in message.facts)])
    found = [block.to_dict() for block in parts]
    while len(json.dumps(found, ensure_ascii=False)) > MESSAGE_CHARS:
        del found[-2]
    said = [_line(line, plain=True) for line in message.lines]
    if message.title and message.kind not in _OF_RUNS:
        # What a telephone shows of a message begins with its news.
        said.insert(0, escaped(message.title))
    text = cut("\n".join(said), TEXT_CHARS)
    return SlackMessage(f"{mention} {before} {text}".replace("  ", " ").lstrip(), tuple(found))


def _line(line: Line, *, plain: bool = False) -> str:
    text = escaped(line.text)
    if line.label:
        return f"*{escaped(line.label)}*: {text}"
    return f"*{text}*" if line.loud and not plain else text


def escaped(text: str) -> str:
    """Return ``text`` on one line so that Slack shows it literally: no links, mentions, channels or formatting."""
    literal = _MARKUP.sub(lambda sign: sign[0].translate(_LOOKALIKES), clean(text))
    return escape(literal, quote=False)


def link(url: str, label: str) -> str:
    """Return a link; ``label`` is ours and needs no escaping."""
    # What ends the address, or the link, must not stand in it.
    safe = url.replace("|", "%7C").replace("<", "%3C").replace(">", "%3E").replace(" ", "%20")
    return f"<{escape(safe, quote=False)}|{label}>"


def header(text: str) -> HeaderBlock:
    """Return a header; it is plain text, in which only names of emoji mean something."""
    return HeaderBlock(text=PlainTextObject(text=cut(clean(text) or "–", HEADER_CHARS), emoji=True))


def section(text: str) -> SectionBlock:
    """Return a section of ``text``, which is escaped and may have links and formatting of ours."""
    return SectionBlock(text=_markdown(cut(text, SECTION_CHARS)))


def lines_section(lines: Sequence[str], mention: str = "") -> SectionBlock:
    """Return the lines that matter, escaped by the caller, after ``mention``."""
    return section(f"{mention} {cut(chr(10).join(lines), LINES_CHARS)}".lstrip())


def bullets(lines: Sequence[str], title: str = "") -> list[Block]:
    """Return a list of ``lines``, which are escaped here; of many only the first ones. No lines, no block."""
    if not lines:
        return []
    shown = [f"• {escaped(line)}" for line in lines[:BULLETS_SHOWN]]
    if len(lines) > BULLETS_SHOWN:
        shown.append(f"• and {len(lines) - BULLETS_SHOWN} more")
    return [section(cut("\n".join([f"*{title}*", *shown] if title else shown), BULLETS_CHARS))]


def facts(lines: Sequence[str]) -> list[Block]:
    """Return small print; ``lines`` are escaped by the caller. No lines, no block."""
    text = cut("\n".join(lines), FACTS_CHARS)
    return [ContextBlock(elements=[_markdown(text)])] if lines else []


def code(text: str) -> list[Block]:
    """Return ``text`` as monospaced sections, split between lines, each within Slack's limit."""
    fence = "```"
    room = SECTION_CHARS - 2 * len(fence)
    escaped_lines = [escape(line.replace("`", "ˋ"), quote=False) for line in text.splitlines()]
    chunks = list(_chunks([cut(line, room) for line in escaped_lines], room))
    sections: list[Block] = [section(f"{fence}{chunk}{fence}") for chunk in chunks[:TABLE_SECTIONS]]
    if len(chunks) > TABLE_SECTIONS:
        sections.append(section("The rest of the table is in the log of the run."))
    return sections


def cut(text: str, limit: int) -> str:
    """Return ``text``, or as much of it as ``limit`` characters hold, never the half of a link or entity."""
    if len(text) <= limit:
        return text
    return re.sub(r"(<[^<>]*|&\w{0,4})$", "", text[: limit - 1]) + "…"


def _markdown(text: str) -> MarkdownTextObject:
    # verbatim: what looks like an address or a channel stays text.
    return MarkdownTextObject(text=text, verbatim=True)


def _chunks(lines: Sequence[str], room: int) -> Iterator[str]:
    chunk: list[str] = []
    for line in lines:
        if chunk and sum(map(len, chunk)) + len(chunk) + len(line) > room:
            yield "\n".join(chunk)
            chunk = []
        chunk.append(line)
    yield "\n".join(chunk)
