"""Sends to Slack what the outbox keeps, in order; what cannot be sent now stays for the next run.

Slack has no way to say "post this unless you have it". A message is therefore sent at least once: one whose
attempt has no known outcome (the sender was killed, Slack did not answer) is looked up by its mark where the app
may read the channel, and sent again where it is not found or may not be looked for.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bigtcp_bench.notify.slack.blocks import SlackMessage
from bigtcp_bench.notify.slack.client import REFUSED_FOR_CONTENT, SendResult, client_of, find, post, update, upload
from bigtcp_bench.warehouse import outbox
from bigtcp_bench.warehouse.outbox import Message, Taken

if TYPE_CHECKING:
    from slack_sdk import WebClient

    from bigtcp_bench.notify.slack.settings import SlackSettings
    from bigtcp_bench.warehouse.store import Warehouse

#: The thread is gone or locked, or the channel in which it is: the message goes into the channel of the settings.
_NO_THREAD = {
    "cannot_reply_to_message",
    "channel_not_found",
    "is_archived",
    "message_not_found",
    "not_in_channel",
    "restricted_action_non_threadable_channel",
    "restricted_action_thread_locked",
    "thread_not_found",
}
#: The message is gone or may not be changed any more; the thread has said it.
_NO_UPDATE = {"cant_update_message", "edit_window_closed", "message_not_found", *_NO_THREAD}

#: Seconds between two looks at a message that another sender has.
_POLL_S = 1.0


@dataclass(frozen=True)
class Chart:
    """A PNG for a thread, with a short ``title`` and a ``text`` that says what is on it."""

    image: bytes
    title: str
    text: str


#: Draws the chart that a message of a cluster asks for (its payload's ``chart``); None if there is none to see.
Draw = Callable[[str, dict[str, Any]], Chart | None]


@dataclass(frozen=True)
class Delivery:
    """What became of a cluster's messages: how many were sent, and how many still wait, because of ``reason``.

    ``lost`` says what people get to see less of: charts, and messages that are set aside.
    """

    sent: int
    waiting: int
    reason: str = ""
    lost: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return what people should know of it, a line each; nothing when there was nothing to do."""
        found = [f"sent to Slack: {_messages(self.sent)}"] if self.sent else []
        if self.waiting:
            found.append(f"not sent to Slack, kept for the next run: {_messages(self.waiting)}: {self.reason}")
        return [*found, *self.lost]


def deliver(
    warehouse: Warehouse, cluster: str, settings: SlackSettings, *, draw: Draw | None = None, budget_s: float = 60
) -> Delivery:
    """Send the waiting messages of ``cluster`` to its channel or into their threads, in the order of the outbox.

    One that Slack refuses for what is in it is left for later, and set aside after a few times. Any other failure
    ends the delivery, for the next message would fail as slowly, and none is begun after ``budget_s`` seconds. A
    message that another sender has is waited for, within the same time.
    """
    end = time.monotonic() + budget_s
    channel = settings.of(cluster).channel
    if channel is None:
        return Delivery(0, outbox.waiting(warehouse, cluster), f"there is no channel for cluster {cluster}")
    client = client_of(settings)
    refused: dict[int, str] = {}
    sent, reason, lost = 0, "", []
    while not reason:
        message = outbox.claim(warehouse, cluster, but=refused)
        if message is None:
            break
        if isinstance(message, Taken):
            if time.monotonic() + _POLL_S > end:
                reason = f"another sender has the oldest message, at most until {message.until:%H:%M:%S %Z}"
            else:
                time.sleep(_POLL_S)
            continue
        result = _send(client, channel, message)
        if not result.sent:
            for_content = result.code in REFUSED_FOR_CONTENT
            aside = outbox.failed(warehouse, message, result.reason, doubtful=result.doubtful, refused=for_content)
            if aside:
                lost.append(f"set aside, {message.key}: {result.reason}, {outbox.MAX_REFUSALS} times")
            if for_content:
                refused[message.id] = result.reason
            else:
                reason = result.reason
            continue
        opens = result.ts is not None and result.thread_ts == result.ts
        outbox.delivered(warehouse, message, channel=result.channel, ts=result.ts, opens_thread=opens)
        sent += 1
        if draw is not None and (why := _add_chart(client, cluster, message, result, draw)):
            lost.append(why)
        if time.monotonic() > end:
            reason = f"no more messages are sent after {budget_s:g} s"
    waiting = outbox.waiting(warehouse, cluster)
    reason = reason or next(iter(refused.values()), "")
    return Delivery(sent, waiting, reason if waiting else "", tuple(lost))


def _send(client: WebClient, channel: str, message: Message) -> SendResult:
    if message.kind == "update":
        if message.thread is None:
            # There never was a first message to change.
            return SendResult(True)
        result = update(client, *message.thread, _content(message))
        return SendResult(True) if result.code in _NO_UPDATE else result
    if message.thread is None:
        return _posted(client, channel, message, doubtful_since=message.doubtful_since)
    place, ts = message.thread
    result = _posted(client, place, message, thread_ts=ts, doubtful_since=message.doubtful_since)
    return _posted(client, channel, message) if result.code in _NO_THREAD else result


def _posted(
    client: WebClient,
    channel: str,
    message: Message,
    *,
    thread_ts: str | None = None,
    doubtful_since: datetime | None = None,
) -> SendResult:
    """Post ``message``, unless it is there already as far as can be seen."""
    mark = _mark(message)
    if doubtful_since is not None:
        known = find(client, channel, mark, doubtful_since, thread_ts)
        if known.ts is not None:
            return SendResult(True, channel=channel, ts=known.ts, thread_ts=thread_ts or known.ts)
    begun = datetime.now(UTC)
    broadcast = bool(message.payload.get("broadcast"))

    def once() -> SendResult:
        return post(client, channel, _content(message), thread_ts=thread_ts, broadcast=broadcast, mark=mark)

    result = once()
    if not result.doubtful:
        return result
    known = find(client, channel, mark, begun, thread_ts)
    if known.ts is not None:
        return SendResult(True, channel=channel, ts=known.ts, thread_ts=thread_ts or known.ts)
    # Where nobody may look, a second attempt right now would most likely double it.
    return once() if known.certain else result


def _content(message: Message) -> SlackMessage:
    return SlackMessage(message.payload["text"], tuple(message.payload["blocks"]))


def _mark(message: Message) -> str:
    """Return what tells this message from any other in Slack, and tells nobody anything else."""
    return hashlib.sha256(f"{message.created_at.isoformat()} {message.id} {message.key}".encode()).hexdigest()[:32]


def _add_chart(client: WebClient, cluster: str, message: Message, result: SendResult, draw: Draw) -> str:
    """Put the message's chart into its thread; return why it is missing there, if it is."""
    wanted = message.payload.get("chart")
    if not wanted or result.channel is None or result.thread_ts is None:
        return ""
    try:
        chart = draw(cluster, wanted)
    # Whatever a drawing library may raise: the text is sent, and the run must not fail for a picture.
    except Exception as error:
        return f"the chart could not be drawn: {type(error).__name__}: {error}"
    if chart is None:
        return ""
    uploaded = upload(client, result.channel, result.thread_ts, chart.image, chart.title, chart.text)
    return "" if uploaded.sent else f"the chart is missing in Slack: {uploaded.reason}"


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"
