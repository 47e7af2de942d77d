"""The ways in which the lab can be told to misbehave, and which of them are on.

A fault is named, or named for one node: ``agent-never-ready`` or ``agent-never-ready:node2``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bigtcp_bench.errors import InvalidInput

FAULTS = {
    "agent-never-ready": "the Cilium agent starts, but never becomes ready",
    "setting-ignored": "the Cilium agent takes the setting, but leaves every device's limits as they are",
    "slow-path": "what a node receives is limited to 1 Gbit/s on its cable (tbf)",
    "ip-forwarding-hop": "new pods reach other nodes by an IP router, where IPv6 BIG TCP collapses before 7.0",
    "no-service-route": "new pods have no route to the addresses of Services",
    "policy-within-node": "a node's pods do not reach each other (tc); its Cilium agent counts that as a policy's",
    "outer-veth-64k": "the switch's end of a node's cable stays at 65536, so that big packets arrive segmented",
    "nic-65536": "the NIC reports tso_max_size 65536, so that the Cilium agent cannot raise its limits",
    "slow-starts": "pods take 1.5 s to start, Cilium agents 13 s to be ready, as on real clusters",
    "old-kernel": "pods see a kernel without the IPv4 BIG TCP attributes, as before Linux 6.3",
    "no-cilium": "the cluster has no Cilium: no DaemonSet, no ConfigMap, no CRD (only when the lab starts)",
    "lossy-path": "a node loses a small share of the packets that arrive on its cable (tc)",
    "cilium-drops": "a node drops a small share of what arrives (tc); its Cilium agent counts that, with a reason",
    "noisy-neighbour": "processes beside the pods keep every CPU of the machine busy",
    "crowded-cpu": "a node's pods share one CPU with a busy process that goes before them (affinity, nice)",
    "cpu-limit": "a node's pods stand still for most of each 100 ms (SIGSTOP); their cpu.stat says throttled",
    "stolen-cpu": "a node's pods read a /proc/stat in which the hypervisor has taken a fifth of the time",
    "node-dies": "a node stops without a word: its pods' processes end and it is no longer ready",
    "api-errors": "the API fails every fifth request, on average: 500, 503, or a connection that is cut",
    "api-slow": "the API waits two seconds before it answers",
    "api-down": "the API answers every request with 503 and ends all watches",
}
"""Name → what it does."""
ONLY_AT_START = {"no-cilium"}
"""Faults that cannot be switched while the lab runs."""
WHOLE_CLUSTER = {"no-cilium", "api-errors", "api-slow", "api-down", "ip-forwarding-hop", "noisy-neighbour"}
"""Faults that are not a node's, so that they cannot be limited to one."""
SLOW_PATH_MBIT = 1000
"""Rate of ``slow-path``: far below what one machine's veth carries, far above what a test needs."""

LOST_SHARE = 0.04
"""Of the packets that arrive, with ``lossy-path`` and ``cilium-drops``: beyond what a run may retransmit (3 %)."""
STOLEN_SHARE = 0.2
"""Of all CPU time, with ``stolen-cpu``: four times what a run may lose to the hypervisor."""

POD_START_S, AGENT_START_S = 1.5, 11.5
"""What ``slow-starts`` adds to the start of a pod, and of a Cilium agent, which is ready after 13 s then."""

Listener = Callable[[str, str, bool], None]


def parse_fault(text: str, nodes: Iterable[str]) -> tuple[str, str]:
    """Return (name, node or "") of ``name`` or ``name:node``; raises InvalidInput naming what is allowed."""
    name, _, node = text.partition(":")
    known = sorted(nodes)
    if name not in FAULTS:
        raise InvalidInput(f"fault {text!r}: is not known; known are {', '.join(sorted(FAULTS))}")
    if node and name in WHOLE_CLUSTER:
        raise InvalidInput(f"fault {text!r}: {name} is the whole cluster's, not one node's; leave out ':{node}'")
    if node and node not in known:
        raise InvalidInput(f"fault {text!r}: there is no node {node}; nodes are {', '.join(known)}")
    return name, node


class FaultState:
    """Which faults are on, for all nodes or for one; shared by all parts of the lab's process."""

    def __init__(self, nodes: Iterable[str], faults: Iterable[str] = ()) -> None:
        self._nodes = sorted(nodes)
        self._on: set[tuple[str, str]] = {parse_fault(text, self._nodes) for text in faults}
        self._listeners: list[Listener] = []

    def is_on(self, name: str, node: str = "") -> bool:
        """Return whether the fault is on, for every node or for this one."""
        return (name, "") in self._on or (name, node) in self._on

    def active(self) -> list[str]:
        """Return the faults that are on, written as they are switched (``name`` or ``name:node``)."""
        return sorted(f"{name}:{node}" if node else name for name, node in self._on)

    def switch(self, text: str, on: bool) -> None:
        """Switch a fault on or off; raises InvalidInput for an unknown one or one that needs a new lab.

        Switching a fault off without a node also ends it where it was on for single nodes.
        """
        name, node = parse_fault(text, self._nodes)
        if name in ONLY_AT_START:
            raise InvalidInput(
                f"fault {text!r}: can only be chosen when the lab starts (lab down, lab up --fault {name})"
            )
        before = {each: self.is_on(name, each) for each in ["", *self._nodes]}
        if on:
            self._on.add((name, node))
        elif node:
            self._on.discard((name, node))
        else:
            self._on -= {(name, each) for each in before}
        for each, was_on in before.items():
            if self.is_on(name, each) != was_on:
                for listener in self._listeners:
                    listener(name, each, not was_on)

    def listen(self, listener: Listener) -> None:
        """Call ``listener(name, node, on)`` at every change: once per node it concerns, and with "" for all."""
        self._listeners.append(listener)
