"""The text of one run: the same words on the terminal, in the task log and in Slack."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bigtcp_bench.errors import clean
from bigtcp_bench.in_cluster.treatment import CLASSIC_MAX_PACKET_BYTES
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.report import reasons, units
from bigtcp_bench.report.change import ChangeView, note_conflict
from bigtcp_bench.report.expectation import unexpected
from bigtcp_bench.report.headline import RESTORE_ADVICE
from bigtcp_bench.report.plain import MIN_WIDTH, PLAIN_WIDTH, bare_table, plain
from bigtcp_bench.report.view import NodeView, Proof, RunView
from bigtcp_bench.report.words import EXPECTATION_WORDS, RUN_ADVICE, TWO_CHANGES, TWO_GAINS, verdict_word

if TYPE_CHECKING:
    from bigtcp_bench.analysis.change import Moved
    from bigtcp_bench.analysis.compare import Comparison
    from bigtcp_bench.analysis.diagnosis import Cause

_STYLES = {
    "valid": "bold green",
    "invalid": "bold magenta",
    "failed": "bold red",
    "running": "bold yellow",
    "faster": "green",
    "slower": "bold red",
    "equivalent": "cyan",
    "inconclusive": "yellow",
}

#: How far the cluster is back in its state before the run.
RESTORE_WORDS = {
    "pending": "not yet: the configuration is put back after this report",
    "verified": "verified",
    "not_verified": "NOT VERIFIED",
    "not_needed": "not needed: the run changed nothing",
}


def print_summary(view: RunView, console: Console | None = None, *, after: str = "") -> None:
    """Print the summary of a run on a terminal, coloured only when it is one; and ``after`` it one sentence."""
    console = console or Console(highlight=False)
    if console.width < MIN_WIDTH:
        console.width = MIN_WIDTH
    console.print(_summary(view, console.width), highlight=False)
    if after:
        console.print(Text(f"\n{clean(after)}"))


def run_summary(view: RunView, width: int = PLAIN_WIDTH) -> str:
    """Return the summary of a run as plain text of at most ``width`` columns (80 or more)."""
    return plain(_summary(view, width), max(width, MIN_WIDTH))


def comparison_text(view: RunView, comparisons: Sequence[Comparison]) -> str:
    """Return the comparison table of some ``comparisons`` of ``view`` as plain text, as narrow as it can be."""
    return plain(_comparison_table(view, comparisons, MIN_WIDTH), MIN_WIDTH)


def proof_text(view: RunView, proofs: Sequence[Proof]) -> str:
    """Return only the table of the proof of effect of some ``proofs`` of ``view``, likewise."""
    return plain(_proof_table(proofs, view.order), MIN_WIDTH)


def change_text(change: ChangeView) -> str:
    """Return the comparison with the last run before a change of Cilium, likewise."""
    return plain(Group(*_change_parts(change)), MIN_WIDTH)


def headline(view: RunView) -> str:
    """Return the run's news in one line, with its cluster, and first of all if nothing of it was measured."""
    made_up = "GENERATED, NOT MEASURED: " if view.generated else ""
    return f"{made_up}{clean(view.cluster)}: {clean(view.headline.text)}"


def facts(view: RunView) -> list[tuple[str, str]]:
    """Return the conditions of the run as (label, text), in the order they are told."""
    plan = f"plan {view.plan_name}, order {','.join(view.order)}" if view.plan_name else "no valid plan"
    rows = [
        ("run", f"{view.dag_id} / {view.run_id} ({plan}{f', {view.trigger}' if view.trigger else ''})"),
        ("note", view.note or ""),
        ("nodes", nodes_line(view.nodes)),
        ("Cilium", (view.cilium_version or "") + (" (emulated)" if view.emulated and view.cilium_version else "")),
        (
            "lab",
            "the Kubernetes API and the Cilium agent are emulated; the traffic, the kernel's BIG TCP and every "
            "counter are real"
            if view.emulated
            else "",
        ),
        ("control", _control_line(view)),
        ("history", view.history.state_line()),
        ("time", _time_line(view)),
        ("restore", _restore_line(view)),
        ("data", f"{f'run {view.number} in ' if view.number is not None else ''}{view.data_at}"),
        ("page", view.url or ""),
    ]
    return [(label, clean(text)) for label, text in rows if text]


def history_lines(view: RunView) -> list[str]:
    """Return what is not as it usually is across nights, and of an A/A run the noise that it measured."""
    return [clean(line) for line in (*view.noise, *view.history.lines())]


