"""How charts look: the two colours of the arms, and the themes for light, dark and the browser's own."""

from __future__ import annotations

from typing import Any, Literal

Theme = Literal["light", "dark", "page"]

#: Vermilion and blue of Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), which everyone can tell apart;
#: the blue is a little lighter than theirs, so that both have a contrast of 3.8:1 or more on white and on dark.
ARM_COLOURS = {"off": "#D55E00", "on": "#0A80C6"}
#: The arms are also told apart by shape, for print in grey.
ARM_SHAPES = {"off": "circle", "on": "diamond"}

#: The rest of the same palette, for what is no arm.
KIND_COLOURS = ("#009E73", "#CC79A7", "#8A8A8A", "#E69F00", "#56B4E9")
#: From small to large packets: up to 65,536 B in greys, what only BIG TCP makes in blues (single-hue scales of
#: ColorBrewer, https://colorbrewer2.org, which keep their order for everyone and in print).
SIZE_COLOURS = ("#D9D9D9", "#BDBDBD", "#969696", "#636363", "#9ECAE1", "#3182BD", "#08519C")
INCIDENT_COLOUR = "#CC79A7"
NEUTRAL_COLOUR = "#8A8A8A"

VERDICT_COLOURS = {
    "faster": "#009E73",
    "slower": "#D55E00",
    "equivalent": "#0A80C6",
    "inconclusive": "#8A8A8A",
    "invalid": "#8A8A8A",
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
            "symbolOpacity": 1,
            "symbolBaseFillColor": ink,
            "symbolBaseStrokeColor": ink,
            "orient": "top",
            "direction": "horizontal",
        },
        "text": {"color": ink, "fontSize": 11},
        "rule": {"color": ink},
        "line": {"color": ink},
        "point": {"filled": True, "opacity": 1},
        "range": {"category": list(KIND_COLOURS)},
    }
