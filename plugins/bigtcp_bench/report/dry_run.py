"""What a run would do, as text: blocks, objects in order, how long, which rights, and the objects themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bigtcp_bench.cluster.checks import counted
from bigtcp_bench.report import units
from bigtcp_bench.report.plain import bare_table, plain, print_wide
from bigtcp_bench.warehouse.output import rounded

if TYPE_CHECKING:
    from bigtcp_bench.measuring.dry_run import Act, Outline
    from bigtcp_bench.planning.duration import Estimate

#: In manifests longer texts, such as the source of the pods' script, are left out.
LONGEST_TEXT = 400


def print_outline(outline: Outline, console: Console | None = None, *, manifests: bool = True) -> None:
    """Print the outline on a terminal, coloured only when it is one."""
    console = console or Console()
    print_wide(_rendered(outline), console)
    if manifests:
        # Not by rich, which would fold long lines: these are for kubectl and diff.
        console.file.write(f"\n{manifests_text(outline)}")


def outline_text(outline: Outline) -> str:
    """Return the outline as plain text, with the manifests."""
    return f"{plain(_rendered(outline))}\n\n{manifests_text(outline)}"


def outline_object(outline: Outline, *, manifests: bool = True) -> dict[str, Any]:
    """Return the outline for programs; the objects that would be sent are whole, in the act that sends them."""
    acts = [asdict(act) for act in outline.acts]
    for act in () if manifests else acts:
        del act["manifests"]
    return {
        "plan": outline.plan.model_dump(mode="json"),
        "client_node": outline.pair.client.name,
        "server_node": outline.pair.server.name,
        "cilium_version": outline.cilium.version_text,
        "blocks": [asdict(told) | {"block": told.block.model_dump()} for told in outline.blocks],
        "reruns": outline.reruns,
        "acts": acts,
        "duration": _seconds(outline.duration),
        "again": _seconds(outline.again) if outline.again else None,
        "rights": [asdict(right) for right in outline.rights],
        "lacking": [asdict(right) for right in outline.lacking],
        "checks": [check.to_dict() for check in outline.checks],
        "unknown": outline.unknown,
    }


def _seconds(estimate: Estimate) -> dict[str, float]:
    return {"quick_s": rounded(estimate.quick_s), "slow_s": rounded(estimate.slow_s)}


def manifests_text(outline: Outline) -> str:
    """Return every different object that would be sent, as YAML documents; pods that are alike are one."""
    # Much faster where PyYAML was built with libyaml, as its wheels are.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    seen: list[dict[str, Any]] = []
    documents = []
    for act in outline.acts:
        for manifest in act.manifests:
            if manifest not in seen:
                seen.append(manifest)
                text = yaml.dump(_shortened(manifest), Dumper=dumper, sort_keys=False, width=110)
                documents.append(f"---\n# {act.task}: {act.verb} {act.what}\n{text}")
    return "".join(documents)


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"({len(value):,} characters of this package)"
    return value


def _rendered(outline: Outline) -> RenderableType:
    plan, (client, server) = outline.plan, outline.pair.names
    head = f"Dry run of plan {plan.name}: nothing is created, changed or deleted."
    parts: list[RenderableType] = [
        Text(head, style="bold"),
        Text(
            f"{client} sends, {server} receives; scope {plan.scope}; Cilium {outline.cilium.version_text}; "
            f"scenarios {', '.join(plan.scenarios)}"
        ),
        Text("\nblocks", style="bold"),
        _indented(_blocks(outline)),
        Text("\nwhat a run would do, in order", style="bold"),
        _acts(outline.acts),
        Text("\nhow long", style="bold"),
        _indented(_duration(outline)),
        Text("\nrights", style="bold"),
        _indented(_rights(outline)),
        Text("\nchecks that need no pod", style="bold"),
        _indented(_checks(outline)),
        Text("\nunknown until pods have looked", style="bold"),
        _indented([f"{outline.unknown}: bigtcp-bench check looks, with four short-lived pods"]),
    ]
    return Group(*parts)


def _indented(lines: list[str]) -> RenderableType:
    return Group(*(Padding(Text(line), (0, 0, 0, 2)) for line in lines))


def _blocks(outline: Outline) -> list[str]:
    from bigtcp_bench.planning.plan import turns

    lines = []
    for told in outline.blocks:
        block = told.block
        if told.rolls:
            restarted = "all agents restart in turn"
        elif told.restarts:
            restarted = f"agents restart on {' and '.join(told.restarts)}"
        else:
            restarted = "no restart where the devices agree: the settings are in force already"
        count = len(turns(block, outline.plan.scenarios))
        pairs = f"{count} fresh pod pair{'s' if count > 1 else ''}"
        lines.append(f"{block.number}. {block.arm}: {', '.join(told.tasks)}; {pairs}; {restarted}")
    if outline.reruns:
        precise = outline.plan.precision
        known = f" or not known to ±{100 * precise:g} %" if precise else ""
        lines.append(
            f"Where a scenario is far off what is usual{known}: {', '.join(outline.reruns)} measure it again, "
            "with switches and pods as above."
        )
    return lines


def _acts(acts: list[Act]) -> Table:
    table = bare_table()
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    last = ""
    for act in acts:
        if act.task != last:
            table.add_row(Text(act.task, style="bold"), "")
        last = act.task
        times = f"{act.count} × " if act.count > 1 else ""
        table.add_row(f"  {act.verb}", Text(f"{times}{act.what}{f': {act.note}' if act.note else ''}"))
    return table


def _duration(outline: Outline) -> list[str]:
    estimate, again = outline.duration, outline.again
    lines = [f"{_range(estimate.quick_s, estimate.slow_s)} from the first task to the last, without waiting"]
    if again:
        lines.append(f"up to {_range(again.quick_s, again.slow_s)} more where scenarios are measured again")
    return lines + [f"{part.name}: {_range(part.quick_s, part.slow_s)}" for part in estimate.parts]


def _range(quick_s: float, slow_s: float) -> str:
    quick, slow = units.duration(quick_s), units.duration(slow_s)
    return quick if quick == slow else f"{quick} to {slow}"


def _rights(outline: Outline) -> list[str]:
    by_place: dict[str, list[str]] = {}
    for right in outline.rights:
        place = f"in namespace {right.namespace}" if right.namespace else "in the whole cluster"
        by_place.setdefault(place, []).append(
            f"{right.verb} {right.resource}{f' {right.name}' if right.name else ''}"
        )
    lines = [f"{place}: {', '.join(_together(names))}" for place, names in by_place.items()]
    if outline.lacking:
        lacking = ", ".join(str(right) for right in outline.lacking)
        lines.append(f"The account in use lacks: {lacking}.")
    else:
        lines.append("The account in use has all of them.")
    return lines


def _together(names: list[str]) -> Iterator[str]:
    """Yield ``get, list pods`` for ``get pods`` and ``list pods``."""
    verbs: dict[str, list[str]] = {}
    for name in names:
        verb, _, resource = name.partition(" ")
        verbs.setdefault(resource, []).append(verb)
    for resource, found in verbs.items():
        yield f"{'/'.join(found)} {resource}"


def _checks(outline: Outline) -> list[str]:
    return [counted(outline.checks), *(str(check) for check in outline.checks if check.status != "pass")]
