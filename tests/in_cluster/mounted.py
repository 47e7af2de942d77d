"""The agent as a pod has it: its files, mounted as they are in the cluster, and nothing else of this package."""

from __future__ import annotations

import atexit
import functools
import shutil
import sys
import tempfile
from pathlib import Path

from bigtcp_bench.cluster import pods
from bigtcp_lab.volumes import write_file

#: Of the folder that stands for the pod's.
PREFIX = "bigtcp-agent-"


@functools.cache
def mounted() -> Path:
    """Return a folder with what the manifests mount, which is gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    data = pods.agent_configmap()["data"]
    (volume,) = [
        volume["configMap"]
        for volume in pods.build_pod("client", image="x")["spec"]["volumes"]
        if volume.get("configMap", {}).get("name") == pods.AGENT_CONFIGMAP
    ]
    for item in volume["items"]:
        write_file(folder / item["path"], data[item["key"]].encode())
    return folder


def agent_command(*arguments: str) -> list[str]:
    """Return the command of the pods, for this interpreter without anything that was installed for it."""
    command = pods.build_pod("client", image="x")["spec"]["containers"][0]["command"]
    return ["env", f"PYTHONPATH={mounted()}", sys.executable, "-S", "-s", "-B", *command[1:], *arguments]