def series_lines(view: RunView) -> list[str]:
    """Return those of ``history_lines`` that are not about incidents."""
    return [clean(line) for line in (*view.noise, *view.history.series_lines())]


def history_legend(view: RunView) -> str:
    """Return why the changes of ``history_lines`` are not the gains of the headline, where both are told."""
    gained = any(gain.before is not None and gain.now is not None for gain in view.gains.values())
    return TWO_CHANGES if gained else ""


def reason_lines(view: RunView) -> list[str]:
    """Return why the run is invalid or failed, each cause once."""
    return [clean(line) for line in reasons.reason_lines(view.reasons)]


def further_reasons(view: RunView) -> list[str]:
    """Return the reasons that the run's headline does not give."""
    told = clean(view.headline.text)
    firsts = [(line, line.partition(" (likewise ")[0]) for line in reason_lines(view)]
    # A task's name stands before what it said.
    return [line for line, first in firsts if (first.partition(": ")[2] or first) not in told]


def advice(view: RunView) -> str:
    """Return what to do next about a run; empty where nothing is to be done, or where its headline says it."""
    if view.restore_failed:
        return ""
    if view.status in RUN_ADVICE:
        return RUN_ADVICE[view.status]
    found = []
    if note_conflict(view.note, view.cilium_version):
        found.append(RUN_ADVICE["note"])
    if view.compared is not None and view.compared.answer()[1]:
        found.append(RUN_ADVICE["worse"])
    return " ".join(found)


def cause_lines(view: RunView, most: int | None = None) -> list[str]:
    """Return the likely causes of what is wrong with the run, one line each; at most ``most`` of them."""
    return [clean(f"{cause.name}: {cause_text(cause)}") for cause in view.causes[:most]]


def cause_text(cause: Cause) -> str:
    """Return the sentence of a cause, where it shows, and what else it explains."""
    where = ", ".join(filter(None, (cause.scenario, f"arm {cause.arm}" if cause.arm else None)))
    explains = f"; explains {', '.join(cause.explains)} too" if cause.explains else ""
    return units.signs(f"{f'{where}: ' if where else ''}{cause.sentence}{explains}")


def nodes_line(nodes: Iterable[NodeView]) -> str:
    """Return the pair of nodes with kernel and NIC driver; what both share is said once."""
    nodes = list(nodes)
    if not nodes:
        return ""
    pair = " → ".join(f"{node.name} ({node.role})" for node in nodes)
    parts = [pair]
    for label, values in (
        ("kernel", [node.kernel for node in nodes]),
        ("NIC driver", [node.nic_driver for node in nodes]),
    ):
        known = list(dict.fromkeys(value for value in values if value))
        if known:
            parts.append(f"{label} {' and '.join(known)}")
    return ", ".join(parts)


def _summary(view: RunView, width: int) -> Group:
    style = "bold red" if view.restore_failed else _STYLES[view.status]
    parts: list[RenderableType] = [Text(headline(view), style=style)]
    if len(view.reasons) > 1 or (view.reasons and view.restore_failed):
        parts += [Text("\nreasons", style="bold")]
        parts += [Padding(Text(f"- {line}"), (0, 0, 0, 2)) for line in reason_lines(view)]
    if lines := cause_lines(view):
        parts += [Text("\nlikely causes", style="bold")]
        parts += [Padding(Text(f"- {line}"), (0, 0, 0, 2)) for line in lines]
    if view.no_cause:
        parts.append(Text(f"\nlooked into: {view.no_cause}"))
    if lines := history_lines(view):
        parts += [Text("\nhistory", style="bold")]
        parts += [Padding(Text(f"- {line}"), (0, 0, 0, 2)) for line in lines]
        if meaning := history_legend(view):
            parts.append(Padding(Text(meaning, style="dim"), (0, 0, 0, 2)))
    if view.judged:
        parts += [Text(), _comparison_table(view, view.judged, width)]
        parts += [Padding(Text(line), (0, 0, 0, 2)) for line in (*surprise_lines(view), *invalid_lines(view))]
        parts += [Text(), Text(legend(view), style="dim")]
    if view.compared:
        parts += [Text(), *_change_parts(view.compared)]
    if view.proofs:
        parts += [
            Text("\nproof of effect: mean bytes per packet on the pods' own interfaces", style="bold"),
            _proof_table(view.proofs, view.order),
            Text(
                f"proven: at most {CLASSIC_MAX_PACKET_BYTES:,} B with BIG TCP off and above it with BIG TCP on.",
                style="dim",
            ),
        ]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    # A path or URL longer than the line is folded, never cut: it is there to be copied.
    grid.add_column(overflow="fold")
    for label, text in facts(view):
        loud = label == "restore" and view.restore_failed
        grid.add_row(label, Text(text, style="bold red" if loud else ""))
    return Group(*parts, Text(), grid)


