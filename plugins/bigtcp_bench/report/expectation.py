"""What BIG TCP did otherwise than expected of a scenario: no gain where one is due, a loss where none is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.report import units
from bigtcp_bench.report.words import EXPECTATION_WORDS, verdict_word

if TYPE_CHECKING:
    from bigtcp_bench.analysis.compare import Comparison
    from bigtcp_bench.report.view import RunView


def unexpected(view: RunView) -> list[str]:
    """Return a sentence for each scenario that did otherwise than expected; nothing of an A/A run.

    Of those that should gain, the metric that stands for the scenario must be better; of those that should not
    change, nothing may be worse by the margin. What is too noisy to tell is no surprise.
    """
    if view.is_aa:
        return []
    return [
        f"{scenario} {EXPECTATION_WORDS[expected]}; {', '.join(map(_told, found))}"
        for scenario, expected in view.expectations.items()
        if (found := list(_surprises(view, scenario)))
    ]


def _surprises(view: RunView, scenario: str) -> Iterator[Comparison]:
    if view.expectations[scenario] == "gain":
        main = (one for one in view.headline_comparisons() if one.scenario == scenario)
        yield from (one for one in main if one.verdict in ("equivalent", "slower"))
    else:
        of = (one for one in view.judged if one.scenario == scenario)
        yield from (one for one in of if one.verdict == "slower" and not one.below_margin)


def _told(one: Comparison) -> str:
    label = METRICS[one.metric].short_label
    return f"{label} {verdict_word(one.verdict)} ({units.change_text(one.change)})"
