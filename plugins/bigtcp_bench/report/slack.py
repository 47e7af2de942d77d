"""A finished run as a Slack message in Block Kit, and its sending, which never fails the run."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.http_retry.builtin_handlers import (
    ConnectionErrorRetryHandler,
    RateLimitErrorRetryHandler,
    ServerErrorRetryHandler,
)
from slack_sdk.models.blocks import (
    Block,
    ContextBlock,
    HeaderBlock,
    MarkdownTextObject,
    PlainTextObject,
    SectionBlock,
)

from bigtcp_bench.report import summary

if TYPE_CHECKING:
    from slack_sdk.http_retry.request import HttpRequest
    from slack_sdk.http_retry.response import HttpResponse
    from slack_sdk.http_retry.state import RetryState

    from bigtcp_bench.report.view import RunView

# Limits: https://docs.slack.dev/reference/block-kit/blocks
HEADER_CHARS = HeaderBlock.text_max_length
SECTION_CHARS = SectionBlock.text_max_length

#: Slack refuses blocks of about 13,000 characters altogether (msg_blocks_too_long), which its reference does not
#: mention: https://github.com/slackapi/bolt-js/issues/2509. These keep the longest message below it.
TABLE_SECTIONS = 2
HEADLINE_CHARS = 1_000
REASONS_CHARS = 2_000
HISTORY_CHARS = 1_000
CONDITIONS_CHARS = 1_500
REASONS_SHOWN = 10

RETRIES = 3
#: Slack may ask to wait for longer than a task should; what is not sent now is told and can be sent later.
MAX_RETRY_AFTER_S = 60

_EMOJI = {"valid": ":white_check_mark:", "invalid": ":warning:", "failed": ":x:", "running": ":hourglass:"}

_ADVICE = {
    "channel_not_found": "the channel does not exist, or the bot was not invited to it",
    "not_in_channel": "invite the bot to the channel",
    "is_archived": "the channel is archived",
    "missing_scope": "the bot token needs the scopes chat:write and files:write",
    **dict.fromkeys(
        ("invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired"),
        "Slack does not accept the bot token",
    ),
}


@dataclass(frozen=True)
class SlackMessage:
    """Blocks for Slack's window, and the text that notifications and screen readers get instead."""

    text: str
    blocks: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class SendResult:
    """Whether a message is in Slack: ``channel`` and ``ts`` name it there, else ``reason`` says why it is not."""

    sent: bool
    channel: str | None = None
    ts: str | None = None
    reason: str = ""


class _PatientRateLimitHandler(RateLimitErrorRetryHandler):
    """Waits as long as Slack asks, but not longer than MAX_RETRY_AFTER_S."""

    def _can_retry(
        self,
        *,
        state: RetryState,
        request: HttpRequest,
        response: HttpResponse | None = None,
        error: Exception | None = None,
    ) -> bool:
        if response is None or response.status_code != 429:
            return False
        headers = {name.lower(): value for name, value in response.headers.items()}
        seconds = headers.get("retry-after", ["1"])[0]
        return seconds.isdigit() and int(seconds) <= MAX_RETRY_AFTER_S


def slack_client(token: str, base_url: str | None = None, timeout_s: int = 10) -> WebClient:
    """Return a client that waits and repeats when Slack limits its rate, errs, or cannot be reached.

    ``base_url`` replaces Slack's own address; ``timeout_s`` is for each attempt. A request is repeated when the
    connection broke before any answer (at worst the message stands there twice), but not when Slack was silent
    for ``timeout_s`` or stopped in the middle of its answer: then the message was most likely posted.
    """
    return WebClient(
        token=token,
        base_url=base_url or WebClient.BASE_URL,
        timeout=timeout_s,
        retry_handlers=[
            _PatientRateLimitHandler(max_retry_count=RETRIES),
            ServerErrorRetryHandler(max_retry_count=RETRIES),
            ConnectionErrorRetryHandler(max_retry_count=RETRIES),
        ],
    )


def send(client: WebClient, channel: str, message: SlackMessage, thread_ts: str | None = None) -> SendResult:
    """Post ``message`` in ``channel`` (an id), or as an answer to ``thread_ts``.

    Whatever goes wrong between here and Slack becomes the result's ``reason``; nothing is raised for it.
    """
    try:
        response = client.chat_postMessage(
            channel=channel,
            text=message.text,
            blocks=list(message.blocks),
            thread_ts=thread_ts,
            unfurl_links=False,
            unfurl_media=False,
        )
        return SendResult(True, channel=str(response["channel"]), ts=str(response["ts"]))
    except SlackApiError as error:
        reason = _api_reason(error)
    # KeyError and ValueError: an answer that is not Slack's, such as a proxy's page.
    except (SlackClientError, OSError, http.client.HTTPException, ValueError, KeyError) as error:
        reason = f"Slack cannot be reached at {client.base_url}: {type(error).__name__}: {error}"
    return SendResult(False, reason=_without(client.token, reason))