def _comparison_table(view: RunView, comparisons: Sequence[Comparison], width: int) -> Table:
    narrow = width < PLAIN_WIDTH
    table = _table("scenario, metric", gap=1 if narrow else 2)
    for name in sides(view):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("change", justify="right")
    table.add_column("verdict", no_wrap=True)
    for scenario, group in itertools.groupby(comparisons, key=lambda comparison: comparison.scenario):
        expected = "" if view.is_aa else expected_text(view, scenario)
        table.add_row(Text(scenario, style="bold"), "", "", "", Text(expected, style="dim"))
        for comparison in group:
            metric = METRICS[comparison.metric]
            table.add_row(
                Text(f" {metric.short_label}"),
                Text(units.value_text(comparison.off_median, metric.unit)),
                Text(units.value_text(comparison.on_median, metric.unit)),
                Text(units.change_with_interval(comparison.change, comparison.ci_low, comparison.ci_high)),
                Text(verdict_text(comparison, "\n" if narrow else " "), style=_STYLES.get(comparison.verdict, "")),
            )
    return table


def verdict_text(comparison: Comparison, separator: str = " ") -> str:
    """Return the verdict for people, with the size that it needs to be understood."""
    word = verdict_word(comparison.verdict)
    if comparison.below_margin:
        return f"{word}{separator}below margin"
    if comparison.verdict == "inconclusive" and comparison.smallest_detectable_change is not None:
        size = units.change_text(comparison.smallest_detectable_change).lstrip("+")
        return f"{word}{separator}sees {size}"
    return word


def sides(view: RunView) -> tuple[str, str]:
    """Return what the two sides of a comparison are: the arms, or in an A/A run the blocks of the same arm."""
    return ("odd blocks", "even blocks") if view.is_aa else ("off", "on")


def expected_text(view: RunView, scenario: str) -> str:
    """Return what BIG TCP should do for ``scenario``; empty where this version does not know it."""
    return EXPECTATION_WORDS.get(view.expectations.get(scenario, ""), "")


def surprise_lines(view: RunView) -> list[str]:
    """Return what BIG TCP did otherwise than expected, a line for each scenario, and what is not known yet."""
    return [*(f"not as expected: {line}" for line in unexpected(view)), *filter(None, [clean(view.unknown)])]


def invalid_lines(view: RunView) -> list[str]:
    """Return why single comparisons are invalid, each cause once, without those of the whole run."""
    return [f"not judged: {clean(line)}" for line in reasons.not_judged(view.judged, view.reasons)]


def legend(view: RunView) -> str:
    """Return what the columns and words of the comparison mean; ``view`` must have judged comparisons."""
    level, margin = (_share_of(view, name) for name in ("level", "margin"))
    off, on = sides(view)
    n_off, n_on = (_range(getattr(comparison, name) for comparison in view.judged) for name in ("n_off", "n_on"))
    return (
        f"Medians over fresh pod pairs ({off}: {n_off}, {on}: {n_on}). change: {on} against {off}, with its "
        f"{level} confidence interval. better, worse: in the metric's own direction. below margin: surely, but by "
        f"less than {margin}. unchanged: surely within ±{margin}. too noisy: a change of the size given would "
        "have been seen."
    )


