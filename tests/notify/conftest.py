"""What tests of messages share: a Slack server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.slack_server import SlackServer


@pytest.fixture
def server() -> Iterator[SlackServer]:
    with SlackServer() as running:
        yield running
