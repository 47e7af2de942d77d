"""What the benchmark switches, and how it is known to be in force: BIG TCP, as Cilium and the kernel name it.

Mounted with the guardian: standard library only, no syntax newer than Python 3.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Arm = Literal["off", "on"]
Family = Literal["ipv4", "ipv6"]

ARMS: tuple[Arm, Arm] = ("off", "on")
FAMILIES: tuple[Family, Family] = ("ipv4", "ipv6")

#: IP family → key in ``cilium-config`` and in a CiliumNodeConfig.
KEYS: dict[Family, str] = {"ipv4": "enable-ipv4-big-tcp", "ipv6": "enable-ipv6-big-tcp"}
#: IP family → attributes of a device that the agent sets; it sets no others.
LIMITS: dict[Family, tuple[str, str]] = {
    "ipv4": ("gso_ipv4_max_size", "gro_ipv4_max_size"),
    "ipv6": ("gso_max_size", "gro_max_size"),
}
ALL_LIMITS = tuple(name for names in LIMITS.values() for name in names)
#: Above 65,536 bytes a packet's length does not fit the 16 bits that IP has for it. Without BIG TCP there is none
#: such, and Cilium sets the limits of devices to this, whatever was there before.
CLASSIC_MAX_PACKET_BYTES = 65536


def proves(size_bytes: float, arm: Arm) -> bool:
    """Return whether a packet, or a limit of a device, of ``size_bytes`` belongs to ``arm``, not to the other."""
    return (size_bytes > CLASSIC_MAX_PACKET_BYTES) == (arm == "on")


def told(settings: Mapping[str, str]) -> dict[Family, bool]:
    """Return what an agent with these ``settings`` was told. A key that is not there is off."""
    return {family: settings.get(key, "").strip(" \t\n\"'").lower() == "true" for family, key in KEYS.items()}


def settings_of(families: Mapping[Family, bool]) -> dict[str, str]:
    """Return the settings that tell an agent so for each of ``families``."""
    return {KEYS[family]: "true" if on else "false" for family, on in families.items()}


def switched(arm: Arm) -> dict[Family, bool]:
    """Return what is to be told in ``arm``."""
    return dict.fromkeys(FAMILIES, arm == "on")
