"""One run as HTML: the body of its page in Airflow, and the same body as a file that stands alone.

For the page::

    stored = StoredRun(warehouse, number)
    # One place for each chart:
    body = run_body(RunView.of(stored), RunDetail.of(stored), chart=lambda chart: Markup(...))

``chart`` is called with every RunChart where it belongs, and returns what stands there: by default the drawn chart
itself (``vega.figure``), or a place into which the page loads it later, by its name. The body begins with headings
of the second level, has no scripts of its own, and uses the classes of
``web/static/pages.css``, which the file carries along.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from bigtcp_bench import __version__
from bigtcp_bench.errors import InvalidInput, clean
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.report import summary, units
from bigtcp_bench.report.charts import vega
from bigtcp_bench.report.charts.of_run import RunChart, run_charts
from bigtcp_bench.report.headline import RESTORE_ADVICE
from bigtcp_bench.report.words import EMULATED, verdict_word

if TYPE_CHECKING:
    from bigtcp_bench.report.detail import RunDetail
    from bigtcp_bench.report.view import RunView
    from bigtcp_bench.warehouse.store import Warehouse

_TEMPLATES = Path(__file__).parent / "templates"
_PAGES = Path(__file__).parent.parent / "web" / "static"


def run_body(
    view: RunView,
    detail: RunDetail,
    chart: Callable[[RunChart], Markup] | None = None,
    restore_url: str | None = None,
    page_url: Callable[[str], str] | None = None,
) -> Markup:
    """Return everything that is known of a run, below the heading of the page.

    ``restore_url`` is the address of the DAG that puts the cluster back, and ``page_url`` returns that of another
    page by its path (``run/97``), where they are known.
    """
    place = chart or (lambda one: vega.figure(one.draw()))
    by_section: dict[str, list[Markup]] = {}
    for one in run_charts(view, detail.results, detail.packet_sizes).values():
        by_section.setdefault(one.section, []).append(place(one))
    template = _templates().get_template("run.html")
    of_scenario = operator.attrgetter("scenario")
    return Markup(
        template.render(
            view=view,
            detail=detail,
            charts=by_section,
            restore_url=restore_url,
            page_url=page_url,
            comparisons=[(name, list(rows)) for name, rows in itertools.groupby(view.judged, of_scenario)],
            proofs=[
                (name, {one.arm: one for one in rows})
                for name, rows in itertools.groupby(view.proofs, of_scenario)
            ],
        )
    )


def report_file(view: RunView, detail: RunDetail) -> str:
    """Return the page of a run as one HTML file that asks for nothing else: style, script and data are inside."""
    template = _templates().get_template("file.html")
    return template.render(
        view=view,
        body=run_body(view, detail),
        style=Markup("\n").join((_text(_PAGES / "pages.css"), Markup(vega.STYLE), _text(_TEMPLATES / "file.css"))),
        theme=_text(_TEMPLATES / "file.js"),
        script=Markup(vega.javascript()),
        version=__version__,
    )


def write_report(warehouse: Warehouse, number: int, path: Path) -> None:
    """Write run ``number`` into the file ``path``. Raises InvalidInput if that cannot be done."""
    from bigtcp_bench.report.detail import RunDetail
    from bigtcp_bench.report.stored import StoredRun
    from bigtcp_bench.report.view import RunView

    stored = StoredRun(warehouse, number)
    text = report_file(RunView.of(stored), RunDetail.of(stored))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror or error}") from error


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=units.unbroken,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "moment": _moment,
        "value": units.value_text,
        "duration": units.duration,
        "metric": METRICS.__getitem__,
        "clean": clean,
        "change": units.change_text,
        "number": _number,
        "verdict": verdict_word,
        "capital": units.capital,
    }
    environment.globals |= {
        "interval": units.change_with_interval,
        "summary": summary,
        "EMULATED": EMULATED,
        "MISSING": units.MISSING,
        "RESTORE_ADVICE": RESTORE_ADVICE,
    }
    return environment


def _text(path: Path) -> Markup:
    return Markup(path.read_text(encoding="utf-8"))


def _moment(value: datetime | None) -> str:
    return units.MISSING if value is None else f"{value:%Y-%m-%d %H:%M:%S} UTC"


def _number(value: Any) -> str:
    """Return a number with separators and at most three decimals; a dash for None."""
    if value is None:
        return units.MISSING
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3f}"
