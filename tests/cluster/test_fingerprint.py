from __future__ import annotations

import re

import pytest

from bigtcp_bench.cluster.fingerprint import (
    DATAPATH_KEYS,
    NOTE_LENGTH,
    Fingerprint,
    datapath_config,
    note,
    run_id,
)

OLD, NEW = "quay.io/cilium/cilium:v1.18.3@sha256:aa", "quay.io/cilium/cilium:v1.18.4@sha256:bb"


def fingerprint(image: str = OLD, **config: str) -> Fingerprint:
    settings = {"routing-mode": "native", **{key.replace("_", "-"): value for key, value in config.items()}}
    return Fingerprint(image, datapath_config(settings))


def texts(before: Fingerprint, after: Fingerprint) -> list[str]:
    return [str(item) for item in before.differences(after)]


def test_another_image_and_another_setting_are_differences():
    assert texts(fingerprint(), fingerprint()) == []
    assert texts(fingerprint(), fingerprint(NEW)) == [
        "image quay.io/cilium/cilium:v1.18.3 → quay.io/cilium/cilium:v1.18.4"
    ]
    assert texts(fingerprint(), fingerprint(routing_mode="tunnel", enable_wireguard="true")) == [
        "enable-wireguard not set → true",
        "routing-mode native → tunnel",
    ]


def test_the_same_tag_built_anew_is_a_difference():
    assert texts(fingerprint("a/cilium:dev@sha256:1"), fingerprint("a/cilium:dev@sha256:2")) == [
        "image a/cilium:dev@sha256:1 → a/cilium:dev@sha256:2"
    ]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_big_tcp_itself_is_no_difference(family):
    switched = fingerprint(**{f"enable-{family}-big-tcp": "true"})
    assert texts(fingerprint(**{f"enable-{family}-big-tcp": "false"}), switched) == []
    assert texts(fingerprint(), switched) == []
    assert run_id("lab", "a/1", fingerprint()) == run_id("lab", "a/1", switched)


def test_what_does_not_concern_packets_is_not_looked_at():
    assert "debug" not in datapath_config({"debug": "true"})
    assert datapath_config({}) == dict.fromkeys(DATAPATH_KEYS)


def test_a_key_that_an_older_package_did_not_record_is_no_difference():
    known = {"images": {"cilium": OLD}, "cilium_config": {"routing-mode": "native"}}
    recorded = Fingerprint.of_row(known)
    assert recorded is not None
    assert texts(recorded, fingerprint(mtu="9000")) == []
    assert texts(recorded, fingerprint(routing_mode="tunnel")) == ["routing-mode native → tunnel"]


def test_a_run_that_ended_early_recorded_nothing():
    assert Fingerprint.of_row({"images": None, "cilium_config": None}) is None
    assert Fingerprint.of_row({"images": {}, "cilium_config": {}}) is None


def test_one_change_has_one_run_id_and_the_next_another():
    first = run_id("prod eu/1", "bigtcp_benchmark/night 7", fingerprint(NEW))
    assert first == run_id("prod eu/1", "bigtcp_benchmark/night 7", fingerprint(NEW))
    # What Airflow takes as the id of a run.
    assert re.fullmatch(r"upgrade__prod-eu-1__[0-9a-f]{12}", first)
    others = {
        run_id("prod", "bigtcp_benchmark/night 7", fingerprint(NEW)),
        run_id("prod eu/1", "bigtcp_benchmark/night 9", fingerprint(NEW)),
        run_id("prod eu/1", "bigtcp_benchmark/night 7", fingerprint(OLD)),
        run_id("prod eu/1", "bigtcp_benchmark/night 7", fingerprint(NEW, mtu="9000")),
    }
    assert len(others | {first}) == 5


def test_the_note_fits_into_the_form():
    changes = fingerprint().differences(fingerprint(NEW, **dict.fromkeys(DATAPATH_KEYS, "x" * 40)))
    assert note(7, changes[:1]).startswith(
        "Cilium has changed since run 7: image quay.io/cilium/cilium:v1.18.3 → "
    )
    assert len(note(7, changes)) == NOTE_LENGTH
