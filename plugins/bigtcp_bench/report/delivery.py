"""Delivers messages to Slack; one that cannot be sent now waits in the warehouse for the next run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigtcp_bench.report.slack import SendResult, SlackMessage, send
from bigtcp_bench.warehouse import outbox

if TYPE_CHECKING:
    from slack_sdk import WebClient

    from bigtcp_bench.warehouse.store import Warehouse

_KIND = "slack"


def deliver(warehouse: Warehouse, client: WebClient, channel: str, key: str, message: SlackMessage) -> SendResult:
    """Send what waits, oldest first, and then ``message``; it waits itself if it cannot be sent.

    ``key`` names the message: it is kept only once, however often its task is tried.
    """
    for waiting in outbox.claim(warehouse):
        kept = SlackMessage(waiting.payload["text"], tuple(waiting.payload["blocks"]))
        result = send(client, channel, kept)
        if not result.sent:
            outbox.failed(warehouse, waiting, result.reason)
            # The next one would fail as slowly.
            break
        outbox.delivered(warehouse, waiting)
    result = send(client, channel, message)
    if not result.sent:
        outbox.enqueue(warehouse, key, _KIND, {"text": message.text, "blocks": list(message.blocks)})
    return result
