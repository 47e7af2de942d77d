"""What may stand in the connection to Slack, and the one sentence for each mistake."""

from __future__ import annotations

from typing import Any

import pytest

from bigtcp_bench.errors import PreconditionFailed
from bigtcp_bench.notify.slack.settings import ClusterSettings, slack_settings

TOKEN = "xoxb-123-secret"


def settings(**extra: Any):
    return slack_settings(TOKEN, {"channel": "C0BENCH"} | extra, "the connection")


def test_what_is_not_said_has_a_default():
    found = settings()
    assert found.of("lab") == ClusterSettings(
        channel="C0BENCH", mention="@channel", min_severity="invalid", digest="off"
    )
    assert (found.timeout, found.base_url, found.proxy) == (10, None, None)
    assert "secret" not in repr(found)


def test_each_cluster_may_differ():
    found = settings(
        mention="U123",
        digest="weekly",
        clusters={"prod": {"channel": "C0PROD", "min_severity": "suspect", "mention": ""}},
    )
    assert found.of("lab") == ClusterSettings(channel="C0BENCH", mention="<@U123>", digest="weekly")
    assert found.of("prod") == ClusterSettings(
        channel="C0PROD", mention="", min_severity="suspect", digest="weekly"
    )


def test_a_cluster_may_be_told_alone():
    found = settings(channel=None, clusters={"prod": {"channel": "C0PROD"}})
    assert (found.of("lab").channel, found.of("prod").channel) == (None, "C0PROD")


def test_the_empty_fields_of_a_form_are_not_set():
    assert settings(timeout=None, base_url="", proxy="") == settings()
    assert settings(timeout="20").timeout == 20


@pytest.mark.parametrize(
    ("written", "markup"),
    [
        ("@channel", "<!channel>"),
        ("@here U0123456789, S0123", "<!here> <@U0123456789> <!subteam^S0123>"),
        ("<@W12> <!subteam^S12>", "<@W12> <!subteam^S12>"),
        ("", ""),
    ],
)
def test_mentions_are_written_as_people_write_them(written, markup):
    assert settings(mention=written).mention == markup


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (
            {"channel": "#bench"},
            "the connection: channel = '#bench': must be the id of a channel, such as C0123456789",
        ),
        ({"channel": 7}, "channel = 7: must be the id of a channel"),
        ({"channel": None}, "the connection has no channel: it needs a bot token as password and"),
        ({"mention": "ann"}, "mention = 'ann': must be empty, or of @channel, @here, ids of users"),
        ({"mention": "<http://evil>"}, "mention = '<http://evil>': must be empty"),
        ({"min_severity": "low"}, "min_severity = 'low': Input should be 'regression', 'invalid' or 'suspect'"),
        ({"digest": "daily"}, "digest = 'daily': Input should be 'off' or 'weekly'"),
        ({"chanel": "C1"}, "chanel = 'C1': is not a known field"),
        ({"clusters": ["prod"]}, "clusters = ['prod']: Input should be a valid dictionary"),
        ({"clusters": {"prod": {"channel": "prod"}}}, "clusters.prod.channel = 'prod': must be the id"),
        ({"clusters": {"prod": {"timeout": 5}}}, "clusters.prod.timeout = 5: is not a known field"),
        ({"timeout": 60}, "timeout = 60: Input should be less than or equal to 20"),
        ({"base_url": "slack.com"}, "base_url = 'slack.com': must be a URL that begins with http"),
    ],
)
def test_a_mistake_is_one_sentence(extra, sentence):
    with pytest.raises(PreconditionFailed) as refusal:
        settings(**extra)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "extra",
    [
        {"token": TOKEN},
        {"channel": TOKEN},
        {"clusters": {"prod": {"channel": f"C1 {TOKEN}"}}},
        {"proxy": f"ann:{TOKEN}@proxy:80"},
        {"proxy": "ann:secret@proxy:80"},
    ],
)
def test_no_mistake_shows_a_secret(extra):
    with pytest.raises(PreconditionFailed) as refusal:
        settings(**extra)
    assert "secret" not in str(refusal.value)


def test_a_connection_without_a_token():
    with pytest.raises(PreconditionFailed, match="the connection has no token: it needs a bot token as password"):
        slack_settings("", {"channel": "C1"}, "the connection")
