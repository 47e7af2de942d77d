"""Which messages a run calls for, given what was told before; a quiet night calls for none.

What was told of an incident is in the newest message kept about it, sent or not. So a night whose telling was
killed is made up for by the next one, and nothing is told twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bigtcp_bench.analysis.incidents import OPEN_STATES
from bigtcp_bench.notify import digest, incident_messages, past
from bigtcp_bench.notify.incident_messages import IncidentNews, Series
from bigtcp_bench.notify.message import Message, payload
from bigtcp_bench.notify.run_messages import failed_checks, run_message
from bigtcp_bench.planning.thresholds import Thresholds
from bigtcp_bench.report import links
from bigtcp_bench.report.change import compared_before
from bigtcp_bench.warehouse import incidents, outbox
from bigtcp_bench.warehouse.lists import listed_series
from bigtcp_bench.warehouse.outbox import Draft

if TYPE_CHECKING:
    from bigtcp_bench.notify.channel import Wanted
    from bigtcp_bench.report.view import RunView
    from bigtcp_bench.warehouse.incidents import Incident
    from bigtcp_bench.warehouse.store import Warehouse

#: A series that got worse by so much since it was last told has grown: the smallest lasting change that matters.
GROWN_BY: float = Thresholds.model_validate({}).history_margin


def drafts_of_run(
    warehouse: Warehouse, view: RunView, wanted: Wanted, airflow_url: str | None = None
) -> list[Draft]:
    """Return the messages that the run of ``view`` calls for, loudest first.

    ``wanted`` is what is told of its cluster; ``airflow_url`` is the address of Airflow's pages, for links.
    """
    found = [*_of_outcome(warehouse, view, wanted, airflow_url)]
    # A night that was not judged says nothing about incidents.
    if view.history.series:
        found += _of_incidents(warehouse, view, wanted, airflow_url)
    if wanted.digest == "weekly" and view.started is not None:
        found += digest.drafts(warehouse, view.cluster, view.started, airflow_url)
    return found


def _of_outcome(warehouse: Warehouse, view: RunView, wanted: Wanted, airflow_url: str | None) -> Iterator[Draft]:
    number = view.number
    kind: outbox.Kind
    if number is None:
        return
    if view.restore_failed:
        kind, key = "restore", f"run {number}: restore not verified"
    elif wanted.min_severity == "regression":
        return
    elif view.status in ("invalid", "failed"):
        kind, key = "run", f"run {number}: {view.status}"
    elif view.status == "valid" and view.compared is not None and view.compared.cilium:
        before = view.compared.before
        # One message for each change of Cilium: the run before it is the same for all runs after it.
        if compared_before(warehouse, view.cluster, number, before):
            return
        kind, key = "run", f"Cilium changed after run {before}"
    else:
        return
    message = run_message(view, failed_checks(warehouse.run(number)), airflow_url)
    # Which chart that is, if any, is found out when it is drawn: no message may depend on its picture.
    if view.status == "invalid":
        message = replace(message, chart={"run": number})
    yield Draft(key, kind, payload(message), run_id=number)


def _of_incidents(warehouse: Warehouse, view: RunView, wanted: Wanted, airflow_url: str | None) -> Iterator[Draft]:
    if view.number is not None and incidents.judged_later(warehouse, view.number):
        yield from _of_past_incidents(warehouse, view, wanted, airflow_url)
        return
    told = outbox.told(warehouse, view.cluster)
    known = {one.id: one for one in incidents.open_incidents(warehouse, view.cluster)}
    # Those that have ended since they were told.
    for number, last in told.items():
        if number not in known and last["state"] in OPEN_STATES:
            known[number] = incidents.get(warehouse, number)
    for incident in sorted(known.values(), key=lambda one: one.id):
        if incident.id in told and told[incident.id]["run_id"] == view.number:
            # A run tells each incident once, however many of its tasks tell.
            continue
        news = _news(incident, view, airflow_url)
        yield from _of_incident(news, told.get(incident.id) or _told_elsewhere(incident), wanted)


def _of_past_incidents(
    warehouse: Warehouse, view: RunView, wanted: Wanted, airflow_url: str | None
) -> Iterator[Draft]:
    """Yield what a night that others have followed called for, as it knew its incidents."""
    night, before = _night(view), _night_before(warehouse, view)
    for incident in incidents.of_night(warehouse, view.cluster, night, before.night if before else None):
        then = past.as_of(incident, view, night)
        last = past.told_before(then, night, wanted.min_severity, before)
        yield from _of_incident(_news(then, view, airflow_url), last, wanted)


def _night_before(warehouse: Warehouse, view: RunView) -> past.NightBefore | None:
    found = None if view.number is None else incidents.night_before(warehouse, view.number)
    if found is None:
        return None
    number, end = found
    series = listed_series(warehouse, [number])[number]
    changes = {(one.scenario, one.metric): one.change for one in series if one.state == "regression"}
    return past.NightBefore(end, changes)


def _news(incident: Incident, view: RunView, airflow_url: str | None) -> IncidentNews:
    return IncidentNews(incident, view, links.incident_url(airflow_url, incident.id) if airflow_url else None)


def _told_elsewhere(incident: Incident) -> dict[str, Any] | None:
    """Return what must have been told of an incident that came with its thread from another warehouse."""
    if incident.slack_ts is None:
        return None
    state = incident.state if incident.state in OPEN_STATES else "regression"
    return {"state": state, "acknowledged": incident.acknowledged, "changes": _changes(incident)}


def _of_incident(news: IncidentNews, last: Mapping[str, Any] | None, wanted: Wanted) -> Iterator[Draft]:
    incident = news.incident
    if last is None:
        if incident.acknowledged:
            return
        if incident.state == "regression":
            message = incident_messages.regression_message(news)
            yield _draft(news, "regression", message, chart=True)
        elif incident.state == "suspect" and wanted.min_severity == "suspect":
            yield _draft(news, "suspect", incident_messages.suspicion_message(news))
        return
    before = {_series(name): change for name, change in last.get("changes", {}).items()}
    if incident.state not in OPEN_STATES:
        # What was told as a regression has an end worth telling the channel.
        loud = last["state"] == "regression"
        yield _draft(news, incident.state, incident_messages.closed(news), broadcast=loud)
        yield _new_title(news, incident_messages.closed_title_message(news))
    elif incident.acknowledged:
        if not last.get("acknowledged"):
            # After it got worse it may be acknowledged again, which is another message.
            event = f"acknowledged {incident.acknowledged_at:%Y-%m-%dT%H:%M:%S}"
            yield _draft(news, event, incident_messages.acknowledged(news), changes=before)
    elif incident.state == "regression" and last["state"] == "suspect":
        message = incident_messages.regression_message(news)
        yield _draft(news, "regression", message, broadcast=True, chart=True)
        yield _new_title(news, message)
    elif incident.state == "regression" and any(member.last_seen == _night(news.view) for member in news.members):
        if incident_messages.worse_than(news, before, GROWN_BY):
            known = last.get("acknowledged_by") if last.get("acknowledged") else None
            yield _draft(news, _run(news), incident_messages.grown(news, before, known), broadcast=True)
        elif incident_messages.better_than(news, before):
            yield _draft(news, _run(news), incident_messages.eased(news, before))
        else:
            yield _draft(news, _run(news), incident_messages.still_there(news), changes=before)


def _draft(
    news: IncidentNews,
    event: str,
    message: Message,
    *,
    broadcast: bool = False,
    chart: bool = False,
    changes: Mapping[Series, float | None] | None = None,
) -> Draft:
    """Return the message of ``event``; ``changes`` are the sizes that the next night compares with."""
    incident = news.incident
    told = {
        "state": incident.state,
        "acknowledged": incident.acknowledged,
        "acknowledged_by": incident.acknowledged_by,
        "changes": _changes(incident) if changes is None else {_name(one): size for one, size in changes.items()},
    }
    if chart:
        series = {"scenario": news.lead.scenario, "metric": news.lead.metric}
        message = replace(message, chart=series | {"run": news.view.number, "incident": incident.id})
    key = f"incident {incident.uid}: {event}"
    kept = payload(message, told=told, broadcast=broadcast)
    return Draft(key, "incident", kept, news.view.number, incident.id)


def _new_title(news: IncidentNews, message: Message) -> Draft:
    key = f"incident {news.incident.uid}: title {news.incident.state}"
    return Draft(key, "update", payload(message), news.view.number, news.incident.id)


def _run(news: IncidentNews) -> str:
    return f"run {news.view.number}"


def _night(view: RunView) -> str:
    return view.started.date().isoformat() if view.started else ""


def _changes(incident: Incident) -> dict[str, float | None]:
    return {_name(member.series): member.change for member in incident.members if member.confirmed}


def _name(series: Series) -> str:
    return " ".join(series)


def _series(name: str) -> Series:
    scenario, _, metric = name.partition(" ")
    return scenario, metric
