"""Commands on what nights say together: judge a file, incidents, and the cluster's noise."""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigtcp_bench.commands.common import (
    add_command,
    add_json,
    add_output,
    add_warehouse,
    cluster_of,
    tell,
    usable_warehouse,
    write,
)
from bigtcp_bench.errors import InvalidInput

if TYPE_CHECKING:
    from bigtcp_bench.analysis.judge import JudgedNight
    from bigtcp_bench.warehouse.store import Warehouse


def add(commands: Any) -> None:
    """Add these commands to ``commands``."""
    judge = add_command(commands, "judge", "judge your own nightly series, night by night", _judge)
    judge.add_argument("file", type=Path, help="CSV: date,value or date,off,on; optional version and series")
    judge.add_argument(
        "--better",
        choices=("higher", "lower"),
        default="higher",
        help="which way is better (default: %(default)s)",
    )
    judge.add_argument("--json", action="store_true", help="JSON Lines, one object per series and night")
    judge.add_argument("--nights", type=int, default=14, help="newest ones that the table shows (default: 14)")
    judge.add_argument(
        "--fail-on",
        choices=("regression",),
        help="exit with 3 when a series ends in one (an error is 1), so that CI stops there",
    )

    incident = commands.add_parser("incident", help="regressions, from first suspicion to their end")
    actions = incident.add_subparsers(required=True, metavar="ACTION")
    listed = add_command(actions, "list", "list the open ones; `trend incident_history` has all", _incident_list)
    listed.add_argument("--cluster", help="only this one (default: all)")
    add_output(listed)
    ack = add_command(
        actions, "ack", "say that an incident is known: silent until it ends or gets worse", _incident_ack
    )
    unack = add_command(actions, "unack", "undo an acknowledgement: the incident is told again", _incident_unack)
    close = add_command(actions, "close", "end an open incident by hand", _incident_close)
    for command in (ack, unack, close):
        command.add_argument("id", type=int, help="number of the incident")
        if command is not unack:
            command.add_argument("--note", required=True, help="why, for those who come after you")
            command.add_argument("--by", help="your name (default: the name of your account)")
        add_json(command)
    for command in (listed, ack, unack, close):
        add_warehouse(command)

    noise = add_command(commands, "noise", "what A/A runs measured, and how large a plan that asks for", _noise)
    noise.add_argument("--cluster", help="may be left out when the warehouse knows only one")
    noise.add_argument("--plan", default="nightly", help="name or file of the plan to size (default: %(default)s)")
    add_output(noise)
    add_warehouse(noise)


def _judge(options: argparse.Namespace) -> int:
    from bigtcp_bench.analysis.judge import judge_file

    judged = list(judge_file(options.file, options.better))
    if options.json:
        for night in judged:
            print(night.to_json_line())
    else:
        _print_judged(judged, options.nights)
    regressed = any(one.state == "regression" for one in _last(judged))
    return 3 if options.fail_on and regressed else 0


def _print_judged(judged: Sequence[JudgedNight], nights: int) -> None:
    import pandas as pd

    from bigtcp_bench.report.tables import newest_first, print_frame

    if nights < 1:
        raise InvalidInput(f"--nights = {nights}: must be 1 or more")
    columns = ["series", "date", "state", "change_pct", "since", "event", "attribution"]
    frame = pd.DataFrame(map(asdict, judged), columns=columns)
    optional = [name for name in ("event", "attribution") if frame[name].isna().all()]
    shown, left_out = newest_first(frame.drop(columns=optional), nights)
    print_frame(shown)
    if left_out:
        print(left_out)
    print("\n".join(map(_sentence, _last(judged))))


def _last(judged: Iterable[JudgedNight]) -> list[JudgedNight]:
    """Return the last night of each series."""
    return list({one.series: one for one in judged}.values())


def _sentence(last: JudgedNight) -> str:
    from bigtcp_bench.report.units import change_text
    from bigtcp_bench.report.words import verdict_word

    since = f" since {last.since}" if last.since else ""
    size = "" if last.change_pct is None else f", {change_text(last.change_pct / 100)} against its usual level"
    return f"{last.series}: {verdict_word(last.state)}{since}{size} on {last.date}"


