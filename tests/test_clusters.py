"""Which connections have a DAG of their own, and what it is called."""

from __future__ import annotations

import pytest

from bigtcp_bench import clusters
from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.settings import CLUSTERS


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, ("kubernetes_default",)),
        (" , ", ("kubernetes_default",)),
        ("prod", ("prod",)),
        ("prod, stage-2,prod", ("prod", "stage-2")),
    ],
)
def test_what_is_configured(text: str | None, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    if text is None:
        monkeypatch.delenv(CLUSTERS.name, raising=False)
    else:
        monkeypatch.setenv(CLUSTERS.name, text)
    assert clusters.configured() == names
    assert clusters.dag_id_of(names[0]) == "bigtcp_benchmark"


def test_the_dag_of_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLUSTERS.name, "prod,stage")
    found = {name: clusters.dag_id_of(name) for name in ("prod", "stage", "another")}
    assert found == {
        "prod": "bigtcp_benchmark",
        "stage": "bigtcp_benchmark_stage",
        "another": "bigtcp_benchmark",
    }


def test_what_no_connection_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLUSTERS.name, "a,b c")
    with pytest.raises(InvalidInput, match="'b c' is no connection id"):
        clusters.configured()
