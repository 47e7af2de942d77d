"""Takes runs out of a warehouse into one portable file, and into another warehouse again.

The file is a zip of JSON Lines, one file per table, one object per row, beside a ``manifest.json``: any language
reads it without a library of ours. Moments are ISO 8601 in UTC; raw documents are base64.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
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


def _store_blocks(warehouse: Warehouse, run: int, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        warehouse.store_block(run, row)


def _store_raw(warehouse: Warehouse, run: int, rows: list[dict[str, Any]]) -> None:
    try:
        unpacked = [row | {"document": base64.b64decode(row["document"], validate=True)} for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"document is not base64: {error}") from error
    warehouse.store_raw(run, unpacked)


#: Tables whose rows belong to a run, and what stores them, in the order in which they are written and read.
#: Messages that wait in the outbox belong to the warehouse that is to send them, so they stay.
_OF_RUNS: dict[str, tuple[sa.Table, Callable[[Warehouse, int, list[dict[str, Any]]], None]]] = {
    "block": (schema.block, _store_blocks),
    "result": (schema.result, Warehouse.store_results),
    "failure": (schema.failure, Warehouse.store_failures),
    "counter": (schema.counter, Warehouse.store_counters),
    "prometheus": (schema.prometheus, Warehouse.store_prometheus),
    "pod_counter": (schema.pod_counter, Warehouse.store_pod_counters),
    "packet_size": (schema.packet_size, Warehouse.store_packet_sizes),
    "comparison": (schema.comparison, Warehouse.store_comparisons),
    "diagnosis": (schema.diagnosis, Warehouse.store_diagnosis),
    "noise": (schema.noise, Warehouse.store_noise),
    "judgement": (schema.judgement, Warehouse.store_judgements),
    "raw": (schema.raw, _store_raw),
}

#: Where a message about them stands in Slack. A file from elsewhere never says where to write.
_PLACE_IN_SLACK = ("slack_channel", "slack_ts")

_ROWS_AT_ONCE = 5000

#: What a file from outside may take of memory: a line, and the lines that are stored at once.
MAX_LINE_BYTES = 8 << 20
_BYTES_AT_ONCE = 8 << 20
#: 200 generated nights shrink to an eleventh, their most regular table to a 67th; nothing of ours to a 200th.
MAX_INFLATION = 200
_INFLATION_FREE_BYTES = 64 << 20
#: Of these tables a run's rows take the place of all that it had, so they are stored at once.
_WHOLE = ("packet_size", "diagnosis")


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
    statements: dict[str, sa.Select[Any]] = {
        "run": sa.select(*_portable(run)).where(run.c.id.in_(chosen)).order_by(run.c.id)
    }
    for name, (table, _store) in _OF_RUNS.items():
        if name != "raw" or raw:
            statements[name] = sa.select(table).where(table.c.run_id.in_(chosen)).order_by(*table.primary_key)
    statements["incident"] = (
        sa.select(*_portable(incident)).where(incident.c.id.in_(known)).order_by(incident.c.id)
    )
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


def stored_counts(warehouse: Warehouse) -> dict[str, int]:
    """Return how many runs (each attempt is one) and incidents ``warehouse`` has."""
    tables = {"run": schema.run, "incident": schema.incident}

    def work(connection: sa.Connection) -> dict[str, int]:
        return {
            name: int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
            for name, table in tables.items()
        }

    return warehouse.read(work)


def import_runs(warehouse: Warehouse, path: Path) -> dict[str, int]:
    """Store what ``export_runs`` wrote; return the number of rows per table.

    A run or incident that is there already takes the file's values, so a second import changes nothing, and
    repeating an interrupted one completes it. Raises InvalidInput, naming the table and the line, for anything
    that may not be stored.
    """
    counts: dict[str, int] = {}
    with _open_archive(path) as archive:
        runs: dict[int, int] = {}
        for where, number, (row,) in _batches(archive, path, "run", "id", rows=1):
            with _named(where):
                runs[number] = warehouse.start_run({"attempt": 1} | _without_place(row))
        counts["run"] = len(runs)
        for name, (_table, store) in _OF_RUNS.items():
            counts[name] = 0
            last = None
            for where, number, rows in _batches(archive, path, name, "run_id"):
                with _named(where):
                    if name in _WHOLE and number == last:
                        raise InvalidInput(f"one run may have {_ROWS_AT_ONCE} rows, and {_BYTES_AT_ONCE} bytes")
                    store(warehouse, _translated(runs, number, "run_id"), rows)
                last = number
                counts[name] += len(rows)
        incidents: dict[int, int] = {}
        for where, number, (row,) in _batches(archive, path, "incident", "id", rows=1):
            with _named(where):
                incidents[number] = _store_incident(warehouse, _without_place(row))
        counts["incident"] = len(incidents)
        counts["incident_member"] = 0
        for where, number, rows in _batches(archive, path, "incident_member", "incident_id"):
            with _named(where):
                _store_members(warehouse, _translated(incidents, number, "incident_id"), rows)
            counts["incident_member"] += len(rows)
    return counts


def _portable(table: sa.Table) -> list[sa.Column[Any]]:
    # Which attempt is the newest is for the warehouse to say that they come into.
    return [column for column in table.c if column.name not in (*_PLACE_IN_SLACK, "superseded")]


def _without_place(row: dict[str, Any]) -> dict[str, Any]:
    # Files of earlier versions have it.
    return {name: value for name, value in row.items() if name not in _PLACE_IN_SLACK}


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


#: What zipfile raises for an archive that is damaged, encrypted, or packed in a way that it does not know.
_DAMAGED = (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
        packed, unpacked = path.stat().st_size, sum(item.file_size for item in archive.infolist())
        if unpacked > MAX_INFLATION * packed + _INFLATION_FREE_BYTES:
            raise InvalidInput(
                f"{path} has {packed} bytes and would unpack to {unpacked}; allowed is {MAX_INFLATION} times that"
            )
        with archive.open("manifest.json") as file:
            manifest = json.loads(file.read(MAX_LINE_BYTES))
        version = manifest["version"] if manifest["format"] == "bigtcp-bench" else None
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    # RecursionError: JSON that is nested too deep.
    except (*_DAMAGED, KeyError, ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(f"{path} is not a file that `bigtcp-bench export` wrote: {error}") from error
    with archive:
        if version not in range(1, FORMAT_VERSION + 1):
            raise InvalidInput(f"{path} has layout version {version!r:.80}; allowed are 1 to {FORMAT_VERSION}")
        yield archive


def _lines(archive: zipfile.ZipFile, path: Path, name: str, key: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield number, size in bytes and object of every line. Raises InvalidInput for one that is none of ours."""
    if f"{name}.jsonl" not in archive.namelist():
        return
    number = 0
    try:
        # zipfile reads no more of an entry than the size that _open_archive has counted.
        with archive.open(f"{name}.jsonl") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                where = f"{path}: {name}.jsonl line {number}"
                if len(line) > MAX_LINE_BYTES:
                    raise InvalidInput(f"{where}: has more than the {MAX_LINE_BYTES} bytes that are allowed")
                try:
                    row = json.loads(line.decode("utf-8"))
                except UnicodeDecodeError as error:
                    raise InvalidInput(f"{where}: is not UTF-8: {error.reason} at byte {error.start}") from error
                except RecursionError as error:
                    raise InvalidInput(f"{where}: is nested too deep") from error
                except ValueError as error:
                    raise InvalidInput(f"{where}: is not a JSON object with {key!r}: {error}") from error
                if not isinstance(row, dict) or type(row.get(key)) is not int:
                    raise InvalidInput(f"{where}: is not a JSON object with {key!r}, a whole number")
                yield number, len(line), row
    except _DAMAGED as error:
        raise InvalidInput(f"{path}: {name}.jsonl cannot be unpacked after line {number}: {error}") from error


