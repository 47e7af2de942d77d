"""Stored runs as anything may have left them: rows of other versions, missing arms, figures at the edges."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import load_plan
from bigtcp_bench.readings.frames import packed
from bigtcp_bench.warehouse import incidents
from bigtcp_bench.warehouse.store import Warehouse

BEGAN = datetime(2026, 3, 1, 2, tzinfo=UTC)
#: An example is a whole warehouse, and every way of telling it is gone: few of them, and none is made smaller.
SEARCH = settings(
    max_examples=4,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
RUN = {"cluster": "lab", "dag_id": "bigtcp_benchmark", "run_id": "scheduled__1"}

#: Of this version, of another one that knew other scenarios, and none.
SCENARIO = st.sampled_from(["ipv4-stream-1", "ipv6-rr", "ipv6-rate", "host-control", "ipv4-stream-1@same-node"])
METRIC = st.sampled_from(list(METRICS))
NUMBER = st.one_of(
    st.sampled_from([0.0, -1.0, 1.0, 1e-320, 1e308, -1e308, 65_536.0, 2.5e10]), st.floats(-1e12, 1e12)
)
MAYBE = st.one_of(st.none(), NUMBER)
ARM = st.sampled_from(["off", "on"])
BLOCK = st.integers(1, 4)
TEXT = st.sampled_from(["", "x", "\x1b[31mred", "<b>", "a\nb", "ü" * 300, "%s {0}"])
NAME = st.sampled_from(["node1", "<b>", "ü", "a b"])

#: What any place of a JSON column may hold, whoever has written it there.
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-1, 2**40), st.floats(-9, 9), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(NAME, inner, max_size=2)),
    max_leaves=4,
)


def changed(document: Any) -> st.SearchStrategy[Any]:
    """Return ``document``, with something else in one of its places: at its root, or however deep in it."""
    return st.tuples(st.sampled_from(_places(document)), JSON).map(lambda one: _replaced(document, *one))


def _places(document: Any) -> list[tuple[Any, ...]]:
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    return [(), *((key, *rest) for key in keys for rest in _places(document[key]))]


def _replaced(document: Any, place: tuple[Any, ...], other: Any) -> Any:
    if not place:
        return other
    copied = document.copy()
    copied[place[0]] = _replaced(document[place[0]], place[1:], other)
    return copied


PROOF = {
    "wanted": {"ipv4": False, "ipv6": None},
    "merged": {"ipv4": True, "ipv6": True},
    "max_gso": {"ipv4": 196_608},
    "limits": {"eth0": {"gso_max_size": 65_536, "gro_max_size": None}},
}
NODE = {"name": "node1", "os_image": "Debian", "cpu": 2.0, "memory_bytes": 2**33, "zone": ""}
#: Table and column → a document as this version stores it.
DOCUMENTS: dict[tuple[str, str], Any] = {
    ("run", "reasons"): ["x", "y"],
    ("run", "plan"): load_plan("quick").model_dump(mode="json"),
    ("run", "cilium_config"): {"enable-ipv4": "true", "mtu": None},
    ("run", "images"): {"cilium": "c:1", "cilium_ids": ["a"]},
    ("run", "tool_versions"): {"iperf3": "iperf 3.12", "python": "3.11"},
    ("run", "environment"): {
        "emulated": True,
        "generated": False,
        "kubernetes_version": "v1.36",
        "cluster_uid": "u",
        "pair": {"client": NODE, "server": NODE},
        "tso_max_size": {"node1": {"eth0": 65_536}},
        "busy_cpus": {"node1": 0.5},
    },
    ("run", "checks"): [{"name": "kernel", "node": "", "status": "fail", "found": "5.4", "advice": "newer"}],
    ("run", "restore_result"): {"state": "verified", "detail": "x", "nodes": {"node1": PROOF}},
    ("block", "switch_report"): {"restarted": True, "nodes": {"node1": PROOF}},
    ("comparison", "reasons"): ["x"],
    ("diagnosis", "explains"): ["steal"],
    ("diagnosis", "figures"): {"share": 0.5},
    ("outbox", "payload"): {
        "message": {"lines": [{"text": "x"}]},
        "broadcast": True,
        "told": {"state": "regression", "acknowledged": True, "changes": {"ipv6-rr latency_p50_us": -0.2}},
    },
    ("judgement", "details"): {
        "nights": 3,
        "event": "worse",
        "mark": "m",
        "carried": "c",
        "epoch": {"mtu": ["1500", "9000"]},
        "coincides_with": {"mtu": ["1500", None]},
        "plan_changed": {"on": "2026-03-01", "terms": {"image": ["a", "b"]}},
        "rerun": {"pairs": [[1.0, 2.0]], "reasons": ["x"]},
    },
}
#: For any of these columns, what stands in all its rows instead of what was stored through the warehouse's door.
WRITTEN_OVER = st.fixed_dictionaries({}, optional={key: changed(one) for key, one in DOCUMENTS.items()})

PLAN = DOCUMENTS["run", "plan"]
PLANS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.just("nightly"),
            "scenarios": st.lists(SCENARIO, max_size=3, unique=True),
            "order": st.sampled_from([["off", "on", "off"], ["off", "off"], ["on"], []]),
            "duration_s": st.sampled_from([3, 0, None]),
            "thresholds": st.sampled_from(
                [{}, None, {"margin": 0.05}, {"margin": -4}, {"a_threshold_of_another_version": 1}]
            ),
            "a_field_of_another_version": st.just(1),
        },
    ),
    st.just(PLAN),
)
RESTORE = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"state": st.sampled_from(["verified", "not_verified", "not_needed"])},
        optional={"detail": TEXT, "nodes": st.sampled_from([{}, {"node1": {}}, {"node1": {"wanted": None}}])},
    ),
)
COLUMNS = st.fixed_dictionaries(
    {"plan": PLANS, "restore_result": RESTORE},
    optional={
        "finished_at": st.just(BEGAN - timedelta(hours=1)),
        "note": TEXT,
        "client_node": TEXT,
        "server_node": TEXT,
        "trigger": st.sampled_from(["manual", "scheduled"]),
        "cilium_version": TEXT,
        "images": st.sampled_from([None, {}, {"cilium": "c:1"}]),
        "cilium_config": st.sampled_from([None, {}, {"a": "b"}]),
        "environment": st.sampled_from([None, {}, {"emulated": True}, {"pair": {"client": {"cpu": 2}}}]),
        "checks": st.sampled_from([None, [], [{"name": "kernel", "node": "", "status": "fail", "found": "x"}]]),
    },
)
PLACE = {"block": BLOCK, "arm": ARM}
REPETITION = PLACE | {"generation": st.integers(1, 2), "scenario": SCENARIO, "repetition": st.integers(1, 2)}
SHARE = st.one_of(st.none(), st.floats(-1, 20))
TABLES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "store_results": REPETITION | {"metric": METRIC, "value": NUMBER},
    "store_failures": REPETITION | {"reason": TEXT},
    "store_counters": PLACE
    | {"node": NAME, "counter": st.sampled_from(["cpu/user_s", "a_errors"]), "value": NUMBER},
    "store_packet_sizes": PLACE
    | {
        "family": st.sampled_from(["ipv4", "ipv6"]),
        "end": st.sampled_from(["sender", "receiver"]),
        "direction": st.sampled_from(["sent", "received"]),
        "upper_bytes": st.sampled_from([64, 1_500, 65_536, 196_608]),
        "packets": st.sampled_from([0, 1, 2**40]),
        "bytes": st.sampled_from([0, 1, 2**50]),
    },
    "store_comparisons": {
        "metric": METRIC,
        "scenario": SCENARIO,
        "verdict": st.sampled_from(["faster", "slower", "equivalent", "inconclusive", "invalid", "evidence"]),
        "off_median": MAYBE,
        "on_median": MAYBE,
        "change": SHARE,
        "ci_low": SHARE,
        "ci_high": SHARE,
        "level": st.sampled_from([None, 0.95]),
        "margin": st.sampled_from([None, 0.05]),
        "n_off": st.sampled_from([None, 0, 4]),
        "n_on": st.sampled_from([None, 4]),
        "smallest_detectable_change": SHARE,
        "reasons": st.lists(TEXT, max_size=2),
    },
    "store_judgements": {
        "metric": METRIC,
        "scenario": SCENARIO,
        "state": st.sampled_from(["learning", "steady", "suspect", "regression", "recovered"]),
        "change": SHARE,
        "since": st.sampled_from([None, "2026-02-01"]),
        "attribution": st.sampled_from([None, "big-tcp", "a cause of another version"]),
        "details": st.sampled_from([None, {}, {"nights": 3, "rerun": {"pairs": [], "reasons": ["x"]}}]),
    },
    "store_diagnosis": {
        "position": st.integers(1, 2),
        "cause": st.sampled_from(["steal", "a cause of another version"]),
        "scenario": st.one_of(st.none(), SCENARIO),
        "arm": st.one_of(st.none(), ARM),
        "node": st.one_of(st.none(), NAME),
        "sentence": TEXT,
        "strength": st.floats(0, 1),
        "figures": st.just({}),
    },
    "store_raw": {
        "block": BLOCK,
        "generation": st.integers(0, 1),
        "kind": st.sampled_from(["repetition", "../x"]),
        "document": st.sampled_from([b"", b"x", packed({}), packed({})[:-3], packed({"a": [[]]})]),
    },
    "store_noise": {
        "metric": METRIC,
        "scenario": SCENARIO,
        "level": st.sampled_from(["repetition", "generation", "switch"]),
        "sd": st.sampled_from([0.0, 0.01, 40.0]),
        "n": st.sampled_from([None, 0, 3]),
    },
}
BLOCKS = st.lists(
    st.fixed_dictionaries(
        {"block": BLOCK, "arm": ARM, "purpose": st.sampled_from(["plan", "rerun"])},
        optional={
            "started_at": st.just(BEGAN),
            "finished_at": st.just(BEGAN),
            "switch_report": st.sampled_from([{}, {"nodes": {}}, {"nodes": {"node1": {}}}, {"restarted": True}]),
        },
    ),
    max_size=4,
)
ATTEMPT = st.fixed_dictionaries(
    {
        "columns": COLUMNS,
        "status": st.sampled_from(["running", "valid", "invalid", "failed"]),
        "reasons": st.lists(TEXT, max_size=2),
        "blocks": BLOCKS,
        "rows": st.fixed_dictionaries(
            {name: st.lists(st.fixed_dictionaries(fields), max_size=6) for name, fields in TABLES.items()}
        ),
        "written_over": WRITTEN_OVER,
    }
)


#: The last one is the run itself; those before it are an earlier attempt of it, and the run of the night before.
HISTORIES = st.lists(ATTEMPT, min_size=1, max_size=3)


def _store(warehouse: Warehouse, attempt: dict[str, Any], **more: Any) -> int:
    number = warehouse.start_run(RUN | {"started_at": BEGAN} | attempt["columns"] | more)
    for block in attempt["blocks"]:
        warehouse.store_block(number, block)
    for name, rows in attempt["rows"].items():
        getattr(warehouse, name)(number, rows)
    # Whatever there is, the run has ended, so that the next attempt is one.
    warehouse.update_run(number, status=attempt["status"], reasons=attempt["reasons"])
    _write_over(warehouse, number, attempt["written_over"])
    return number


def _write_over(warehouse: Warehouse, number: int, documents: dict[tuple[str, str], Any]) -> None:
    with warehouse.engine.begin() as connection:
        for (table, column), document in documents.items():
            key = "id" if table == "run" else "run_id"
            statement = sa.text(f"UPDATE bigtcp_{table} SET {column} = :document WHERE {key} = :number")
            connection.execute(statement, {"document": json.dumps(document), "number": number})


def _store_incident(warehouse: Warehouse, attempt: dict[str, Any]) -> None:
    """Store the incident that the run's judgements are of, if they are of any."""
    members = {
        (row["scenario"], row["metric"]): {
            **{name: row[name] for name in ("scenario", "metric", "change")},
            **{"confirmed": True, "first_seen": "2026-03-01", "last_seen": "2026-03-01"},
        }
        for row in attempt["rows"].get("store_judgements", [])
        if row["state"] == "regression"
    }
    if members:
        night = {"changed_on": "2026-03-01", "suspected_on": "2026-03-01"}
        story = {"uid": "one", "cluster": "lab", "state": "regression", "attribution": "big-tcp", **night}
        incidents.revise(warehouse, "lab", lambda _: [story | {"members": list(members.values())}])


@contextmanager
def filled(migrated: Path, folder: Path, history: list[dict[str, Any]]) -> Iterator[tuple[Warehouse, list[int]]]:
    """Lend a copy of the empty warehouse ``migrated`` that holds ``history``, and the numbers of its runs."""
    path = shutil.copy(migrated, folder / "warehouse.db")
    warehouse = Warehouse(f"sqlite:///{path}")
    places: list[dict[str, Any]] = [
        {"run_id": "scheduled__0", "started_at": BEGAN - timedelta(days=1)},
        *[{"started_at": BEGAN - timedelta(hours=1)}, {}],
    ]
    try:
        numbers = [
            _store(warehouse, attempt, **place)
            for attempt, place in zip(history, places[-len(history) :], strict=True)
        ]
        _store_incident(warehouse, history[-1])
        yield warehouse, numbers
    finally:
        warehouse.engine.dispose()
        shutil.rmtree(folder)
