"""A message as data: what is said, and nothing of how a channel shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bigtcp_bench.errors import InvalidInput, validation_sentence


@dataclass(frozen=True)
class Line:
    """A sentence that matters. ``label`` says in few words what it is about; a ``loud`` one stands out."""

    text: str
    label: str = ""
    loud: bool = False


@dataclass(frozen=True)
class Listing:
    """Sentences of one kind, the most telling first."""

    lines: tuple[str, ...]
    title: str = ""


@dataclass(frozen=True)
class Link:
    """An address, and what is found there."""

    url: str
    label: str


@dataclass(frozen=True)
class Message:
    """What one message says: plain text, which may hold anything, in the order in which it is read.

    ``kind`` is what happened, in one word: a run's status, an incident's state, ``restore``, ``digest``. Without a
    ``title`` it answers to one before. ``tables`` are monospaced text. ``facts`` are conditions in small print, as
    label and text. ``urgent``: somebody must act at once. ``chart`` names what is drawn when it is sent, as
    ``pictures`` reads it.
    """

    lines: tuple[Line, ...]
    kind: str = ""
    title: str = ""
    lists: tuple[Listing, ...] = ()
    tables: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    links: tuple[Link, ...] = ()
    urgent: bool = False
    chart: dict[str, Any] | None = None


_MESSAGE = TypeAdapter(Message)


def payload(message: Message, **more: Any) -> dict[str, Any]:
    """Return what the outbox keeps of ``message``, with ``more`` that says how it is sent."""
    return {"message": _MESSAGE.dump_python(message, mode="json"), **more}


def message_of(kept: Mapping[str, Any]) -> Message:
    """Return the message that the outbox has ``kept``. Raises InvalidInput for what no version has kept."""
    if "text" in kept and "message" not in kept:
        # Kept by a version that made Slack's text beforehand.
        return Message((Line(kept["text"]),))
    try:
        return _MESSAGE.validate_python(kept.get("message"))
    except ValidationError as error:
        raise InvalidInput(validation_sentence(error, "what was kept of a message")) from error
