"""The settings in force, each with its value, without secrets, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from bigtcp_bench.errors import BenchError
from bigtcp_bench.planning.plan import load_plan, plan_path
from bigtcp_bench.settings import CLUSTERS, CONNECTIONS, DEFAULT_CONN_ID, VARIABLES, Variable, without_secrets

Section = Literal["environment", "connections", "plan"]


@dataclass(frozen=True)
class InForce:
    """One setting in force. ``problem`` is the sentence that says what is wrong with it, empty for nothing."""

    section: Section
    name: str
    value: str
    source: str
    problem: str = ""


def environment(options: Mapping[str, str], defaults: Mapping[str, str]) -> list[InForce]:
    """Return the environment's variables.

    ``options`` are those that an option of the command, its value here, takes the place of; ``defaults`` are
    defaults that only the command knows. Both are keyed by variable.
    """
    return [_variable(one, options.get(one.name), defaults.get(one.name)) for one in VARIABLES]


def _variable(one: Variable[Any], option: str | None, default: str | None) -> InForce:
    given = one.given()
    if option is not None:
        return InForce("environment", one.name, without_secrets(option), "option of this command")
    text, source = (given, "environment") if given is not None else (default or one.default, "default")
    shown = without_secrets(text) or ("none" if given is None else "empty")
    try:
        one.value()
    except BenchError as error:
        return InForce("environment", one.name, shown, source, str(error))
    return InForce("environment", one.name, shown, source)


def connections() -> list[InForce]:
    """Return the connections, as this machine's Airflow finds them; reads, and opens none."""
    known = {one.conn_id: one.without for one in CONNECTIONS}
    try:
        clusters = CLUSTERS.value()
    except BenchError:  # said among the environment's
        clusters = ()
    own = [conn_id for conn_id in known if conn_id != DEFAULT_CONN_ID]
    names: dict[str, str] = {}
    return [_connection(conn_id, known.get(conn_id, "no run can start"), names) for conn_id in clusters] + [
        _connection(conn_id, known[conn_id]) for conn_id in own
    ]


def _connection(conn_id: str, without: str, names: dict[str, str] | None = None) -> InForce:
    """Return a connection; ``names`` are the clusters seen before, name → connection, and get this one's."""
    try:
        from bigtcp_bench.airflow.connections import cluster_name, in_force

        found = in_force(conn_id)
        first = conn_id if names is None else names.setdefault(cluster_name(conn_id), conn_id)
    except ImportError as error:
        return InForce("connections", conn_id, "unknown", f"Airflow cannot be imported: {error}")
    except BenchError as error:
        return InForce("connections", conn_id, "unusable", "Airflow", str(error))
    if found is None:
        return InForce("connections", conn_id, f"none: {without}", "default")
    if first != conn_id:
        shared = f"the Airflow connection {conn_id!r} has the cluster_name of {first!r}"
        return InForce("connections", conn_id, *found, f"{shared}: their nights would be one series")
    return InForce("connections", conn_id, *found)


def plan(name: str, options: Mapping[str, Any]) -> list[InForce]:
    """Return every field of the plan ``name``; ``options`` are fields given in place of the plan's."""
    given = {field: value for field, value in options.items() if value is not None}
    try:
        path = plan_path(name)
        written = load_plan(name)
        found = load_plan(name, given)
    except BenchError as error:
        return [InForce("plan", "plan", name, "option of this command", str(error))]
    return [
        InForce("plan", field, value, "option of this command" if field in given else source)
        for field, value, source in _fields(found, written, f"plan file {path}")
    ]


def _fields(model: BaseModel, written: BaseModel, file: str, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _fields(value, getattr(written, name), file, f"{prefix}{name}.")
        else:
            source = file if name in written.model_fields_set else "default"
            yield f"{prefix}{name}", text_of(value), source


def text_of(value: Any) -> str:
    """Return a value of a plan as it would be written in a plan file."""
    if value is None or value in ((), ""):
        return "none"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