def _change_parts(change: ChangeView) -> list[RenderableType]:
    table = _table("scenario, metric")
    for name in ("before", "after"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("change", justify="right")
    for item in change.scenarios:
        metric = METRICS[item.metric]
        table.add_row(Text(f"{item.scenario}, {metric.short_label}", style="bold"))
        for arm, moved in (("off", item.off), ("on", item.on)):
            ends = (units.value_text(value, metric.unit) for value in (moved.before, moved.after))
            table.add_row(*map(Text, (f" {arm}", *ends, _moved(moved))))
        ratios = (units.change_text(value - 1) for value in (item.benefit.before, item.benefit.after))
        table.add_row(*map(Text, (" on against off", *ratios, _moved(item.benefit))))
    return [
        Text(change.title, style="bold"),
        *(Padding(Text(clean(line)), (0, 0, 0, 2)) for line in change_lines(change)),
        table,
        Text(change_legend(change), style="dim"),
    ]


def _moved(moved: Moved) -> str:
    return units.change_with_interval(moved.change, moved.low, moved.high)


def change_lines(change: ChangeView) -> list[str]:
    """Return what differs between the two runs, a line for Cilium and one for everything else that is recorded."""
    lines = [f"Cilium: {'; '.join(change.cilium) or 'the same'}"]
    if change.others:
        lines.append(
            f"{'not only Cilium has' if change.cilium else 'what has'} changed: {'; '.join(change.others)}"
        )
    elif not change.cilium:
        lines.append("nothing else that is recorded has changed")
    return lines


def change_legend(change: ChangeView) -> str:
    """Return what the intervals of a comparison with an earlier run come from."""
    if not change.has_intervals:
        return (
            f"change: after against before, one run each. Without {change.min_runs} runs before the change nobody "
            f"knows how much two runs differ by chance, so there is no interval. {TWO_GAINS}"
        )
    runs = _range(item.runs for item in change.scenarios if item.off.low is not None)
    return (
        f"change: after against before, one run each, with its {change.level * 100:g} % interval from how much "
        f"neighbouring runs before the change differ ({runs} runs). Of so many "
        f"some miss zero by chance; the headline counts what all of them together leave beyond it. {TWO_GAINS}"
    )


def _range(numbers: Iterable[int | None]) -> str:
    found = sorted({number for number in numbers if number is not None})
    if not found:
        return units.MISSING
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _share_of(view: RunView, name: str) -> str:
    """Return the share called ``name`` that the first comparison which has one was judged by, in per cent."""
    shares = (getattr(comparison, name) for comparison in view.judged)
    share = next((value for value in shares if value is not None), None)
    return units.MISSING if share is None else f"{share * 100:g} %"


def _proof_table(proofs: Sequence[Proof], order: Sequence[str]) -> Table:
    table = _table("scenario")
    for name in ("off sender", "off receiver", "on sender", "on receiver"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("effect")
    for scenario, group in itertools.groupby(proofs, key=lambda proof: proof.scenario):
        arms = {proof.arm: proof for proof in group}
        cells = [
            units.value_text(end, "B")
            for arm in (arms.get("off"), arms.get("on"))
            for end in ((arm.sender_b, arm.receiver_b) if arm else (None, None))
        ]
        text, style = effect_text(list(arms.values()), order)
        table.add_row(Text(scenario), *map(Text, cells), Text(text, style=style))
    return table


def effect_text(arms: Sequence[Proof], order: Sequence[str]) -> tuple[str, str]:
    """Return whether each arm of ``order`` did as intended in one scenario, in words, and their style."""
    if not any(proof.required for proof in arms):
        return "not judged", ""
    if wrong := [proof.arm for proof in arms if not proof.as_intended]:
        return f"NOT PROVEN: {', '.join(wrong)}", "bold red"
    measured = {proof.arm for proof in arms}
    missing = [arm for arm in dict.fromkeys(order) if arm not in measured]
    return (f"not measured: {', '.join(missing)}", "") if missing else ("proven", "green")


def _table(first: str, gap: int = 2) -> Table:
    table = bare_table(gap)
    table.add_column(first, no_wrap=True)
    return table


def _control_line(view: RunView) -> str:
    if view.control is None:
        return ""
    usual = f" (usual {units.value_text(view.control.usual, '1/s')})" if view.control.usual is not None else ""
    return f"{units.value_text(view.control.value, '1/s')} between the nodes themselves{usual}"


def _time_line(view: RunView) -> str:
    if view.started is None:
        return ""
    start = f"started {view.started:%Y-%m-%d %H:%M:%S %Z}".rstrip()
    wall = f", took {units.duration(view.wall_time_s)}" if view.wall_time_s is not None else ""
    share = "of traffic so far" if view.status == "running" else "of it traffic"
    measuring = f", {units.duration(view.measuring_time_s)} {share}" if view.measuring_time_s else ""
    return f"{start}{wall}{measuring}"


def _restore_line(view: RunView) -> str:
    detail = clean(view.restore.detail)
    state = RESTORE_WORDS[view.restore.state]
    line = f"{state}: {detail}" if detail else state
    if view.restore_failed:
        line += f"; {RESTORE_ADVICE}"
    return line
