"""The connection to Prometheus: what it may hold, and that nothing secret is repeated."""

from __future__ import annotations

import json

import pytest

from bigtcp_bench.airflow import connections
from bigtcp_bench.errors import PreconditionFailed


def connected(monkeypatch, **parts):
    text = parts.pop("text", None) or json.dumps({"conn_type": "http", **parts})
    monkeypatch.setenv("AIRFLOW_CONN_BIGTCP_PROMETHEUS", text)
    return connections.prometheus_settings()


def test_without_a_connection_there_are_no_settings():
    assert connections.prometheus_settings() is None


@pytest.mark.parametrize(
    ("parts", "url"),
    [
        ({"text": "http://prometheus:9090"}, "http://prometheus:9090"),
        ({"text": "https://prometheus.example.org"}, "https://prometheus.example.org"),
        ({"host": "prometheus", "port": 9090}, "http://prometheus:9090"),
        ({"host": "prometheus", "schema": "https"}, "https://prometheus"),
        ({"host": "https://example.org/prometheus/"}, "https://example.org/prometheus"),
    ],
)
def test_addresses(monkeypatch, parts, url):
    assert connected(monkeypatch, **parts).url == url


def test_everything_that_may_be_said(monkeypatch, tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("x")
    extra = {"scrape_interval_s": 15, "node_label": "node", "cluster_label": "cluster", "timeout_s": 5}
    extra |= {"verify": False, "ca_file": str(file), "cert_file": str(file), "key_file": str(file)}
    found = connected(monkeypatch, host="https://p", login="ann", password="s3cret", extra=extra)
    assert (found.login, found.password.get_secret_value(), found.window_s) == ("ann", "s3cret", 60)
    assert (found.node_label, found.cluster_label, found.verify, found.ca_file) == ("node", "cluster", False, file)
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, "needs the address of Prometheus as host"),
        ({"host": "ftp://prometheus"}, "needs the address"),
        ({"host": "https://ann:s3cret@prometheus"}, "without login and password"),
        ({"host": "https://prometheus?token=s3cret"}, "needs the address"),
        ({"host": "https://prometheus:99999"}, "needs the address"),
        ({"host": "p", "extra": {"token": "s3cret"}}, "'token' in its extra is not known; allowed are ca_file"),
        ({"host": "p", "extra": {"url": "http://s3cret"}}, "'url' in its extra is not known"),
        ({"host": "p", "login": "ann"}, "has a login and no password"),
        ({"host": "p", "extra": {"scrape_interval_s": 0}}, "scrape_interval_s = 0"),
        ({"host": "p", "extra": {"node_label": 'x"'}}, "node_label = 'x\"'"),
        ({"host": "p", "extra": {"ca_file": "/nowhere"}}, "ca_file must be a file, and /nowhere is none"),
        ({"host": "p", "extra": {"key_file": "/dev/null"}}, "key_file must be a file"),
    ],
)
def test_what_is_wrong_is_one_sentence_without_a_secret(monkeypatch, parts, words):
    with pytest.raises(PreconditionFailed) as caught:
        connected(monkeypatch, **parts)
    assert words in str(caught.value)
    assert "bigtcp_prometheus" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)
