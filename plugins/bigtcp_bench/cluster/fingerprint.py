"""Which Cilium a cluster runs, as far as figures depend on it, and what differs between two of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bigtcp_bench.in_cluster.treatment import KEYS

#: The plan that a change is measured with.
UPGRADE_PLAN = "upgrade"

#: The benchmark switches these itself, and spells them out in both arms: they are no difference between two runs.
BIG_TCP_KEYS = frozenset(KEYS.values())

#: Keys of ``cilium-config`` that change how packets travel. Not all of them: some hold secrets' names, and most
#: change with every release without any effect on the path.
DATAPATH_KEYS = (
    *sorted(KEYS.values()),
    "auto-direct-node-routes",
    "bpf-lb-acceleration",
    "bpf-lb-dsr-dispatch",
    "bpf-lb-mode",
    "bpf-lb-sock",
    "datapath-mode",
    "devices",
    "enable-bandwidth-manager",
    "enable-bbr",
    "enable-bpf-masquerade",
    "enable-egress-gateway",
    "enable-endpoint-routes",
    "enable-host-firewall",
    "enable-host-legacy-routing",
    "enable-hubble",
    "enable-ipsec",
    "enable-ipv4",
    "enable-ipv4-egress-gateway",
    "enable-ipv4-masquerade",
    "enable-ipv6",
    "enable-ipv6-masquerade",
    "enable-l7-proxy",
    "enable-tcx",
    "enable-tunnel-big-tcp",
    "enable-wireguard",
    "install-no-conntrack-iptables-rules",
    "ipam",
    "ipv4-native-routing-cidr",
    "ipv6-native-routing-cidr",
    "kube-proxy-replacement",
    "monitor-aggregation",
    "mtu",
    "preallocate-bpf-maps",
    "routing-mode",
    "tunnel",
    "tunnel-protocol",
)

#: Runs of one change, if those before have measured nothing: nodes were busy, an image could not be pulled.
ATTEMPTS = 3

#: Airflow's form takes a note of at most this length.
NOTE_LENGTH = 500


def datapath_config(config: Mapping[str, str]) -> dict[str, str | None]:
    """Return the values of DATAPATH_KEYS in ``cilium-config``; None for a key that is not set."""
    return {key: config.get(key) for key in DATAPATH_KEYS}


@dataclass(frozen=True)
class Difference:
    """One thing that differs between two clusters' Cilium, or one cluster's at two times; None: not set."""

    name: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        before, after = ("not set" if value is None else value for value in (self.before, self.after))
        return f"{self.name} {before} → {after}"


@dataclass(frozen=True)
class Fingerprint:
    """The agents' image and the configuration of the datapath (key → value, None where it is not set).

    A key that is not there at all was not recorded: an older package knew fewer of them.
    """

    image: str
    config: Mapping[str, str | None]

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Fingerprint | None:
        """Return what a row of ``bigtcp_run`` recorded, or None if the run ended before it looked."""
        image = (row["images"] or {}).get("cilium")
        return cls(image, dict(row["cilium_config"] or {})) if image else None

    def differences(self, later: Fingerprint) -> list[Difference]:
        """Return what is different in ``later``, the image first; BIG TCP itself is no difference."""
        found = []
        if self.image != later.image:
            found.append(Difference("image", *_short(self.image, later.image)))
        for key in sorted((self.config.keys() & later.config.keys()) - BIG_TCP_KEYS):
            if self.config[key] != later.config[key]:
                found.append(Difference(key, self.config[key], later.config[key]))
        return found


def _short(before: str, after: str) -> tuple[str, str]:
    """Return two image references without digests, unless only the digests tell them apart."""
    names = before.partition("@")[0], after.partition("@")[0]
    return (before, after) if names[0] == names[1] else names


def run_id(cluster: str, reference: str, live: Fingerprint) -> str:
    """Return the id of the run that measures ``live`` after the run ``reference``: always the same one.

    ``reference`` is the key of the last valid run of the Cilium before. With it, a version that comes back after
    it was taken back is a new change; without it, a watch that is repeated would start a second run.
    """
    config = {key: value for key, value in live.config.items() if key not in BIG_TCP_KEYS}
    text = json.dumps([reference, live.image, config], sort_keys=True)
    name = re.sub(r"[^A-Za-z0-9_.~+-]", "-", cluster)
    return f"upgrade__{name}__{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def attempts(name: str) -> list[str]:
    """Return the ids of the runs that may measure the change of ``name``, in order."""
    return [name, *(f"{name}__{number}" for number in range(2, ATTEMPTS + 1))]


def note(before: int, changes: list[Difference]) -> str:
    """Return why the run was started, in the length that the benchmark's form takes."""
    text = f"Cilium has changed since run {before}: {'; '.join(map(str, changes))}"
    return text if len(text) <= NOTE_LENGTH else f"{text[: NOTE_LENGTH - 1]}…"