def _incident_list(options: argparse.Namespace) -> int:
    import pandas as pd

    from bigtcp_bench.report.incident import most_telling
    from bigtcp_bench.report.words import series_text
    from bigtcp_bench.warehouse import incidents

    warehouse = usable_warehouse(options)
    if options.cluster is not None:
        cluster_of(warehouse, options.cluster)
    columns = ["id", "cluster", "state", "changed_on", "attribution", "series", "acknowledged_by", "note"]
    rows = [
        (
            one.id,
            one.cluster,
            one.state,
            one.changed_on,
            one.attribution,
            ", ".join(series_text(*member.series) for member in most_telling(one.members)),
            one.acknowledged_by,
            one.acknowledged_note,
        )
        for one in reversed(incidents.open_incidents(warehouse, options.cluster))
    ]
    write(pd.DataFrame(rows, columns=columns), options)
    return 0


def _incident_ack(options: argparse.Namespace) -> int:
    from bigtcp_bench.warehouse import incidents

    if not options.note.strip():
        raise InvalidInput("--note is empty: say why this incident is known, for those who come after you")
    warehouse = usable_warehouse(options)
    by = options.by or _account()
    if incidents.acknowledge(warehouse, options.id, by=by, note=options.note):
        said = f"incident {options.id} is acknowledged by {by}; silent until it ends or gets worse"
    else:
        first = incidents.get(warehouse, options.id).acknowledged_by
        said = f"incident {options.id} was acknowledged before, by {first}; your note is added to theirs"
    tell(options, said, **_as_it_is(warehouse, options.id))
    return 0


def _incident_unack(options: argparse.Namespace) -> int:
    from bigtcp_bench.warehouse import incidents

    warehouse = usable_warehouse(options)
    if incidents.take_back(warehouse, options.id):
        said = f"the acknowledgement of incident {options.id} is undone; the next night tells it again"
    else:
        said = f"nobody had acknowledged incident {options.id}"
    tell(options, said, **_as_it_is(warehouse, options.id))
    return 0


def _incident_close(options: argparse.Namespace) -> int:
    from bigtcp_bench.warehouse import incidents

    note = " ".join(options.note.split())
    if not note:
        raise InvalidInput("--note is empty; allowed is why this incident ends, for those who come after you")
    by = options.by or _account()
    warehouse = usable_warehouse(options)
    incidents.close(warehouse, options.id, by=by, note=note)
    said = f"incident {options.id} is closed by {by}; what it covers is told again if it gets worse"
    tell(options, said, **_as_it_is(warehouse, options.id))
    return 0


def _as_it_is(warehouse: Warehouse, number: int) -> dict[str, Any]:
    """Return an incident for programs, after what was done to it."""
    from bigtcp_bench.warehouse import incidents

    one = incidents.get(warehouse, number)
    at = one.acknowledged_at
    return {
        "incident": one.id,
        "cluster": one.cluster,
        "state": one.state,
        "acknowledged_at": at.isoformat() if at else None,
        "acknowledged_by": one.acknowledged_by,
        "acknowledged_note": one.acknowledged_note,
        "closed_on": one.closed_on,
        "closed_by": one.closed_by,
        "closed_note": one.closed_note,
    }


def _account() -> str:
    try:
        return getpass.getuser()
    # An account without a name, as containers have: KeyError until Python 3.12, OSError since.
    except (KeyError, OSError) as error:
        raise InvalidInput("your account has no name; say who you are with --by") from error


def _noise(options: argparse.Namespace) -> int:
    import pandas as pd

    from bigtcp_bench.judging.noise import Advice, advice, known_noise
    from bigtcp_bench.planning.plan import load_plan

    plan = load_plan(options.plan)
    warehouse = usable_warehouse(options)
    cluster = cluster_of(warehouse, options.cluster)
    noises = known_noise(warehouse, cluster)
    if not noises:
        raise InvalidInput(
            f"no A/A run has measured the noise of cluster {cluster} yet; start one with the order off,off"
        )
    found = advice(noises, plan)
    write(pd.DataFrame(map(asdict, found), columns=[field.name for field in fields(Advice)]), options)
    return 0
