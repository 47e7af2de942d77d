"""Commands on stored runs: show, trend, export, import, and the housekeeping of the warehouse."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bigtcp_bench.commands.common import (
    add_command,
    add_json,
    add_output,
    add_warehouse,
    newest_run,
    tell,
    usable_warehouse,
    warehouse_of,
    write,
)
from bigtcp_bench.demo.local_airflow import DEFAULT_FOLDER
from bigtcp_bench.errors import InvalidInput


def add(commands: Any) -> None:
    """Add these commands to ``commands``."""
    show = add_command(commands, "show", "print the comparison of a stored run", _show)
    show.add_argument("run", nargs="?", type=int, help="the run's number; the newest run without it")
    add_json(show)
    add_warehouse(show)

    trend = add_command(commands, "trend", "ask a question about many nights, or list the questions", _trend)
    trend.add_argument("name", nargs="?", help="of the question; without it they are listed")
    trend.add_argument("--cluster", help="may be left out when the warehouse knows only one")
    trend.add_argument("--scenario", default="%", help="name, or a pattern in which %% is any text (default: all)")
    trend.add_argument("--metric", help="default: the one that stands for the scenario, else throughput_bps")
    trend.add_argument("--version", metavar="CILIUM", help="of Cilium, or a pattern (default: all)")
    trend.add_argument("--limit", type=int, default=20, help="most rows of worst_nights (default: %(default)s)")
    trend.add_argument(
        "--nights",
        type=int,
        help="that a table shows (default: the newest 14, or all of a period); "
        "on either side in before_after_version (default: 30)",
    )
    _add_period(trend, "the last 365 days")
    add_output(trend)
    add_warehouse(trend)

    export = add_command(commands, "export", "write runs and incidents into one portable file", _export)
    export.add_argument("file", type=Path, help="zip file to write")
    export.add_argument("--cluster", help="only this one (default: all)")
    export.add_argument("--raw", action="store_true", help="with the pods' documents, which are most of the bytes")
    _add_period(export, "everything")
    add_json(export)
    add_warehouse(export)

    import_ = add_command(commands, "import", "take in what export wrote; repeating it changes nothing", _import)
    import_.add_argument("file", type=Path, help="zip file to read")
    add_json(import_)
    add_warehouse(import_)

    warehouse = commands.add_parser("warehouse", help="the database of results")
    actions = warehouse.add_subparsers(required=True, metavar="ACTION")
    migrate = add_command(actions, "migrate", "create its tables, or bring them up to date", _migrate)
    prune = add_command(actions, "prune", "delete old documents of the pods; results are kept for ever", _prune)
    prune.add_argument("--keep-days", type=int, required=True, metavar="N", help="keep those of the last N days")
    for command in (migrate, prune):
        add_json(command)
        add_warehouse(command)


def _add_period(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--since", metavar="DATE", help=f"first day or moment, in UTC (default: {default})")
    parser.add_argument("--until", metavar="DATE", help="moment after the last (default: now)")


def _show(options: argparse.Namespace) -> int:
    from bigtcp_bench.report.change import Upgrade
    from bigtcp_bench.report.run_object import run_object
    from bigtcp_bench.report.summary import print_summary
    from bigtcp_bench.report.view import RunView
    from bigtcp_bench.warehouse.cilium_runs import first_of_version

    warehouse = usable_warehouse(options)
    number = options.run if options.run is not None else newest_run(warehouse)
    view = RunView.from_warehouse(warehouse, number)
    if options.json:
        print(json.dumps(run_object(view), indent=1, allow_nan=False))
    else:
        # What the last upgrade came to is asked long after its run was the newest.
        first = first_of_version(warehouse, view.cluster) if options.run is None else None
        upgrade = Upgrade.from_warehouse(warehouse, first, datetime.now(UTC).date()) if first else None
        print_summary(view, after=f"last upgrade: run {upgrade.run} {upgrade.answer}" if upgrade else "")
    return 0


def _trend(options: argparse.Namespace) -> int:
    from bigtcp_bench.report.tables import NIGHTS, by_night, newest_first
    from bigtcp_bench.warehouse.queries import query_names, trend

    if options.name is None:
        if options.format == "json":
            print(json.dumps(query_names()))
        else:
            print("\n".join(f"{name:22}{text}" for name, text in query_names().items()))
        return 0
    frame = trend(
        usable_warehouse(options),
        options.name,
        cluster=options.cluster,
        scenario=options.scenario,
        metric=options.metric,
        since=options.since,
        until=options.until,
        version=options.version,
        limit=options.limit,
        nights=30 if options.nights is None else options.nights,
    )
    left_out = ""
    if options.format == "table":
        if options.name == "nightly_trend" and not frame.empty:
            frame = by_night(frame)
        default = None if options.since or options.until else NIGHTS
        if options.name != "worst_nights":
            frame, left_out = newest_first(frame, options.nights or default)
    write(frame, options)
    if left_out and options.output is None:
        print(left_out)
    return 0


def _export(options: argparse.Namespace) -> int:
    from bigtcp_bench.warehouse.exchange import export_runs
    from bigtcp_bench.warehouse.queries import moment_of

    since, until = (moment_of(f"--{name}", getattr(options, name)) for name in ("since", "until"))
    warehouse = usable_warehouse(options)
    if not options.file.absolute().parent.is_dir():
        raise InvalidInput(f"{options.file} cannot be written: there is no folder {options.file.parent}")
    try:
        counts = export_runs(
            warehouse, options.file, cluster=options.cluster, since=since, until=until, raw=options.raw
        )
    except OSError as error:
        raise InvalidInput(f"{options.file} cannot be written: {error.strerror or error}") from error
    tell(options, f"{options.file}: {_counted(counts)}", file=str(options.file), written=counts)
    return 0


def _import(options: argparse.Namespace) -> int:
    from bigtcp_bench.warehouse.exchange import import_runs, stored_counts

    warehouse = usable_warehouse(options)
    before = stored_counts(warehouse)
    counts = import_runs(warehouse, options.file)
    new = {name: count - before[name] for name, count in stored_counts(warehouse).items()}
    tell(options, f"imported {_counted(counts)}\nnew of that: {_counted(new)}", imported=counts, new=new)
    return 0


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count) or "nothing"


def _migrate(options: argparse.Namespace) -> int:
    if not options.warehouse and options.folder == DEFAULT_FOLDER:
        # The one path that nobody has typed.
        options.folder.mkdir(exist_ok=True)
    warehouse = warehouse_of(options)
    before, after = warehouse.migrate()
    if before is None:
        said = f"created the tables of {warehouse.url}, version {after}"
    elif before == after:
        said = f"the tables of {warehouse.url} were up to date already, version {after}"
    else:
        said = f"brought the tables of {warehouse.url} up to date, from version {before} to {after}"
    tell(options, said, warehouse=warehouse.url, before=before, after=after)
    return 0


def _prune(options: argparse.Namespace) -> int:
    deleted = usable_warehouse(options).prune(options.keep_days)
    said = f"deleted {deleted:,} documents older than {options.keep_days} days; no result was touched"
    tell(options, said, deleted=deleted)
    return 0
