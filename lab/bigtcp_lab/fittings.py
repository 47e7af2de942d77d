"""What a container of the lab finds beside its volumes: an interpreter, the emulated Cilium, the node's faults."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import bigtcp_bench
from bigtcp_lab.become import CILIUM_COMMANDS, CILIUM_DIRECTORY
from bigtcp_lab.containers import INTERPRETER, PACKAGE_DIRECTORY
from bigtcp_lab.faults import AGENT_START_S, POD_START_S, STOLEN_SHARE, FaultState
from bigtcp_lab.launch import Bind, is_shared
from bigtcp_lab.network import API_ADDRESS

API_PORT = 6443
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DISGUISES = ("old-kernel", "nic-65536", "stolen-cpu")
_HARDSHIPS = ("crowded-cpu", "cpu-limit")
_NODE_FAULTS = ("agent-never-ready", "setting-ignored")
"""Faults that the emulated agent itself acts on."""


class Fittings:
    """Prepares shared directories once and says for each container what to bind and which variables to set."""

    def __init__(self, directory: Path, faults: FaultState) -> None:
        self._directory = directory
        self._faults = faults
        programs = directory / "bin"
        shutil.rmtree(programs, ignore_errors=True)
        programs.mkdir(parents=True)
        (programs / "python3").symlink_to(INTERPRETER)
        # Without what is installed on this machine, as in an image; it may take longer to load than a pod works.
        alone = f"home = {Path(INTERPRETER).parent}\ninclude-system-site-packages = false\n"
        (programs / "pyvenv.cfg").write_text(alone, encoding="utf-8")
        cilium = directory / "cilium-bin"
        cilium.mkdir(exist_ok=True)
        for name in CILIUM_COMMANDS:
            path = cilium / name
            path.write_text(
                "#!/bin/sh\n"
                "export PYTHONPATH=/.lab/lib${PYTHONPATH:+:$PYTHONPATH}\n"
                # Not with -m, which compiles the module anew each time, and without the machine's own packages.
                f"exec /.lab/bin/python3 -S -c 'from bigtcp_lab.cilium import main; main()' {name} \"$@\"\n",
                encoding="ascii",
            )
            path.chmod(0o755)

    def write_faults(self, node: str) -> None:
        """Tell the emulated agent of ``node`` which of its faults are on."""
        path = self._directory / "faults" / node / "active"
        path.parent.mkdir(parents=True, exist_ok=True)
        active = [name for name in _NODE_FAULTS if self._faults.is_on(name, node)]
        fresh = path.with_suffix(".new")
        fresh.write_text("\n".join(active), encoding="ascii")
        fresh.rename(path)

    def hardships(self, pod: dict[str, Any], node: str) -> list[str]:
        """Return the faults that make the life of this pod's processes hard; pods of the node itself have none."""
        if pod["spec"].get("hostNetwork"):
            return []
        return [name for name in _HARDSHIPS if self._faults.is_on(name, node)]

    def start_delay_s(self, pod: dict[str, Any], node: str) -> float:
        """Return how long ``pod`` waits before it is set up on ``node``."""
        if not self._faults.is_on("slow-starts", node):
            return 0
        is_agent = any("cilium/cilium" in container["image"] for container in pod["spec"]["containers"])
        return AGENT_START_S if is_agent else POD_START_S

    def of(self, pod: dict[str, Any], container: dict[str, Any], node: str) -> tuple[list[Bind], dict[str, str]]:
        """Return the binds and the environment that ``container`` starts from."""
        binds = [Bind(str(self._directory / "bin"), "/.lab/bin", True)]
        if not is_shared(INTERPRETER):  # such as a pyenv in somebody's home: its own tree, at its own place
            prefix = str(Path(INTERPRETER).parent.parent)
            binds.append(Bind(prefix, prefix, True))
        environment = {
            "PATH": f"/.lab/bin:{_PATH}",
            "HOME": "/root",
            "KUBERNETES_SERVICE_HOST": API_ADDRESS,
            "KUBERNETES_SERVICE_PORT": str(API_PORT),
            "KUBERNETES_SERVICE_PORT_HTTPS": str(API_PORT),
        }
        hidden = [
            name
            for name in _DISGUISES
            if self._faults.is_on(name, node) and (name != "nic-65536" or pod["spec"].get("hostNetwork"))
        ]
        is_cilium = "cilium/cilium" in container["image"]
        if is_cilium or hidden:
            library = str(Path(bigtcp_bench.__file__).resolve().parent)
            binds.append(Bind(library, "/.lab/lib/bigtcp_bench", True))
            binds.append(Bind(str(PACKAGE_DIRECTORY / "bigtcp_lab"), "/.lab/lib/bigtcp_lab", True))
        if is_cilium:
            binds.append(Bind(str(self._directory / "cilium-bin"), CILIUM_DIRECTORY, True))
            binds.append(Bind(str(self._directory / "faults" / node), "/.lab/faults", True))
            environment["PATH"] = f"{CILIUM_DIRECTORY}:{environment['PATH']}"
        if hidden:
            environment["PYTHONPATH"] = "/.lab/lib/bigtcp_lab/disguise"
            environment["LAB_DISGUISE"] = ",".join(hidden)
            environment["LAB_STOLEN_SHARE"] = str(STOLEN_SHARE)
        return binds, environment
