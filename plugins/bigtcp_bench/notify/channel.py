"""What a channel must be able to do, and which there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from bigtcp_bench.settings import SLACK_CONN_ID

if TYPE_CHECKING:
    from bigtcp_bench.notify.message import Message
    from bigtcp_bench.warehouse.outbox import Outgoing

#: What reads the settings of each channel, by the Airflow connection that switches it on: a function of the
#: connection's password, extra and name. The first connection that exists is used.
CHANNELS = {
    SLACK_CONN_ID: "bigtcp_bench.notify.slack.settings:slack_settings",
}

#: From few messages to many: regressions alone, also runs that cannot be judged, also suspicions. That a restore
#: was not verified is said in any case.
Severity = Literal["regression", "invalid", "suspect"]
Digest = Literal["off", "weekly"]


class Wanted(BaseModel):
    """What is told of a cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_severity: Severity = "invalid"
    digest: Digest = "off"


@dataclass(frozen=True)
class SendResult:
    """Whether a channel took it: ``channel`` and ``ts`` name the message there; if not, ``reason`` says why.

    ``thread_ts`` is the message that answers to it hang on. ``code`` is the channel's own word for a refusal.
    ``refused``: for what is in it, so that others may go through. ``doubtful``: it may have taken it all the same.
    """

    sent: bool
    channel: str | None = None
    ts: str | None = None
    thread_ts: str | None = None
    reason: str = ""
    code: str = ""
    refused: bool = False
    doubtful: bool = False


@dataclass(frozen=True)
class Chart:
    """A PNG for a message, with a short ``title`` and a ``text`` that says what is on it."""

    image: bytes
    title: str
    text: str


class Channel(Protocol):
    """Where the messages of one cluster go. Neither method raises anything: what fails is a result."""

    def send(self, message: Message, outgoing: Outgoing) -> SendResult:
        """Show ``message``; ``outgoing`` says what it answers to, and whether it may be there already."""

    def add_chart(self, sent: SendResult, chart: Chart) -> SendResult:
        """Put ``chart`` beside the message that was ``sent``."""


class Settings(Protocol):
    """What a connection says of a channel."""

    def of(self, cluster: str) -> Wanted:
        """Return what is told of ``cluster``."""

    def channel_of(self, cluster: str) -> Channel | None:
        """Return where the messages of ``cluster`` go, or None where nothing is said of it."""
