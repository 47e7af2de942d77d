"""Slack's Web API as this project uses it: post, change, look up, upload; what fails is a result and no error."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.http_retry.builtin_handlers import (
    ConnectionErrorRetryHandler,
    RateLimitErrorRetryHandler,
    ServerErrorRetryHandler,
)

from bigtcp_bench.notify.channel import Chart, SendResult

if TYPE_CHECKING:
    from slack_sdk.http_retry.request import HttpRequest
    from slack_sdk.http_retry.response import HttpResponse
    from slack_sdk.http_retry.state import RetryState

    from bigtcp_bench.notify.slack.blocks import SlackMessage
    from bigtcp_bench.notify.slack.settings import SlackSettings

RETRIES = 3
#: Slack may ask to wait for longer than a task should; the message then waits in the warehouse.
MAX_RETRY_AFTER_S = 30

#: A message carries its mark as metadata of this type: https://docs.slack.dev/messaging/message-metadata
EVENT_TYPE = "bigtcp_bench_message"
#: How far Slack's clock may be behind, when a message is looked up.
_CLOCK_SKEW = timedelta(minutes=5)
_LOOKUP_PAGES = 5

_TIMED_OUT = (TimeoutError, ConnectionResetError, http.client.RemoteDisconnected)

#: Slack refuses what the message is made of: plain text may go through.
_UNUSABLE_CONTENT = {
    "invalid_arguments",
    "invalid_blocks",
    "invalid_blocks_format",
    "invalid_metadata_format",
    "invalid_metadata_schema",
    "metadata_must_be_sent_from_app",
    "metadata_too_large",
    "msg_blocks_too_long",
}
#: Slack refuses this message, and others may go through.
#: https://docs.slack.dev/reference/methods/chat.postMessage#errors
_REFUSED_FOR_CONTENT = _UNUSABLE_CONTENT | {
    "attachment_payload_limit_exceeded",
    "invalid_arg_name",
    "invalid_array_arg",
    "invalid_charset",
    "invalid_form_data",
    "markdown_text_conflict",
    "msg_too_long",
    "no_text",
    "too_many_attachments",
}
#: "It's possible some aspect of the operation succeeded before the error was raised."
_UNCERTAIN = {"fatal_error", "internal_error"}

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
class Lookup:
    """Whether a message is in Slack: its ``ts``, or None; not ``certain`` when Slack did not let us look."""

    ts: str | None
    certain: bool


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


class _RepeatableHandler(ConnectionErrorRetryHandler):
    """Repeats what cannot be reached or does not answer, but no message that Slack may have taken."""

    def __init__(self) -> None:
        super().__init__(max_retry_count=RETRIES, error_types=[URLError, *_TIMED_OUT])

    def _can_retry(
        self,
        *,
        state: RetryState,
        request: HttpRequest,
        response: HttpResponse | None = None,
        error: Exception | None = None,
    ) -> bool:
        if request.url.endswith("/chat.postMessage") and isinstance(error, _TIMED_OUT):
            return False
        return super()._can_retry(state=state, request=request, response=response, error=error)


def slack_client(
    token: str, base_url: str | None = None, timeout_s: float = 10, proxy: str | None = None
) -> WebClient:
    """Return a client that waits and repeats when Slack limits its rate, errs, or cannot be reached.

    ``base_url`` replaces Slack's own address; ``timeout_s`` is for each attempt. A message that Slack did not
    answer is not sent again here: it may have been posted.
    """
    return WebClient(
        token=token,
        base_url=base_url or WebClient.BASE_URL,
        timeout=timeout_s,  # type: ignore[arg-type]
        proxy=proxy,
        retry_handlers=[
            _PatientRateLimitHandler(max_retry_count=RETRIES),
            ServerErrorRetryHandler(max_retry_count=RETRIES),
            _RepeatableHandler(),
        ],
    )


def client_of(settings: SlackSettings) -> WebClient:
    """Return the client for ``settings``."""
    return slack_client(settings.token.get_secret_value(), settings.base_url, settings.timeout, settings.proxy)


def scopes(client: WebClient) -> set[str] | None:
    """Return what the token may do, or None when Slack does not say."""
    try:
        headers = {name.lower(): value for name, value in client.auth_test().headers.items()}
    except _FAILURES:
        return None
    given = headers.get("x-oauth-scopes")
    return set(given.replace(" ", "").split(",")) if given else None


def post(
    client: WebClient,
    channel: str,
    message: SlackMessage,
    *,
    thread_ts: str | None = None,
    broadcast: bool = False,
    mark: str | None = None,
) -> SendResult:
    """Post ``message`` in ``channel`` (an id), or as an answer to ``thread_ts``; ``broadcast`` shows that in both.

    ``mark`` is what ``find`` knows it by. If Slack refuses the blocks, the text is posted without them.
    """

    def call(**content: Any) -> SendResult:
        response = client.chat_postMessage(
            channel=channel,
            thread_ts=thread_ts,
            reply_broadcast=broadcast if thread_ts else None,
            unfurl_links=False,
            unfurl_media=False,
            **content,
        )
        ts = str(response["ts"])
        return SendResult(True, channel=str(response["channel"]), ts=ts, thread_ts=thread_ts or ts)

    metadata = {"event_type": EVENT_TYPE, "event_payload": {"mark": mark}} if mark else None
    whole = _tried(client, lambda: call(text=message.text, blocks=list(message.blocks), metadata=metadata))
    if whole.code in _UNUSABLE_CONTENT:
        plain = _tried(client, lambda: call(text=message.text))
        return plain if plain.sent else whole
    return whole


def update(client: WebClient, channel: str, ts: str, message: SlackMessage) -> SendResult:
    """Replace the message ``ts`` of ``channel``."""

    def call() -> SendResult:
        client.chat_update(channel=channel, ts=ts, text=message.text, blocks=list(message.blocks))
        return SendResult(True, channel=channel, ts=ts)

    return _tried(client, call)


def find(client: WebClient, channel: str, mark: str, since: datetime, thread_ts: str | None = None) -> Lookup:
    """Look for the message that was posted with ``mark`` after ``since``, in ``channel`` or in a thread of it.

    Slack lets only apps with the scope channels:history (or groups:history) look.
    """
    oldest = str((since - _CLOCK_SKEW).timestamp())
    options: dict[str, Any] = {"channel": channel, "oldest": oldest, "limit": 200, "include_all_metadata": True}
    try:
        pages = (
            client.conversations_replies(ts=thread_ts, **options)
            if thread_ts
            else client.conversations_history(**options)
        )
        for page in islice(pages, _LOOKUP_PAGES):
            for one in page["messages"]:
                if ((one.get("metadata") or {}).get("event_payload") or {}).get("mark") == mark:
                    return Lookup(str(one["ts"]), True)
        return Lookup(None, True)
    except _FAILURES:
        return Lookup(None, False)


def upload(client: WebClient, channel: str, thread_ts: str, chart: Chart) -> SendResult:
    """Put ``chart`` into a thread.

    Its text stands beside the image, for a file with ``alt_txt`` may silently not be shared at all:
    https://github.com/slackapi/python-slack-sdk/issues/1818.
    """

    def call() -> SendResult:
        client.files_upload_v2(
            channel=channel,
            thread_ts=thread_ts,
            filename=f"{chart.title}.png",
            title=chart.title,
            file=chart.image,
            initial_comment=chart.text,
        )
        return SendResult(True, channel=channel, ts=thread_ts)

    return _tried(client, call)


#: KeyError, TypeError and ValueError: an answer that is not Slack's, such as a proxy's page.
_FAILURES = (SlackClientError, OSError, http.client.HTTPException, ValueError, KeyError, TypeError)


def _tried(client: WebClient, call: Callable[[], SendResult]) -> SendResult:
    try:
        return call()
    except SlackApiError as error:
        status = getattr(error.response, "status_code", None) or 0
        code = str(error.response.get("error") or "no error code")
        reason, doubtful = _api_reason(error, status, code), status >= 500 or code in _UNCERTAIN
        refused = code in _REFUSED_FOR_CONTENT
        reason = _without(client.token, reason)
        return SendResult(False, reason=reason, code=code, refused=refused, doubtful=doubtful)
    except _FAILURES as error:
        reason = f"Slack cannot be reached at {client.base_url}: {type(error).__name__}: {error}"
        # A URLError is raised before anything was sent, by name resolution, connection or handshake.
        doubtful = not isinstance(error, URLError)
        return SendResult(False, reason=_without(client.token, reason), doubtful=doubtful)


def _api_reason(error: SlackApiError, status: int, code: str) -> str:
    response = error.response
    if status == 429:
        return f"Slack limits the rate of messages and asked to wait (after {RETRIES} attempts)"
    if status >= 500:
        return f"Slack answered with HTTP status {status}"
    messages = (response.get("response_metadata") or {}).get("messages") or []
    details = f" ({'; '.join(map(str, messages))})" if messages else ""
    advice = _ADVICE.get(code)
    return f"Slack refused the message: {code}{f': {advice}' if advice else ''}{details}"


def _without(token: str | None, text: str) -> str:
    return text.replace(token, "***") if token else text
