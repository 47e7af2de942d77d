"""The channel Slack: a thread for each incident, its first message kept up to date, charts as files.

Slack has no way to say "post this unless you have it". A message whose attempt has no known outcome (the sender
was killed, Slack did not answer) is looked up by its mark where the app may read the channel, and sent again where
it is not found or may not be looked for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bigtcp_bench.notify.channel import Chart, SendResult
from bigtcp_bench.notify.slack.blocks import SlackMessage, rendered
from bigtcp_bench.notify.slack.client import find, post, update, upload

if TYPE_CHECKING:
    from slack_sdk import WebClient

    from bigtcp_bench.notify.message import Message
    from bigtcp_bench.warehouse.outbox import Outgoing

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


@dataclass(frozen=True)
class SlackChannel:
    """A channel of Slack, by its id; ``mention`` is Slack's markup for whom an urgent message calls."""

    client: WebClient
    channel: str
    mention: str

    def send(self, message: Message, outgoing: Outgoing) -> SendResult:
        """Post ``message`` in the channel or into its thread, or change the one that began the thread."""
        content = rendered(message, self.mention)
        if outgoing.kind == "update":
            if outgoing.thread is None:
                # There never was a first message to change.
                return SendResult(True)
            result = update(self.client, *outgoing.thread, content)
            return SendResult(True) if result.code in _NO_UPDATE else result
        since = outgoing.doubtful_since
        if outgoing.thread is None:
            return self._posted(self.channel, content, outgoing, doubtful_since=since)
        place, ts = outgoing.thread
        result = self._posted(place, content, outgoing, thread_ts=ts, doubtful_since=since)
        return self._posted(self.channel, content, outgoing) if result.code in _NO_THREAD else result

    def add_chart(self, sent: SendResult, chart: Chart) -> SendResult:
        """Put ``chart`` into the thread of the message that was ``sent``."""
        if sent.channel is None or sent.thread_ts is None:
            return SendResult(True)
        return upload(self.client, sent.channel, sent.thread_ts, chart)

    def _posted(
        self,
        channel: str,
        content: SlackMessage,
        outgoing: Outgoing,
        *,
        thread_ts: str | None = None,
        doubtful_since: datetime | None = None,
    ) -> SendResult:
        """Post ``content``, unless it is there already as far as can be seen."""
        mark = _mark(outgoing)
        if doubtful_since is not None:
            known = find(self.client, channel, mark, doubtful_since, thread_ts)
            if known.ts is not None:
                return SendResult(True, channel=channel, ts=known.ts, thread_ts=thread_ts or known.ts)
        begun = datetime.now(UTC)
        broadcast = bool(outgoing.payload.get("broadcast"))

        def once() -> SendResult:
            return post(self.client, channel, content, thread_ts=thread_ts, broadcast=broadcast, mark=mark)

        result = once()
        if not result.doubtful:
            return result
        known = find(self.client, channel, mark, begun, thread_ts)
        if known.ts is not None:
            return SendResult(True, channel=channel, ts=known.ts, thread_ts=thread_ts or known.ts)
        # Where nobody may look, a second attempt right now would most likely double it.
        return once() if known.certain else result


def _mark(outgoing: Outgoing) -> str:
    """Return what tells this message from any other in Slack, and tells nobody anything else."""
    text = f"{outgoing.created_at.isoformat()} {outgoing.id} {outgoing.key}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