def run_message(view: RunView, mention: str = "<!channel>") -> SlackMessage:
    """Return the message of a run that ended.

    ``mention`` (``<!channel>``, ``<@U…>``, or nothing) is put into the message that somebody must act on at once:
    that the cluster may not be as it was before the run.
    """
    headline = _cut(escaped(summary.headline(view)), HEADLINE_CHARS)
    loud = f"{mention} *{headline}*".strip()
    blocks: list[Block] = [_header(view), _section(loud if view.restore_failed else headline)]
    if view.restore_failed or len(view.reasons) > 1:
        blocks += _reasons(view)
    if lines := summary.history_lines(view):
        blocks.append(_bullets(lines, HISTORY_CHARS))
    if comparisons := _worth_showing(view):
        blocks += _code(summary.comparison_text(view, comparisons, summary.MIN_WIDTH))
    if proofs := [proof for proof in view.proofs if proof.required]:
        blocks += _code(summary.proof_text(proofs, summary.MIN_WIDTH))
    blocks.append(_conditions(view))
    return SlackMessage(headline, tuple(block.to_dict() for block in blocks))


def escaped(text: str) -> str:
    """Return ``text`` so that Slack shows it literally: no links, mentions or channels."""
    return escape(text, quote=False)


def _header(view: RunView) -> HeaderBlock:
    cluster = summary.clean(view.cluster)
    if view.restore_failed:
        text = f":rotating_light: RESTORE NOT VERIFIED on {cluster}"
    else:
        text = f"{_EMOJI[view.status]} BIG TCP on {cluster}: {view.status}"
    return HeaderBlock(text=PlainTextObject(text=_cut(text, HEADER_CHARS), emoji=True))


def _reasons(view: RunView) -> list[Block]:
    reasons = [summary.clean(reason) for reason in view.reasons]
    return [_bullets(reasons, REASONS_CHARS)] if reasons else []


def _bullets(lines: Sequence[str], limit: int) -> SectionBlock:
    shown = [f"• {escaped(line)}" for line in lines[:REASONS_SHOWN]]
    if len(lines) > REASONS_SHOWN:
        shown.append(f"• and {len(lines) - REASONS_SHOWN} more")
    return _section(_cut("\n".join(shown), limit))


def _worth_showing(view: RunView) -> list[Any]:
    """Return the comparison that stands for each scenario, and every one that got worse; the log has all."""
    headlines = view.headline_comparisons()
    return [comparison for comparison in view.judged if comparison in headlines or comparison.verdict == "slower"]


def _conditions(view: RunView) -> ContextBlock:
    lines = [f"*{label}* {escaped(text)}" for label, text in summary.facts(view) if label != "page"]
    if view.url:
        lines.insert(0, f"<{escaped(view.url)}|The run in Airflow>")
    return ContextBlock(elements=[MarkdownTextObject(text=_cut("\n".join(lines), CONDITIONS_CHARS))])


def _section(text: str) -> SectionBlock:
    return SectionBlock(text=MarkdownTextObject(text=text))


def _code(text: str) -> list[Block]:
    """Return ``text`` as monospaced sections, split between lines, each within Slack's limit."""
    fence = "```"
    room = SECTION_CHARS - 2 * len(fence)
    chunks = list(_chunks([escaped(line) for line in text.splitlines()], room))
    sections: list[Block] = [_section(f"{fence}{chunk}{fence}") for chunk in chunks[:TABLE_SECTIONS]]
    if len(chunks) > TABLE_SECTIONS:
        sections.append(_section("The rest of the table is in the log of the run."))
    return sections


def _chunks(lines: Sequence[str], room: int) -> Iterator[str]:
    chunk: list[str] = []
    for line in lines:
        if chunk and sum(map(len, chunk)) + len(chunk) + len(line) > room:
            yield "\n".join(chunk)
            chunk = []
        chunk.append(line)
    yield "\n".join(chunk)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _api_reason(error: SlackApiError) -> str:
    response = error.response
    status = getattr(response, "status_code", None)
    if status == 429:
        return f"Slack limits the rate of messages and asked to wait (after {RETRIES} attempts)"
    code = str(response.get("error") or "no error code")
    if status is not None and status >= 500:
        return f"Slack answered with HTTP status {status}"
    messages = (response.get("response_metadata") or {}).get("messages") or []
    details = f" ({'; '.join(map(str, messages))})" if messages else ""
    advice = _ADVICE.get(code)
    return f"Slack refused the message: {code}{f': {advice}' if advice else ''}{details}"


def _without(token: str | None, text: str) -> str:
    return text.replace(token, "***") if token else text
