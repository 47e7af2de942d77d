"""What a container's security context means to its process: capabilities, user and group."""

from __future__ import annotations

from typing import Any

_CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
"""By number, as in linux/capability.h."""
_DEFAULT = {
    "SETGID",
    "DAC_OVERRIDE",
    "NET_RAW",
    "SETFCAP",
    "MKNOD",
    "FOWNER",
    "SETPCAP",
    "KILL",
    "FSETID",
    "SETUID",
    "AUDIT_WRITE",
    "NET_BIND_SERVICE",
    "CHOWN",
    "SYS_CHROOT",
}
"""What containerd gives a container that asks for nothing."""
_MANY_IDS = 65536


def capabilities_of(container: dict[str, Any]) -> list[int]:
    """Return the numbers of the capabilities a container may have."""
    security = container.get("securityContext") or {}
    if security.get("privileged"):
        return list(range(len(_CAPABILITIES)))
    names = set(_DEFAULT)
    asked = security.get("capabilities") or {}
    for name in asked.get("drop") or []:
        names = set() if name == "ALL" else names - {name.removeprefix("CAP_")}
    for name in asked.get("add") or []:
        names |= set(_CAPABILITIES) if name == "ALL" else {name.removeprefix("CAP_")}
    return [number for number, name in enumerate(_CAPABILITIES) if name in names]


def user_of(pod: dict[str, Any], container: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return the user and group to run as; (None, None) as root, or where only one user id exists."""
    of_pod, of_container = pod["spec"].get("securityContext") or {}, container.get("securityContext") or {}
    user = of_container.get("runAsUser", of_pod.get("runAsUser"))
    group = of_container.get("runAsGroup", of_pod.get("runAsGroup"))
    if (user is None and group is None) or not _has_other_users():
        return None, None
    return user, group if group is not None else 0


def _has_other_users() -> bool:
    """Return whether more than one user id is mapped: not so in an unprivileged user namespace."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return sum(int(line.split()[2]) for line in file) >= _MANY_IDS