def _batches(
    archive: zipfile.ZipFile, path: Path, name: str, key: str, *, rows: int = _ROWS_AT_ONCE
) -> Iterator[tuple[str, int, list[dict[str, Any]]]]:
    """Yield neighbouring rows of one ``key``: where they stand, the key, and at most ``rows`` rows without it.

    However many a file holds, few of them are in memory at a time.
    """
    batch: list[dict[str, Any]] = []
    first, size, of = 1, 0, 0
    for number, length, row in _lines(archive, path, name, key):
        value = row.pop(key)
        if batch and (value != of or len(batch) >= rows or size + length > _BYTES_AT_ONCE):
            yield f"{path}: {name}.jsonl from line {first}", of, batch
            batch = []
        if not batch:
            first, size, of = number, 0, value
        batch.append(row)
        size += length
    if batch:
        yield f"{path}: {name}.jsonl from line {first}", of, batch


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from error


def _translated(numbers: dict[int, int], old: int, key: str) -> int:
    """Return the number that a row of the file has in this warehouse."""
    if old not in numbers:
        raise InvalidInput(f"{key} = {old}: there is no such row in the file")
    return numbers[old]


def _store_incident(warehouse: Warehouse, row: dict[str, Any]) -> int:
    values = row_of(StoredIncident, row, "incident").model_dump()
    find = sa.select(schema.incident.c.id).where(schema.incident.c.uid == values["uid"])

    def work(connection: sa.Connection) -> int:
        upsert(connection, schema.incident, [_without_place(values)], keys=["uid"])
        return int(connection.execute(find).scalar_one())

    return warehouse.write(work)


def _store_members(warehouse: Warehouse, incident: int, rows: list[dict[str, Any]]) -> None:
    checked = rows_of(MemberRecord, rows, "incident_member")
    values = [{"incident_id": incident, **row.model_dump()} for row in checked]
    warehouse.write(lambda connection: upsert(connection, schema.incident_member, values))
