"""Why something is not judged, each cause once: sentences that differ in who and how much only become one.

Pure: the sentences are the gates' (``analysis.verdicts``) as they are stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.report.units import signs
from bigtcp_bench.report.words import listed

if TYPE_CHECKING:
    from bigtcp_bench.analysis.compare import Comparison

#: Who else a sentence is about is named up to so many; more are counted.
_MOST_NAMED = 3
#: What differs between two sentences of one gate: scenario, arm, pod, limit of a device, and every figure.
_PARTICULARS = re.compile(
    r"\bipv[46]-[\w@-]+|\barm (?:on|off)\b|\b(?:client|server) pod\b|\bg[sr]o_(?:ipv4_)?max_size\b"
    r"|[+\N{MINUS SIGN}-]?\d[\d,.]*"
)


def kinds(reasons: Iterable[str]) -> list[list[str]]:
    """Return ``reasons`` grouped by the gate that they come from, groups and members in the given order."""
    found: dict[str, list[str]] = {}
    for reason in dict.fromkeys(reasons):
        found.setdefault(_PARTICULARS.sub("#", reason), []).append(signs(reason))
    return list(found.values())


def reason_lines(reasons: Iterable[str]) -> list[str]:
    """Return one line for each kind of reason: its first sentence, and whom else it is true of."""
    return [_line(kind) for kind in kinds(reasons)]


def headline_reason(reasons: Sequence[str]) -> str:
    """Return the first of ``reasons`` and how many there are besides; a plain word where none was stored."""
    if not reasons:
        return "no reason was stored"
    first, *others = kinds(reasons)
    more = [f"{len(first) - 1} like it" if len(first) > 1 else "", f"{len(others)} more" if others else ""]
    told = " and ".join(filter(None, more))
    return f"{first[0]} (and {told})" if told else first[0]


def not_judged(comparisons: Iterable[Comparison], besides: Iterable[str] = ()) -> list[str]:
    """Return why single comparisons are invalid, in the words of the table that shows them.

    ``besides`` are reasons that are told elsewhere: those of the whole run.
    """
    whole = set(besides)
    by_cause: dict[str, dict[str, list[str]]] = {}
    plain: list[str] = []
    for one in comparisons:
        for reason in one.reasons if one.verdict == "invalid" else ():
            own = f"{one.metric} of {one.scenario} "
            if reason.startswith(own):
                cause = signs(reason.removeprefix(own).removeprefix("was "))
                by_cause.setdefault(cause, {}).setdefault(one.scenario, []).append(one.metric)
            elif reason not in whole:
                plain.append(reason)
    found = reason_lines(plain)
    for cause, metrics_of in by_cause.items():
        alike: dict[tuple[str, ...], list[str]] = {}
        for scenario, metrics in metrics_of.items():
            alike.setdefault(tuple(metrics), []).append(scenario)
        series = (f"{listed(map(_label, metrics))} of {listed(of)}" for metrics, of in alike.items())
        found.append(f"{'; '.join(series)}: {cause}")
    return found


def _line(kind: Sequence[str]) -> str:
    first, *others = kind
    heads = list(dict.fromkeys(map(_who, others)))
    heads = [head for head in heads if head != _who(first)]
    if not others:
        return first
    if not heads:
        return f"{first} (and {len(others)} more like it)"
    named, left = heads[:_MOST_NAMED], heads[_MOST_NAMED:]
    return f"{first} (likewise {listed([*named, f'{len(left)} more'] if left else named)})"


def _who(reason: str) -> str:
    return reason.partition(": ")[0].replace(", ", " ")


def _label(metric: str) -> str:
    return METRICS[metric].short_label if metric in METRICS else metric
