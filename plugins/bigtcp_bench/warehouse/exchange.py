"""Takes runs out of a warehouse into one portable file, and into another warehouse again.

The file is a zip of JSON Lines, one file per table, one object per row, beside a ``manifest.json``: any language
reads it without a library of ours. Moments are ISO 8601 in UTC; raw documents are base64.
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bigtcp_bench import __version__
from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.warehouse import schema
from bigtcp_bench.warehouse.records import MemberRecord, StoredIncident, row_of, rows_of
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_bench.warehouse.upsert import upsert

#: Of the file's layout: since 2 a run says which attempt it is, and whether it is a night. Later ones are refused.
FORMAT_VERSION = 2

#: Tables whose rows belong to a run, in the order in which they are written and read. Messages that wait in the
#: outbox belong to the warehouse that is to send them, so they stay.
_OF_RUNS: dict[str, sa.Table] = {
    "block": schema.block,
    "result": schema.result,
    "failure": schema.failure,
    "counter": schema.counter,
    "prometheus": schema.prometheus,
    "pod_counter": schema.pod_counter,
    "packet_size": schema.packet_size,
    "comparison": schema.comparison,
    "diagnosis": schema.diagnosis,
    "noise": schema.noise,
    "judgement": schema.judgement,
    "raw": schema.raw,
}

_ROWS_AT_ONCE = 5000


def export_runs(
    warehouse: Warehouse,
    path: Path,
    *,
    cluster: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    raw: bool = False,
) -> dict[str, int]:
    """Write runs, their rows and the incidents into the zip file ``path``; return the number of rows per table.

    Earlier attempts of a run are runs here like any other.

    :param cluster: only this one.
    :param since: only what began at or after this moment; until: and before that one. Of incidents, which have
        nights and no moments, both nights count.
    :param raw: also the documents of the pods' agents, which are most of a warehouse's bytes.
    """
    run, incident, member = schema.run, schema.incident, schema.incident_member
    of_runs, of_incidents = [], []
    if cluster is not None:
        of_runs.append(run.c.cluster == cluster)
        of_incidents.append(incident.c.cluster == cluster)
    if since is not None:
        of_runs.append(run.c.started_at >= since)
        of_incidents.append(incident.c.suspected_on >= _night(since))
    if until is not None:
        of_runs.append(run.c.started_at < until)
        of_incidents.append(incident.c.suspected_on <= _night(until))
    chosen = sa.select(run.c.id).where(*of_runs)
    known = sa.select(incident.c.id).where(*of_incidents)
    # Which attempt is the newest is for the warehouse to say that they come into.
    columns = [column for column in run.c if column.name != "superseded"]
    statements: dict[str, sa.Select[Any]] = {
        "run": sa.select(*columns).where(run.c.id.in_(chosen)).order_by(run.c.id)
    }
    for name, table in _OF_RUNS.items():
        if name != "raw" or raw:
            statements[name] = sa.select(table).where(table.c.run_id.in_(chosen)).order_by(*table.primary_key)
    statements["incident"] = sa.select(incident).where(incident.c.id.in_(known)).order_by(incident.c.id)
    statements["incident_member"] = (
        sa.select(member).where(member.c.incident_id.in_(known)).order_by(*member.primary_key)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
            counts = warehouse.read(lambda connection: _write_tables(connection, archive, statements))
            manifest = {
                "format": "bigtcp-bench",
                "version": FORMAT_VERSION,
                "package_version": __version__,
                "written_at": datetime.now(UTC).isoformat(),
                "rows": counts,
            }
            archive.writestr("manifest.json", json.dumps(manifest, indent=2) + "\n")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return counts


def import_runs(warehouse: Warehouse, path: Path) -> dict[str, int]:
    """Store what ``export_runs`` wrote; return the number of rows per table.

    A run or incident that is there already takes the file's values, so a second import changes nothing, and
    repeating an interrupted one completes it. Raises InvalidInput, naming the table and the line, for anything
    that may not be stored.
    """
    counts: dict[str, int] = {}
    with _open_archive(path) as archive:
        runs: dict[int, int] = {}
        for where, (row,) in _groups(archive, path, "run", "id"):
            with _named(where):
                number = row.pop("id")
                runs[number] = warehouse.start_run({"attempt": 1} | row)
        counts["run"] = len(runs)
        for name in _OF_RUNS:
            counts[name] = 0
            for where, rows in _groups(archive, path, name, "run_id"):
                with _named(where):
                    _store_rows(warehouse, name, _translated(runs, rows, "run_id"), rows)
                counts[name] += len(rows)
        incidents: dict[int, int] = {}
        for where, (row,) in _groups(archive, path, "incident", "id"):
            with _named(where):
                number = row.pop("id")
                incidents[number] = _store_incident(warehouse, row)
        counts["incident"] = len(incidents)
        counts["incident_member"] = 0
        for where, rows in _groups(archive, path, "incident_member", "incident_id"):
            with _named(where):
                _store_members(warehouse, _translated(incidents, rows, "incident_id"), rows)
            counts["incident_member"] += len(rows)
    return counts


def _night(moment: datetime) -> str:
    return moment.astimezone(UTC).date().isoformat()


def _write_tables(
    connection: sa.Connection, archive: zipfile.ZipFile, statements: dict[str, sa.Select[Any]]
) -> dict[str, int]:
    if connection.dialect.name == "postgresql":
        # One moment for all tables. SQLite's read transactions are that already.
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    counts = {}
    for name, statement in statements.items():
        counts[name] = 0
        with archive.open(f"{name}.jsonl", "w", force_zip64=True) as file:
            result = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(statement)
            for rows in result.mappings().partitions():
                lines = (json.dumps(dict(row), default=_plain, allow_nan=False) + "\n" for row in rows)
                file.write("".join(lines).encode())
                counts[name] += len(rows)
    return counts


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return base64.b64encode(value).decode("ascii")


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
        manifest = json.loads(archive.read("manifest.json"))
        version = manifest["version"] if manifest["format"] == "bigtcp-bench" else None
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise InvalidInput(f"{path} is not a file that `bigtcp-bench export` wrote: {error}") from error
    with archive:
        if version not in range(1, FORMAT_VERSION + 1):
            raise InvalidInput(f"{path} has layout version {version!r}; allowed are 1 to {FORMAT_VERSION}")
        yield archive


def _groups(
    archive: zipfile.ZipFile, path: Path, name: str, key: str
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield neighbouring rows with the same ``key``, and the sentence part that says where they stand."""
    if f"{name}.jsonl" not in archive.namelist():
        return

    def lines() -> Iterator[tuple[int, dict[str, Any]]]:
        with archive.open(f"{name}.jsonl") as file:
            for number, line in enumerate(io.TextIOWrapper(file, encoding="utf-8"), 1):
                try:
                    row = json.loads(line)
                    yield number, row | {key: int(row[key])}
                except (ValueError, KeyError, TypeError) as error:
                    where = f"{path}: {name}.jsonl line {number}"
                    raise InvalidInput(f"{where}: is not a JSON object with {key!r}") from error

    for _key, group in itertools.groupby(lines(), key=lambda item: item[1][key]):
        numbers, rows = zip(*group, strict=True)
        yield f"{path}: {name}.jsonl from line {numbers[0]}", list(rows)


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from error


