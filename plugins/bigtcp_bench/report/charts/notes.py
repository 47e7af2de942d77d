"""What happened in the time that a chart shows, drawn: rules where something changed, incidents, labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import altair as alt

from bigtcp_bench.report.charts.parts import DAY_MS, chart_of, day_text, milliseconds, tooltip
from bigtcp_bench.report.charts.style import INCIDENT_COLOUR

if TYPE_CHECKING:
    import pandas as pd

#: Labels above a chart: the most rows of them, the height of one and the width of a character in pixels, and the
#: width of the chart that they are laid out for. In a narrower one those are left out that have no room there.
_LABEL_ROWS = 3
_LABEL_HEIGHT = 14
_CHARACTER_PX = 6.0
_LAID_OUT_PX = 560
_LABEL_CHARACTER = _CHARACTER_PX / _LAID_OUT_PX
#: From here on, as a share of the chart, a label stands to the left of its moment.
_TURN = 2 / 3


class Notes:
    """What happened in the time that a chart shows: rules where something changed, shaded incidents, and labels.

    Labels stand above the chart, in as many rows as they need to lie beside each other, but at most _LABEL_ROWS;
    what finds no place is left to the tooltip.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        changes: pd.DataFrame,
        incidents: Iterable[Mapping[str, Any]],
    ) -> None:
        begin, end = (choose(row["at"] for row in rows) for choose in (min, max))
        self._shaded = _incident_rows(incidents, begin, end)
        self._marked = _mark_rows(changes, begin, end)
        self._labels = _label_rows([*self._marked, *self._shaded], begin, end)
        #: Pixels that the labels take above the chart.
        self.height = _LABEL_HEIGHT * (1 + max((row["row"] for row in self._labels), default=-1))

    def shades(self) -> list[alt.Chart]:
        """Return the layers that belong behind the figures."""
        if not self._shaded:
            return []
        shade = chart_of(self._shaded).mark_rect(opacity=0.22, color=INCIDENT_COLOUR)
        return [
            shade.encode(x=alt.X("at:T"), x2=alt.X2("until:T"), tooltip=tooltip(text="incident", night="nights"))
        ]

    def rules(self) -> list[alt.Chart]:
        """Return the layers that belong before the figures."""
        layers: list[alt.Chart] = []
        sides: tuple[Literal["left", "right"], ...] = ("left", "right")
        if self._marked:
            rule = chart_of(self._marked).mark_rule(strokeDash=[4, 3], strokeWidth=1.5, opacity=0.7)
            layers.append(rule.encode(x=alt.X("at:T"), tooltip=tooltip(night="night", text="now")))
        for side in sides:
            for number in range(_LABEL_ROWS):
                rows = [row for row in self._labels if (row["side"], row["row"]) == (side, number)]
                if rows:
                    # `width` is Vega's own name for the width of the chart as it is drawn.
                    words = (
                        chart_of(rows)
                        # What has no room is empty and not absent: of no data a scale knows no end.
                        .transform_calculate(shown="width >= datum.needs_px ? datum.label : ''")
                        .mark_text(
                            align=side,
                            baseline="bottom",
                            dx=-2 if side == "left" else 2,
                            dy=-3 - number * _LABEL_HEIGHT,
                        )
                    )
                    layers.append(words.encode(x=alt.X("at:T"), y=alt.YValue(0), text=alt.Text("shown:N")))
        return layers

    def text(self) -> str:
        """Return all of it in words."""
        told = [f"{row['text']}, {row['night']}" for row in self._shaded]
        told += [f"{row['text']} from {row['night']}" for row in self._marked]
        return f"Marked: {'; '.join(told)}." if told else ""


def _mark_rows(changes: pd.DataFrame, begin: int, end: int) -> list[dict[str, Any]]:
    """Return a row for each of ``epochs.changes_of`` that falls into the time of the chart."""
    return [
        {"at": at, "night": day_text(at), "text": row["text"], "label": row["label"], "what": row["what"]}
        for row in changes.to_dict("records")
        if begin <= (at := milliseconds(row["started_at"])) <= end
    ]


def _incident_rows(incidents: Iterable[Mapping[str, Any]], begin: int, end: int) -> list[dict[str, Any]]:
    rows = []
    for one in incidents:
        first, closed = milliseconds(one["changed_on"]), one["closed_on"]
        last = end if closed is None else min(milliseconds(closed) + DAY_MS, end)
        if last < begin or first > end:
            continue
        rows.append(
            {
                "at": max(first, begin),
                "until": last,
                "night": f"since {one['changed_on']}" if closed is None else f"{one['changed_on']} to {closed}",
                "text": f"incident {one['id']}: {one['state']}",
                "label": f"incident {one['id']}{' (open)' if closed is None else ''}",
            }
        )
    return rows


def _label_rows(notes: Sequence[Mapping[str, Any]], begin: int, end: int) -> list[dict[str, Any]]:
    """Return the labels that find a place, each with its row (0 is the lowest) and its side of the moment."""
    ends: list[float] = [-math.inf] * _LABEL_ROWS
    placed = []
    for note in sorted(notes, key=lambda note: note["at"]):
        width = len(note["label"]) * _LABEL_CHARACTER
        side, moment = "left", note["at"]
        if _share(moment, begin, end) + width > 1 or _share(moment, begin, end) > _TURN:
            side, moment = "right", note.get("until", moment)
        first = _share(moment, begin, end) - (width if side == "right" else 0)
        row = next((number for number, taken in enumerate(ends) if taken < first), None)
        if row is not None:
            ends[row] = first + width + _LABEL_CHARACTER
            placed.append({"at": moment, "label": note["label"], "row": row, "side": side})
    return [
        label | {"needs_px": _needs_px(label, placed[place + 1 :], begin, end)}
        for place, label in enumerate(placed)
    ]


def _needs_px(label: Mapping[str, Any], later: Sequence[Mapping[str, Any]], begin: int, end: int) -> float:
    """Return how wide a chart must be for ``label`` to lie within it and not on the next of the ``later`` ones."""
    length = (len(label["label"]) + 1) * _CHARACTER_PX
    place = _share(label["at"], begin, end)
    follower = next((one for one in later if one["row"] == label["row"]), None)
    needs = length / max(place if label["side"] == "right" else 1 - place, 1e-9)
    if follower is None:
        return round(needs, 1)
    room = _share(follower["at"], begin, end) - place
    between = (label["side"] == "left") * length
    between += (follower["side"] == "right") * (len(follower["label"]) + 1) * _CHARACTER_PX
    # Two that stand apart from each other never meet.
    return round(max(needs, between / max(room, 1e-9)) if between else needs, 1)


def _share(moment: int, begin: int, end: int) -> float:
    return (moment - begin) / max(end - begin, 1)
