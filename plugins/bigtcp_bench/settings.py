"""Every setting that comes from outside a run: the environment's variables and Airflow's connections, listed once.

What a run measures is its plan (plan.py), and the form's fields are its params (params.py). DAG files read
settings when they are parsed, so nothing heavy is imported here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from bigtcp_bench.errors import InvalidInput

T = TypeVar("T")

#: The connection that is measured when none is named.
DEFAULT_CONN_ID = "kubernetes_default"
#: What the id of a connection may be made of; all of it may stand in the id of a DAG.
CONN_ID_PATTERN = r"^[\w.-]{1,200}$"
WAREHOUSE_CONN_ID = "bigtcp_warehouse"
SLACK_CONN_ID = "bigtcp_slack"
AIRFLOW_CONN_ID = "bigtcp_airflow"
PROMETHEUS_CONN_ID = "bigtcp_prometheus"

_CREDENTIALS = re.compile(r"(?<=://)([^:/?#\s]*)(:\S*)?@")
_SECRET_PARAMETER = re.compile(r"([?&][^=&\s]*(?:pass|secret|token|key)[^=&\s]*=)[^&\s]+", re.IGNORECASE)


@dataclass(frozen=True)
class Variable(Generic[T]):
    """One environment variable.

    ``default`` is the text that counts when it is not set. ``parse`` turns a text into the value, and raises
    ValueError with what is allowed. An empty text counts as not set unless ``empty_means_something``.
    """

    name: str
    default: str
    read_by: str
    meaning: str
    parse: Callable[[str], T]
    empty_means_something: bool = False

    def given(self) -> str | None:
        """Return the text in the environment, or None when the default counts."""
        text = os.environ.get(self.name)
        return text if text or (text is not None and self.empty_means_something) else None

    def value(self) -> T:
        """Return the value in force. Raises InvalidInput, in one sentence, for what is not allowed."""
        given = self.given()
        text = self.default if given is None else given
        try:
            return self.parse(text)
        except ValueError as error:
            raise InvalidInput(f"{self.name} = {without_secrets(text)!r}: {error}") from error


@dataclass(frozen=True)
class ConnectionSetting:
    """One Airflow connection; ``without`` says what happens where there is none."""

    conn_id: str
    meaning: str
    without: str


def without_secrets(text: str) -> str:
    """Return ``text`` with every password, and every user that stands alone, in its URLs as ``***``."""
    masked = _CREDENTIALS.sub(lambda found: f"{found[1]}:***@" if found[2] else "***@", text)
    return _SECRET_PARAMETER.sub(r"\1***", masked)


def _cron(text: str) -> str | None:
    # Airflow has imported it long before.
    from croniter import croniter

    if text in ("", "none"):
        return None
    if not croniter.is_valid(text) or not (text.startswith("@") or len(text.split()) == 5):
        raise ValueError("must be a cron expression of five fields in UTC, such as 0 2 * * *, or none")
    return text


def _conn_ids(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if not re.match(CONN_ID_PATTERN, name):
            raise ValueError(
                f"{name!r} is no connection id; allowed are letters, digits, dots, dashes and underscores, "
                "at most 200"
            )
    return names or (DEFAULT_CONN_ID,)


def _folder(text: str) -> Path | None:
    if text and not Path(text).is_dir():
        raise ValueError("must be a folder that exists")
    return Path(text) if text else None


def pinned_image(text: str) -> str:
    """Return an image's name. Raises ValueError unless it stands for the same image every night."""
    tag = text.rsplit("/", 1)[-1].partition(":")[2]
    if "@" not in text and tag in ("", "latest"):
        raise ValueError("must name a tag other than latest, or a digest, so that every night runs the same")
    return text


def _warehouse_url(text: str) -> str | None:
    from bigtcp_bench.warehouse.engine import parsed_url

    if text:
        try:
            parsed_url(text)
        except InvalidInput as error:
            raise ValueError(str(error)) from error
    return text or None


SCHEDULE = Variable(
    "BIGTCP_BENCH_SCHEDULE",
    "0 2 * * *",
    "DAG processor, scheduler",
    "when `bigtcp_benchmark` runs: a cron expression in UTC; empty or `none`: only by hand",
    _cron,
    empty_means_something=True,
)
WATCH_SCHEDULE = Variable(
    "BIGTCP_BENCH_WATCH_SCHEDULE",
    "*/15 * * * *",
    "DAG processor, scheduler",
    "when `bigtcp_upgrade_watch` looks: a cron expression in UTC; empty or `none`: only by hand",
    _cron,
    empty_means_something=True,
)
CLUSTERS = Variable(
    "BIGTCP_BENCH_CLUSTERS",
    DEFAULT_CONN_ID,
    "all Airflow components",
    "Kubernetes connections, separated by commas: one DAG for each cluster",
    _conn_ids,
)
PLANS = Variable(
    "BIGTCP_BENCH_PLANS",
    "",
    "all Airflow components, the command",
    "a folder with plans of your own; one of the same name takes the place of a plan of the package, "
    "`NAME.CONNECTION.yaml` on one cluster only",
    _folder,
)
GUARDIAN_IMAGE = Variable(
    "BIGTCP_BENCH_GUARDIAN_IMAGE",
    "nicolaka/netshoot:v0.14",
    "workers, the command",
    "image of the guardian and of its probes, pinned; needs python3. It is no plan's and no trigger's to choose: "
    "[its token](safety.md#who-may-do-what) is as good as root",
    pinned_image,
)
WAREHOUSE = Variable(
    "BIGTCP_BENCH_WAREHOUSE",
    "",
    "the command",
    "URL of the warehouse, for the command does not read the connection; without it `warehouse.db` in `--folder`",
    _warehouse_url,
)

VARIABLES: tuple[Variable[Any], ...] = (SCHEDULE, WATCH_SCHEDULE, CLUSTERS, PLANS, GUARDIAN_IMAGE, WAREHOUSE)

CONNECTIONS = (
    ConnectionSetting(
        DEFAULT_CONN_ID,
        "the cluster under test; `cluster_name` in the extra is its name in reports and tables. "
        "`BIGTCP_BENCH_CLUSTERS` names others",
        "the pod's own service account, else the default kubeconfig",
    ),
    ConnectionSetting(
        WAREHOUSE_CONN_ID,
        "the database of all results: type `sqlite` (`sqlite:////path/to/file.db`) or `postgres`",
        "no run can start",
    ),
    ConnectionSetting(
        SLACK_CONN_ID,
        "password: the bot's token; extra: `channel`, and what [slack.md](slack.md#settings) lists",
        "nothing is sent; the text is in the task's log",
    ),
    ConnectionSetting(
        AIRFLOW_CONN_ID,
        "address of Airflow's own API server, login and password of a user who may edit runs",
        "the preflight's verdict is not written into the run's note",
    ),
    ConnectionSetting(
        PROMETHEUS_CONN_ID,
        "type `http`: your Prometheus, asked about each block's window; "
        "[monitoring.md](monitoring.md#the-connection) lists the extra",
        "runs have no figures from Prometheus",
    ),
)
