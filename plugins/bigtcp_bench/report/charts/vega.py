"""The JavaScript that draws the charts in a browser: one script that asks for nothing else.

A page needs two things. The script, as a file of its own or inline::

    <script src="vega.js" defer></script>          the answer of javascript(), text/javascript

and for each chart the element that ``figure`` returns. The script finds these elements by itself and draws them.

It works under a content security policy without ``unsafe-eval`` and ``unsafe-inline``: expressions are interpreted
(vega-embed's ``ast``; the bundle holds vega-interpreter), specifications are JSON data blocks, which no policy
counts as scripts, and the script adds no style sheet. ``script-src 'self'; style-src 'self'`` is enough. ``STYLE``
is the CSS that figures and tooltips need; it belongs into the page's own style sheet.

Bundling Vega takes seconds of CPU time, so ``python -m bigtcp_bench.report.charts.vega`` does it once, when a
checkout is installed. Where that was not done, or with another vl-convert, each process does it for itself.
"""

from __future__ import annotations

import functools
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from bigtcp_bench.report.charts.style import config_of

if TYPE_CHECKING:
    import altair as alt

#: The style of figures and tooltips, in the page's own colours.
STYLE = """
figure.chart { margin: 1rem 0; }
figure.chart > figcaption { font-weight: 600; margin-bottom: .8rem; }
figure.chart > figcaption small { display: block; font-weight: 400; }
figure.chart > div { width: 100%; min-height: 4rem; }
figure.chart .vega-bindings { display: none; }
figure.chart svg { max-width: 100%; height: auto; display: block; overflow: visible; }
#vg-tooltip-element { position: fixed; z-index: 1000; visibility: hidden; padding: .4rem .6rem; max-width: 22rem;
  font: 12px/1.4 system-ui, sans-serif; background: Canvas; color: CanvasText; border: 1px solid GrayText;
  border-radius: 4px; pointer-events: none; }
#vg-tooltip-element.visible { visibility: visible; }
#vg-tooltip-element td.key { opacity: .75; padding-right: .6rem; text-align: right; vertical-align: top; }
@media print { figure.chart { break-inside: avoid; } }
"""

#: What ``bundled`` has returned at the installation.
BUNDLE = Path(__file__).with_name("vega.js")

# Every element is drawn when the document is complete; what fails is said in the element, in words.
_DRAW = """
(() => {
const config = %s;
const draw = (figure) => {
  const place = figure.querySelector("div");
  // What is folded has no width yet; it is drawn when it is opened.
  if (!place || place.dataset.drawn || figure.closest("details:not([open])")) return;
  place.dataset.drawn = "yes";
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const options = {actions: false, ast: true, config, defaultStyle: false, mode: "vega-lite",
                   renderer: "svg", tooltip: {disableDefaultStyle: true}};
  vegaEmbed(place, spec, options).catch((error) => {
    place.textContent = "The chart cannot be drawn: " + error.message;
  });
};
const drawAll = () => document.querySelectorAll("figure.chart").forEach(draw);
window.drawCharts = drawAll;
document.addEventListener("toggle", drawAll, true);
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", drawAll);
else drawAll();
})();
"""


@functools.cache
def javascript() -> str:
    """Return Vega, Vega-Lite, vega-embed and what draws every ``figure`` of the page, as one script (0.9 MB).

    ``drawCharts()`` draws figures that were added to the page after it was loaded.
    """
    made = BUNDLE.read_text(encoding="utf-8") if BUNDLE.exists() else ""
    return (made if made.startswith(_notice()) else bundled()) + _DRAW % json.dumps(config_of("page"))


def bundled() -> str:
    """Return Vega, Vega-Lite, vega-embed and what they need, as the installed vl-convert bundles them: seconds."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # As an inline script it must not end early.
    return _notice() + bundle.replace("</script", "<\\/script") + "\n"


def _notice() -> str:
    """Return the line that says whose bundle it is, and by which vl-convert."""
    by = version("vl-convert-python")
    return f"/* Vega, Vega-Lite, vega-embed and what they use, bundled by vl-convert {by} */\n"


def specification(chart: alt.LayerChart | alt.Chart) -> dict[str, Any]:
    """Return what draws a chart, in Vega-Lite's words.

    Not held against Vega-Lite's schema again, which takes longer than everything else: the tests do it.
    """
    spec: dict[str, Any] = chart.to_dict(validate=False)
    return spec


def figure(chart: alt.LayerChart | alt.Chart) -> Markup:
    """Return a chart as an HTML element: its title as a caption, a place to draw in, and its specification."""
    spec = specification(chart)
    title = spec.pop("title", {})
    text, subtitle = ("; ".join(_lines(title.get(name))) for name in ("text", "subtitle"))
    # < is the only character by which a data block could end early.
    data = Markup(json.dumps(spec, separators=(",", ":")).replace("<", "\\u003c"))
    small = Markup("<small>{}</small>").format(subtitle) if subtitle else Markup("")
    return Markup(
        '<figure class="chart"><figcaption>{}{}</figcaption><div></div>'
        '<script type="application/json">{}</script></figure>'
    ).format(text, small, data)


def _lines(text: str | list[str] | None) -> list[str]:
    return [text] if isinstance(text, str) else list(text or ())


if __name__ == "__main__":
    BUNDLE.write_text(bundled(), encoding="utf-8")
