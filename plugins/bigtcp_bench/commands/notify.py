"""The command that tries Slack, sends a run's message or what waits, and shows what would be sent."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigtcp_bench.commands.common import add_command, add_warehouse, before_airflow, usable_warehouse
from bigtcp_bench.errors import InvalidInput, PreconditionFailed
from bigtcp_bench.settings import SLACK_CONN_ID

if TYPE_CHECKING:
    from bigtcp_bench.notify.channel import Settings
    from bigtcp_bench.notify.message import Message
    from bigtcp_bench.notify.slack.settings import ClusterSettings, SlackSettings

#: What the bot token may do, and what is missing without it.
_WITHOUT = {
    "chat:write": "nothing can be sent",
    "files:write": "messages come without charts",
    "channels:history": "a message whose sending was interrupted may come twice (private: groups:history)",
}


def add(commands: Any) -> None:
    """Add the command to ``commands``."""
    notify = add_command(commands, "notify", "send a run's Slack message, or all that wait, or try Slack", _notify)
    what = notify.add_mutually_exclusive_group()
    what.add_argument("run", nargs="?", type=int, help="number of a run; without it, all messages that wait")
    what.add_argument("--test", action="store_true", help="send a test message, and say what the token may do")
    notify.add_argument("--print", action="store_true", help="print the run's message as JSON, and send nothing")
    notify.add_argument("--cluster", help="whose channel is tried, or whose messages are sent")
    notify.epilog = (
        "The connection bigtcp_slack is read as Airflow does: from AIRFLOW_CONN_BIGTCP_SLACK, a secrets backend, "
        "or Airflow's own database. The token is never printed."
    )
    add_warehouse(notify)


def _notify(options: argparse.Namespace) -> int:
    if options.test:
        return _try(options)
    if options.run is not None:
        return _send_run(options)
    if options.print:
        raise InvalidInput("--print needs the number of a run")
    return _send_waiting(options)


def _try(options: argparse.Namespace) -> int:
    from bigtcp_bench.notify.slack.client import client_of, scopes
    from bigtcp_bench.notify.slack.settings import SlackSettings

    settings = _settings(options.folder)
    if not isinstance(settings, SlackSettings):
        raise InvalidInput("--test tries Slack, and another channel has a connection")
    own = settings.of(options.cluster or "")
    status = _post(settings, own, _test_message(options.cluster, own))
    granted = scopes(client_of(settings))
    for scope, without in _WITHOUT.items():
        if granted is not None and scope not in granted:
            print(f"the token has no scope {scope}: {without}")
    return status


def _send_run(options: argparse.Namespace) -> int:
    """Show or send what the night of a run has kept for Slack; what it calls for, where nothing was kept."""
    from bigtcp_bench.notify.delivery import deliver
    from bigtcp_bench.notify.message import message_of
    from bigtcp_bench.notify.news import drafts_of_run
    from bigtcp_bench.notify.pictures import drawing
    from bigtcp_bench.notify.slack.blocks import rendered
    from bigtcp_bench.notify.slack.settings import ClusterSettings
    from bigtcp_bench.report.view import RunView
    from bigtcp_bench.warehouse import outbox

    warehouse = usable_warehouse(options)
    airflow_url = os.environ.get("AIRFLOW__API__BASE_URL")
    view = RunView.from_warehouse(warehouse, options.run, airflow_url)
    kept = outbox.of_run(warehouse, options.run)
    settings = _settings_if_any(options.folder) if options.print else _settings(options.folder)
    own = settings.of(view.cluster) if settings else ClusterSettings()
    drafts = [] if kept else drafts_of_run(warehouse, view, own, airflow_url)
    payloads = kept or [draft.payload for draft in drafts]
    if not payloads:
        print(f"run {options.run} calls for no message")
    elif options.print:
        mention = own.mention if isinstance(own, ClusterSettings) else ""
        for one in payloads:
            print(json.dumps(asdict(rendered(message_of(one), mention)), indent=1))
    if options.print or not payloads or settings is None:
        return 0
    outbox.keep(warehouse, view.cluster, drafts)
    done = deliver(warehouse, view.cluster, settings, draw=drawing(warehouse), budget_s=600)
    for line in done.lines() or [f"what run {options.run} calls for was sent before"]:
        print(line)
    return 1 if done.waiting else 0


def _send_waiting(options: argparse.Namespace) -> int:
    from bigtcp_bench.notify.delivery import deliver
    from bigtcp_bench.notify.pictures import drawing
    from bigtcp_bench.warehouse import outbox

    warehouse = usable_warehouse(options)
    clusters = outbox.clusters_waiting(warehouse)
    if options.cluster is not None:
        clusters = [name for name in clusters if name == options.cluster]
    if not clusters:
        print("no message waits")
        return 0
    settings = _settings(options.folder)
    waiting = 0
    for cluster in clusters:
        done = deliver(warehouse, cluster, settings, draw=drawing(warehouse), budget_s=600)
        waiting += done.waiting
        for line in done.lines():
            print(f"{cluster}: {line}")
    return 1 if waiting else 0


def _test_message(cluster: str | None, settings: ClusterSettings) -> Message:
    """Return the message that tries whether ``settings`` work; it says what they are, and mentions nobody."""
    from bigtcp_bench.notify.message import Line, Message

    said = (
        f"bigtcp-bench can post here{f' for cluster {cluster}' if cluster else ''}.",
        f"min_severity: {settings.min_severity}, digest: {settings.digest}; mentioned when a restore was not "
        f"verified: {settings.mention or 'nobody'}.",
    )
    return Message(tuple(map(Line, said)), "test", "Test message")


def _post(settings: SlackSettings, own: ClusterSettings, message: Message) -> int:
    from bigtcp_bench.notify.slack.blocks import rendered
    from bigtcp_bench.notify.slack.client import client_of, post

    if own.channel is None:
        named = ", ".join(name for name, one in settings.clusters.items() if one.channel)
        raise InvalidInput(f"there is no channel for this cluster; --cluster may be one of {named}")
    result = post(client_of(settings), own.channel, rendered(message))
    if result.sent:
        print(f"sent to channel {result.channel} as message {result.ts}")
        return 0
    doubt = "; it may be there all the same" if result.doubtful else ""
    print(f"not sent to channel {own.channel}: {result.reason}{doubt}")
    return 1


def _settings(folder: Path) -> Settings:
    """Return the settings of the connection. Raises PreconditionFailed without one."""
    settings = _settings_if_any(folder)
    if settings is None:
        raise PreconditionFailed(
            f"there is no Airflow connection {SLACK_CONN_ID!r}; docs/slack.md says how to make one, "
            "for example with AIRFLOW_CONN_BIGTCP_SLACK"
        )
    return settings


def _settings_if_any(folder: Path) -> Settings | None:
    before_airflow(folder)
    from bigtcp_bench.airflow import connections

    return connections.channel_settings()
