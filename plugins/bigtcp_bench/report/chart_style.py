"""How charts look: the two colours of the arms, and the themes for light, dark and the browser's own."""

from __future__ import annotations

from typing import Any, Literal

from bigtcp_bench.plan import ARMS

Theme = Literal["light", "dark", "page"]

#: Vermilion and blue of Okabe and Ito's palette (https://jfly.uni-koeln.de/color/): told apart by everyone, and
#: with a contrast of at least 3:1 on the white and on the dark background below.
ARM_COLOURS = {"off": "#D55E00", "on": "#0072B2"}
#: The arms are also told apart by shape, for print in grey.
ARM_SHAPES = {"off": "circle", "on": "diamond"}

#: The rest of the same palette, for what is no arm.
KIND_COLOURS = ("#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#999999")
INCIDENT_COLOUR = "#CC79A7"

VERDICT_COLOURS = {
    "faster": "#009E73",
    "slower": "#D55E00",
    "equivalent": "#56B4E9",
    "inconclusive": "#999999",
    "invalid": "#999999",
}
VERDICT_SHAPES = {
    "faster": "triangle-right",
    "slower": "triangle-left",
    "equivalent": "square",
    "inconclusive": "circle",
    "invalid": "cross",
}

#: vl-convert brings Liberation Sans along, so a PNG needs no font of the machine.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"

_BACKGROUNDS = {"light": "#ffffff", "dark": "#14181f", "page": "transparent"}
_INKS = {"light": "#1b1f24", "dark": "#e6e9ee", "page": "currentColor"}


def config_of(theme: Theme) -> dict[str, Any]:
    """Return the Vega-Lite configuration of a theme.

    ``page`` draws in the colour of the text around the chart (SVG's ``currentColor``), so the chart follows the
    page, whether light, dark or printed, without being drawn again.
    """
    ink = _INKS[theme]
    return {
        "background": _BACKGROUNDS[theme],
        "font": FONT,
        "view": {"stroke": None},
        "title": {
            "color": ink,
            "subtitleColor": ink,
            "anchor": "start",
            "fontSize": 14,
            "fontWeight": 600,
            "subtitleFontSize": 12,
            "subtitlePadding": 4,
            "offset": 12,
        },
        "axis": {
            "labelColor": ink,
            "titleColor": ink,
            "tickColor": ink,
            "domainColor": ink,
            "gridColor": ink,
            "gridOpacity": 0.12,
            "domainOpacity": 0.5,
            "tickOpacity": 0.5,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": 400,
        },
        "legend": {
            "labelColor": ink,
            "titleColor": ink,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": 400,
            "symbolStrokeWidth": 2,
            "orient": "top",
            "direction": "horizontal",
        },
        "text": {"color": ink, "fontSize": 11},
        "rule": {"color": ink},
        "tick": {"color": ink},
        "point": {"filled": True, "opacity": 1},
        "range": {"category": list(KIND_COLOURS)},
    }


def arm_domain() -> list[str]:
    """Return the arms in the order in which every chart lists them."""
    return list(ARMS)
