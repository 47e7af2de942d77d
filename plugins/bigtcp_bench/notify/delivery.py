"""Sends what the outbox keeps, in order; what cannot be sent now stays for the next run.

A message is sent at least once: one whose attempt has no known outcome is sent again, unless its channel finds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.notify.channel import SendResult
from bigtcp_bench.notify.message import Message, message_of
from bigtcp_bench.warehouse import outbox
from bigtcp_bench.warehouse.outbox import Outgoing, Taken

if TYPE_CHECKING:
    from bigtcp_bench.notify.channel import Channel, Chart, Settings
    from bigtcp_bench.warehouse.store import Warehouse

#: Seconds between two looks at a message that another sender has.
_POLL_S = 1.0

#: Draws the chart that a message of a cluster asks for; None if there is none to see.
Draw = Callable[[str, dict[str, Any]], "Chart | None"]


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
    warehouse: Warehouse, cluster: str, settings: Settings, *, draw: Draw | None = None, budget_s: float = 60
) -> Delivery:
    """Send the waiting messages of ``cluster`` to its channel or into their threads, in the order of the outbox.

    One that is refused for what is in it is left for later, and set aside after a few times. Any other failure
    ends the delivery, for the next message would fail as slowly, and none is begun after ``budget_s`` seconds. A
    message that another sender has is waited for, within the same time.
    """
    end = time.monotonic() + budget_s
    channel = settings.channel_of(cluster)
    if channel is None:
        return Delivery(0, outbox.waiting(warehouse, cluster), f"there is no channel for cluster {cluster}")
    refused: dict[int, str] = {}
    sent, reason, lost = 0, "", []
    while not reason:
        outgoing = outbox.claim(warehouse, cluster, but=refused)
        if outgoing is None:
            break
        if isinstance(outgoing, Taken):
            if time.monotonic() + _POLL_S > end:
                reason = f"another sender has the oldest message, at most until {outgoing.until:%H:%M:%S %Z}"
            else:
                time.sleep(_POLL_S)
            continue
        message, result = _send(channel, outgoing)
        if not result.sent:
            lost += _failed(warehouse, outgoing, result)
            if result.refused:
                refused[outgoing.id] = result.reason
            else:
                reason = result.reason
            continue
        opens = result.ts is not None and result.thread_ts == result.ts
        outbox.delivered(warehouse, outgoing, channel=result.channel, ts=result.ts, opens_thread=opens)
        sent += 1
        if draw is not None and (why := _add_chart(channel, cluster, message, result, draw)):
            lost.append(why)
        if time.monotonic() > end:
            reason = f"no more messages are sent after {budget_s:g} s"
    waiting = outbox.waiting(warehouse, cluster)
    reason = reason or next(iter(refused.values()), "")
    return Delivery(sent, waiting, reason if waiting else "", tuple(lost))


def _send(channel: Channel, outgoing: Outgoing) -> tuple[Message, SendResult]:
    try:
        message = message_of(outgoing.payload)
    except InvalidInput as error:
        # As if the channel had refused it: nobody else waits for what nobody can read.
        return Message(()), SendResult(False, reason=str(error), refused=True)
    return message, channel.send(message, outgoing)


def _failed(warehouse: Warehouse, outgoing: Outgoing, result: SendResult) -> list[str]:
    """Record the failure; return the line that says so where the message is set aside by it."""
    aside = outbox.failed(warehouse, outgoing, result.reason, doubtful=result.doubtful, refused=result.refused)
    return [f"set aside, {outgoing.key}: {result.reason}, {outbox.MAX_REFUSALS} times"] if aside else []


def _add_chart(channel: Channel, cluster: str, message: Message, sent: SendResult, draw: Draw) -> str:
    """Put the message's chart beside it; return why it is missing there, if it is."""
    if not message.chart:
        return ""
    try:
        chart = draw(cluster, message.chart)
    # Whatever a drawing library may raise: the text is sent, and the run must not fail for a picture.
    except Exception as error:
        return f"the chart could not be drawn: {type(error).__name__}: {error}"
    if chart is None:
        return ""
    added = channel.add_chart(sent, chart)
    return "" if added.sent else f"the chart is missing in Slack: {added.reason}"


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"
