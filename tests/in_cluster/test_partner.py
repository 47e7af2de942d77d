"""The server as its client sees it."""

from __future__ import annotations

import pytest

from bigtcp_bench.in_cluster import partner
from bigtcp_bench.in_cluster.output import CannotStart


def test_an_unreachable_server_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partner, "CONNECT_DEADLINE_S", 0.5)
    with pytest.raises(CannotStart, match=r"did not answer within 0\.5 s: cannot reach 127\.0\.0\.1 port 9 "):
        partner.Partner({"ipv4": "127.0.0.1"}, 9).wait()
