"""What a probe says of this very machine."""

from __future__ import annotations

import os
import subprocess
import sys

from bigtcp_bench.in_cluster import probe
from bigtcp_bench.in_cluster.devices import read_devices
from bigtcp_bench.readings.agent_log import parse_log
from bigtcp_bench.readings.orders import ProbeOrders
from tests.in_cluster.test_measure import run_agent


def test_a_probe_describes_this_machine() -> None:
    done = run_agent(ProbeOrders().to_argument())
    assert (done.returncode, done.stderr) == (0, "")
    probe = parse_log(done.stdout).probe
    assert probe is not None
    assert probe.kernel_release == os.uname().release
    assert probe.cpu_count == os.cpu_count()
    assert probe.load_average is not None
    assert probe.busy_share is None
    loopback = probe.snapshot.devices["lo"]
    assert loopback.mtu == 65_536
    assert loopback.rx_bytes is not None
    assert "MemTotal" in (probe.snapshot.meminfo or "")
    assert "intr " in (probe.snapshot.proc_stat or "")
    for text in (probe.snapshot.snmp, probe.snapshot.netstat, probe.snapshot.softnet_stat):
        assert text


def test_a_probe_tells_the_load_of_the_seconds_before() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            done = run_agent(ProbeOrders(sample_s=0.5).to_argument())
        finally:
            busy.kill()
    probe = parse_log(done.stdout).probe
    assert probe is not None
    assert probe.earlier is not None
    assert probe.snapshot.monotonic_s - probe.earlier.monotonic_s >= 0.5
    assert probe.busy_share is not None
    assert 0.3 / (os.cpu_count() or 1) < probe.busy_share <= 1


def test_drivers_count_by_their_own_names() -> None:
    """Whatever devices this machine has, what a driver counts is read, and a device without any has nothing."""
    counted = {device: probe._statistics(device) for device in read_devices()}
    assert counted["lo"] == {}
    assert probe._statistics("no-such-device") == {}
    for values in counted.values():
        assert all(name and value >= 0 for name, value in values.items())
