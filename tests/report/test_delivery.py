from datetime import UTC, datetime, timedelta

import pytest

from bigtcp_bench.report.delivery import deliver
from bigtcp_bench.report.slack import run_message, slack_client
from bigtcp_bench.warehouse import outbox
from bigtcp_bench.warehouse.store import Warehouse
from tests.report.views import run_view
from tests.support.slack_server import SlackServer


@pytest.fixture
def warehouse(tmp_path):
    found = Warehouse(f"sqlite:///{tmp_path}/warehouse.db")
    found.migrate()
    return found


def test_a_message_that_cannot_be_sent_waits_for_the_next_run(warehouse, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    first, second = (run_message(run_view(cluster=name)) for name in ("first", "second"))
    with SlackServer() as server:
        refused = slack_client("xoxb-wrong", server.base_url, timeout_s=5)
        for _ in range(2):
            assert not deliver(warehouse, refused, "C0BENCH", "run 1", first).sent
        assert server.messages == []
        client = slack_client(server.token, server.base_url, timeout_s=5)
        assert deliver(warehouse, client, "C0BENCH", "run 2", second).sent
        assert [message["text"].split(":")[0] for message in server.messages] == ["second"]
        # The failed attempt has earned a pause; after it the message goes out, once.
        later = datetime.now(UTC) + timedelta(hours=1)
        claim = outbox.claim
        monkeypatch.setattr(outbox, "claim", lambda store: claim(store, now=later))
        for _ in range(2):
            assert deliver(warehouse, client, "C0BENCH", "run 3", second).sent
        names = [message["text"].split(":")[0] for message in server.messages]
    assert names == ["second", "first", "second", "second"]
