"""The trend queries of ``include/sql`` as one function that returns a pandas frame."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import main_metric
from bigtcp_bench.resources import include_dir
from bigtcp_bench.warehouse.schema import VALID, run

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.warehouse.store import Warehouse

#: What is asked about when nothing else is said: the last year.
DEFAULT_PERIOD = timedelta(days=365)


def query_names() -> dict[str, str]:
    """Return the names of the trend queries, each with the sentence that says what it answers."""
    files = sorted((include_dir() / "sql").glob("*.sql"))
    return {path.stem: path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("-- ") for path in files}


def sql_of(name: str) -> str:
    """Return the text of a trend query without its comments. Raises InvalidInput for an unknown name."""
    path = include_dir() / "sql" / f"{name}.sql"
    if not name.isidentifier() or not path.is_file():
        raise InvalidInput(f"trend query {name!r} does not exist; allowed are {', '.join(query_names())}")
    lines = path.read_text(encoding="utf-8").splitlines()
    # A comment may hold a colon, which SQLAlchemy would take for a parameter.
    return "\n".join(line for line in lines if not line.lstrip().startswith("--")).rstrip().rstrip(";")


def trend(
    warehouse: Warehouse,
    name: str,
    *,
    cluster: str | None = None,
    scenario: str = "%",
    metric: str | None = None,
    since: datetime | date | str | None = None,
    until: datetime | date | str | None = None,
    version: str | None = None,
    limit: int = 20,
    nights: int = 30,
) -> pd.DataFrame:
    """Return the answer of the trend query ``name`` (one of ``query_names()``), moments in UTC.

    :param cluster: may be left out when the warehouse knows only one.
    :param scenario: a name, or a pattern in which ``%`` is any text.
    :param metric: default: the one that stands for the scenario, else throughput.
    :param since: first moment, until: the moment after the last one; dates and text without a zone are UTC.
        Default: the last 365 days.
    :param version: Cilium version or pattern; for ``before_after_version`` default the newest one.
    :param limit: most rows of ``worst_nights``.
    :param nights: nights on either side in ``before_after_version``.

    Raises InvalidInput for an unknown name, cluster, metric or date.
    """
    text = sa.text(sql_of(name))
    needed = set(text.compile().params)
    end = moment_of("until", until) or datetime.now(UTC)
    start = moment_of("since", since) or end - DEFAULT_PERIOD
    if start >= end:
        raise InvalidInput(f"since ({start:%Y-%m-%d %H:%M}) must be before until ({end:%Y-%m-%d %H:%M})")
    values: dict[str, Any] = {
        "scenario": scenario,
        "metric": _metric(metric, scenario),
        "version": version or "%",
        "limit": _positive("limit", limit),
        "nights": _positive("nights", nights),
    }

    def work(connection: sa.Connection) -> pd.DataFrame:
        values["cluster"] = _cluster(connection, cluster)
        values["since"], values["until"] = (_text(moment, connection.dialect) for moment in (start, end))
        if name == "before_after_version" and version is None:
            values["version"] = _newest_version(connection, values["cluster"])
        return _untyped_frame(connection.execute(text, {key: values[key] for key in needed}))

    return warehouse.read(work)


def _untyped_frame(result: sa.CursorResult[Any]) -> pd.DataFrame:
    import pandas as pd

    names, rows = list(result.keys()), result.all()
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    frame = pd.DataFrame(dict(zip(names, map(list, columns), strict=True)))
    for name in frame.columns:
        # Through plain text SQLite returns moments as text in UTC.
        if str(name).endswith("_at"):
            frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601").astype("datetime64[us, UTC]")
    return frame


def _cluster(connection: sa.Connection, cluster: str | None) -> str:
    if cluster is not None:
        exists = sa.select(sa.literal(1)).where(run.c.cluster == cluster).limit(1)
        if connection.execute(exists).scalar() is not None:
            return cluster
    known = list(connection.execute(sa.select(run.c.cluster).distinct().order_by(run.c.cluster)).scalars())
    if not known:
        raise InvalidInput("the warehouse has no runs yet")
    if cluster is None and len(known) == 1:
        return str(known[0])
    wrong = "cluster must be named" if cluster is None else f"cluster {cluster!r} is not in the warehouse"
    raise InvalidInput(f"{wrong}; known are {', '.join(known)}")


def _text(moment: datetime, dialect: sa.Dialect) -> str:
    # SQLite compares the text of moments, so it must be as SQLAlchemy stores them there.
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f") if dialect.name == "sqlite" else moment.isoformat()


def _metric(metric: str | None, scenario: str) -> str:
    if metric is None:
        return main_metric(scenario) or "throughput_bps"
    if metric not in METRICS:
        raise InvalidInput(f"unknown metric {metric!r}; allowed are {', '.join(METRICS)}")
    return metric


def _newest_version(connection: sa.Connection, cluster: str) -> str:
    statement = (
        sa.select(run.c.cilium_version)
        .where(VALID, run.c.cluster == cluster, run.c.cilium_version.is_not(None))
        .order_by(run.c.started_at.desc())
        .limit(1)
    )
    version = connection.execute(statement).scalar()
    if version is None:
        raise InvalidInput(f"no valid run of cluster {cluster!r} knows its Cilium version")
    return str(version)


def moment_of(name: str, value: datetime | date | str | None) -> datetime | None:
    """Return ``value`` in UTC; dates and text without a zone are UTC. Raises InvalidInput, naming ``name``."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise InvalidInput(
                f"{name} = {value!r}: must be a date such as 2026-01-31 or 2026-01-31T02:00+00:00"
            ) from error
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise InvalidInput(f"{name} = {value}: must be 1 or more")
    return value
