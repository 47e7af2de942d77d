"""From data to a page: templates, their helpers, and the headers that every answer carries."""

from __future__ import annotations

import functools
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import jinja2
from markupsafe import Markup
from starlette.responses import HTMLResponse

from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.report import links, units
from bigtcp_bench.report.words import CAUSES, EMULATED, SILENT, TWO_GAINS, verdict_word

if TYPE_CHECKING:
    from starlette.requests import Request

    from bigtcp_bench.web.access import Access

_HERE = Path(__file__).parent
STATIC = _HERE / "static"

#: Nothing from anywhere else, nothing inline, no eval: the bundle that draws charts interprets its expressions.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'self'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # A stricter one would make browsers send forms with the origin "null", which the pages' own check refuses.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def page(
    request: Request, template: str, access: Access | None = None, status_code: int = 200, **context: Any
) -> HTMLResponse:
    """Return ``template`` as a page; ``access`` is None where the reader is not known to be allowed anything."""
    site = Site(request.scope.get("root_path", ""))
    text = _templates().get_template(template).render(site=site, access=access, now=datetime.now(UTC), **context)
    return HTMLResponse(text, status_code=status_code)


def message(
    request: Request, title: str, sentence: str, access: Access | None = None, status_code: int = 200
) -> HTMLResponse:
    """Return a page that says one thing."""
    return page(request, "message.html", access, status_code, title=title, sentence=sentence)


def remote_chart(address: str, title: str) -> Markup:
    """Return the place of a chart that the page loads from ``address``."""
    macros: Any = _templates().get_template("macros.html").module
    return Markup(macros.chart(address, title))


class Site:
    """Addresses as the templates write them: of the pages below ``root``, and of Airflow around them."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.airflow = root.removesuffix(links.URL_PREFIX)

    def url(self, path: str, **query: Any) -> str:
        """Return the address of one of the pages; empty values are left out."""
        given = {name: value for name, value in query.items() if value not in (None, "")}
        return f"{self.root}/{path}{'?' if given else ''}{urlencode(given)}"

    def static(self, name: str) -> str:
        """Return the address of a static file; it changes when any of them does."""
        return f"{self.root}/static/{static_version()}/{name}"

    def airflow_run(self, dag_id: str, run_id: str) -> str:
        """Return the address of a run in Airflow."""
        return links.airflow_run_url(self.airflow, dag_id, run_id)

    def airflow_dag(self, dag_id: str) -> str:
        """Return the address of a DAG in Airflow."""
        return f"{self.airflow}/dags/{quote(dag_id, safe='')}"

    def airflow_api_dag(self, dag_id: str) -> str:
        """Return the address of a DAG in Airflow's REST API."""
        return f"{self.airflow}/api/v2/dags/{quote(dag_id, safe='')}"


@functools.cache
def static_version() -> str:
    """Return a short hash of all static files, the charts' JavaScript included."""
    from importlib.metadata import version

    digest = hashlib.sha256(f"{version('vl-convert-python')}\n".encode())
    charts = _HERE.parent / "report" / "charts"
    for path in (*sorted(STATIC.iterdir()), charts / "vega.py", charts / "style.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        finalize=units.unbroken,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "moment": moment,
        "ago": ago,
        "change": units.change_text,
        "value": units.value_text,
        "duration": units.duration,
        "verdict": verdict_word,
        "label": metric_label,
        "short": lambda name: METRICS[name].short_label if name in METRICS else name,
        "unit": lambda name: METRICS[name].unit if name in METRICS else "",
        "text": text,
        "cause": lambda name: CAUSES.get(name or "", name or units.MISSING),
        "zip": lambda one, other: list(zip(one, other, strict=True)),
    }
    environment.globals |= {
        "interval": units.change_with_interval,
        "EMULATED": EMULATED,
        "SILENT": SILENT,
        "TWO_GAINS": TWO_GAINS,
    }
    return environment


def moment(value: datetime | None) -> str:
    """Return a moment for people: ``2026-03-01 02:00 UTC``."""
    return units.MISSING if value is None else f"{value:%Y-%m-%d %H:%M} UTC"


def ago(value: datetime, now: datetime) -> str:
    """Return how long ago, or in how long, a moment is: ``3 h ago``, ``in 5 h``; days from two days on."""
    seconds = (now - value).total_seconds()
    size = abs(seconds)
    if size < 30:
        return "just now"
    for limit, divisor, unit in ((3600, 60, "min"), (2 * 86400, 3600, "h"), (float("inf"), 86400, "days")):
        if size < limit:
            text = f"{size / divisor:.0f} {unit}"
            break
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def text(value: Any) -> str:
    """Return ``value`` as text, a dash where there is none."""
    return units.MISSING if units.known(value) is None else str(value)


def metric_label(name: str) -> str:
    """Return a metric's label with its unit, as forms and headings show it."""
    metric = METRICS.get(name)
    if metric is None:
        return name
    unit = {"1": "share", "us": "µs"}.get(metric.unit, metric.unit)
    return f"{metric.label} ({unit})" if unit != "share" else metric.label