def _translated(numbers: dict[int, int], rows: Iterable[dict[str, Any]], key: str) -> int:
    """Take ``key`` out of all ``rows`` and return the number that it has in this warehouse."""
    (old,) = {row.pop(key) for row in rows}
    if old not in numbers:
        raise InvalidInput(f"{key} = {old}: there is no such row in the file")
    return numbers[old]


def _store_rows(warehouse: Warehouse, name: str, run: int, rows: list[dict[str, Any]]) -> None:
    if name == "block":
        for row in rows:
            warehouse.store_block(run, row)
        return
    if name == "raw":
        try:
            rows = [row | {"document": base64.b64decode(row["document"], validate=True)} for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"document is not base64: {error}") from error
    stores: dict[str, Callable[[int, Iterable[Any]], None]] = {
        "result": warehouse.store_results,
        "failure": warehouse.store_failures,
        "counter": warehouse.store_counters,
        "prometheus": warehouse.store_prometheus,
        "pod_counter": warehouse.store_pod_counters,
        "packet_size": warehouse.store_packet_sizes,
        "comparison": warehouse.store_comparisons,
        "diagnosis": warehouse.store_diagnosis,
        "noise": warehouse.store_noise,
        "judgement": warehouse.store_judgements,
        "raw": warehouse.store_raw,
    }
    stores[name](run, rows)


def _store_incident(warehouse: Warehouse, row: dict[str, Any]) -> int:
    values = row_of(StoredIncident, row, "incident").model_dump()
    find = sa.select(schema.incident.c.id).where(schema.incident.c.uid == values["uid"])

    def work(connection: sa.Connection) -> int:
        upsert(connection, schema.incident, [values], keys=["uid"])
        return int(connection.execute(find).scalar_one())

    return warehouse.write(work)


def _store_members(warehouse: Warehouse, incident: int, rows: list[dict[str, Any]]) -> None:
    checked = rows_of(MemberRecord, rows, "incident_member")
    values = [{"incident_id": incident, **row.model_dump()} for row in checked]
    warehouse.write(lambda connection: upsert(connection, schema.incident_member, values))
