"""What a metric may say of itself."""

from __future__ import annotations

import pytest

from bigtcp_bench.in_cluster.kind import Metric


def test_what_is_better_neither_way_is_not_judged() -> None:
    assert not Metric("packets", "1", "neither", "packets", judged=False).judged
    with pytest.raises(ValueError, match="metric packets: better is 'neither', so judged must be False"):
        Metric("packets", "1", "neither", "packets")
