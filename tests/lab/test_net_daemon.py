"""Starting, stopping and killing a lab: what is left, and what the next one finds."""

from __future__ import annotations

import functools
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import kubernetes
import pytest

from bigtcp_bench.commands import main
from bigtcp_bench.errors import InvalidInput, PreconditionFailed
from bigtcp_lab import daemon
from bigtcp_lab.listening import ListenAddress, listen

from .helpers import eventually
from .net_cluster import NODE_CONFIG, PLUGINS, RunningLab

pytestmark = pytest.mark.lab


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where the command line keeps the lab of ``--folder``, which is this directory's parent."""
    state_dir = tmp_path / "lab"
    state_dir.mkdir()
    yield state_dir
    daemon.down(state_dir)


def processes_of(directory: Path) -> list[str]:
    """Command lines of processes that name the lab's directory, or that sleep for our sign."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(directory) in text or SIGN in text or NEIGHBOUR in text:
                found.append(text)
    return found


SIGN = "sleep 98765.4321"
NEIGHBOUR = "noisy neighbour of the lab"


def test_up_twice_is_one_lab_and_down_is_quick(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = daemon.up(directory)
    assert daemon.up(directory) == first
    told = daemon.status(directory)
    assert (told.running, told.pid, told.nodes) == (True, first.pid, {"node1": True, "node2": True})
    command = ["lab", "status", "--folder", str(directory.parent)]
    assert main.main(command) == 0
    assert capsys.readouterr().out == (
        f"the lab is up (process {first.pid}, API at {first.url})\n"
        "node1: ready, Cilium agent ready\nnode2: ready, Cilium agent ready\nfaults: none\n"
    )
    start = time.monotonic()
    daemon.down(directory)
    assert time.monotonic() - start < 10
    assert not daemon.status(directory).running
    assert main.main(command) == 1
    assert capsys.readouterr().out == "the lab is down\n"
    assert sorted(path.name for path in directory.iterdir()) == ["lab.log", "lock"]
    daemon.down(directory)


def test_nothing_is_left_of_a_killed_lab(directory: Path) -> None:
    lab = RunningLab(directory)
    lab.run("sleeper", "node1", SIGN.split())
    daemon.set_fault(directory, "noisy-neighbour", True)
    assert any(SIGN in text for text in processes_of(directory))
    eventually(lambda: any(NEIGHBOUR in text for text in processes_of(directory)), "a busy process")
    os.kill(lab.info.pid, signal.SIGKILL)
    eventually(lambda: not processes_of(directory), "end of all processes")
    assert str(directory) not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert not daemon.status(directory).running
    again = RunningLab(directory)
    assert again.core.list_namespaced_pod("default").items == []


@pytest.mark.parametrize("after_s", [0.3, 0.9])
def test_a_lab_killed_while_starting_does_not_hinder_the_next(directory: Path, after_s: float) -> None:
    command = [sys.executable, "-m", "bigtcp_lab.daemon", f"--state-dir={directory}"]
    starting = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": PLUGINS})
    time.sleep(after_s)
    starting.kill()
    starting.wait()
    eventually(lambda: not processes_of(directory), "end of all processes")
    assert daemon.status(directory).running is False
    assert daemon.up(directory).url == daemon.status(directory).url


def test_a_lab_that_is_not_ready_in_time_is_not_left(directory: Path) -> None:
    with pytest.raises(PreconditionFailed, match=r"not ready within 0\.1 s"):
        daemon.up(directory, timeout_s=0.1)
    eventually(lambda: not processes_of(directory), "end of all processes")


def test_other_users_root_is_enough(directory: Path) -> None:
    """Root of a user namespace with a single user id: what an unprivileged user's lab runs as."""
    code = "import sys; from pathlib import Path; from bigtcp_lab.daemon import up; up(Path(sys.argv[1]))"
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code, str(directory)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": PLUGINS}, timeout=60)
    lab = RunningLab(directory)
    server = lab.run("server", "node2", ["python3", "-m", "http.server", "--bind", "::", "80"])
    url = f"http://[{server.status.pod_ips[1].ip}]/"
    lab.run("client", "node1", ["sleep", "infinity"])
    fetch = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=5).status)"
    assert lab.exec("client", "python3", "-c", fetch) == "200\n"


def test_without_cilium(directory: Path) -> None:
    lab = RunningLab(directory, faults=["no-cilium"])
    assert lab.agent("node1") is None
    with pytest.raises(kubernetes.client.ApiException, match="could not find the requested resource"):
        lab.custom.list_namespaced_custom_object(*NODE_CONFIG)
    assert set(lab.limits(lab.run("plain", "node1", ["sleep", "infinity"]).metadata.name).values()) == {65536}


def test_others_reach_a_lab_that_listens_for_them(directory: Path) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        listen = f"127.0.0.2:{taken.getsockname()[1]}"
        with pytest.raises(PreconditionFailed, match=rf"^lab: --listen {listen}: address already in use$"):
            daemon.up(directory, listen=listen)
    lab = RunningLab(directory, listen=listen)  # whose client reads the kubeconfig and checks the certificate
    assert daemon.status(directory).url == lab.info.url == f"https://{listen}"
    assert lab.core.list_node().items
    assert stat.filemode(lab.info.kubeconfig.stat().st_mode) == "-rw-r-----"


@pytest.mark.parametrize("text", ["lab", "lab:", ":6443", "lab:0", "lab:65536", "a b:1", "https://lab:1", "::1:8"])
def test_only_a_host_and_a_port_can_be_listened_at(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInput, match=r"it must be HOST:PORT with a port from 1 to 65535"):
        daemon.up(tmp_path, listen=text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "problem"),
    [("no-such-host.invalid:6443", "nobody knows the host"), ("192.0.2.1:6443", "no address of the host belongs")],
)
def test_only_this_machine_can_be_listened_at(text: str, problem: str) -> None:
    with pytest.raises(PreconditionFailed, match=rf"^lab: --listen {text}: {problem}"):
        ListenAddress.parse(text).bind()


def test_a_name_is_listened_at_by_all_of_its_addresses() -> None:
    with listen("127.0.0.1") as free:
        port = free.getsockname()[1]
    address = ListenAddress.parse(f"localhost:{port}")
    for listening in address.bind():
        with listening, socket.create_connection(listening.getsockname()[:2]):
            assert listening.getsockname()[:2] in [("127.0.0.1", port), ("::1", port)]
    assert str(ListenAddress.parse("[::1]:80")) == "[::1]:80"


def test_bad_arguments_name_what_is_allowed(directory: Path) -> None:
    with pytest.raises(InvalidInput, match="0 nodes: a lab has 1 to"):
        daemon.up(directory, nodes=0)
    with pytest.raises(InvalidInput, match="there is no node node3; nodes are node1, node2"):
        daemon.up(directory, faults=["slow-path:node3"])
    with pytest.raises(PreconditionFailed, match="none is running"):
        daemon.set_fault(directory, "slow-path", True)


HOLDS = """
def test_holds_a_lab(lab):
    import time
    print("lab", lab.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGHUP])
def test_a_lab_that_a_test_has_started_ends_with_the_test_run_however_that_ends(
    end: signal.Signals, tmp_path: Path
) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(HOLDS)
    root = Path(__file__).parents[2]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-s",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        str(file),
    ]
    command += [f"--rootdir={tmp_path}", f"--basetemp={tmp_path / 'temp'}", "-c", "/dev/null"]
    # With -v of whoever runs the tests, what this one waits for would not begin a line.
    environment = {
        name: value for name, value in os.environ.items() if name not in (daemon.OWNER, "PYTEST_ADDOPTS")
    }
    heeded = functools.partial(signal.signal, end if end != signal.SIGKILL else signal.SIGHUP, signal.SIG_DFL)
    with subprocess.Popen(
        # Whoever runs the tests in the background may have it ignored.
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heeded,
    ) as tests:
        assert tests.stdout is not None
        try:
            pid = next(int(line.split()[1]) for line in tests.stdout if line.startswith("lab "))
            lab = os.pidfd_open(pid)
            tests.send_signal(end)
            tests.wait(30)
        finally:
            tests.kill()
    try:
        assert select.select([lab], [], [], 30)[0], "the lab is still there"
    finally:
        os.close(lab)
    eventually(lambda: processes_of(tmp_path) == [])


def test_a_lab_whose_owner_has_ended_before_it_looked_ends_at_once(directory: Path) -> None:
    gone = subprocess.Popen(["sleep", "60"])
    try:
        starting = daemon._start(directory, [f"--owner={gone.pid}:1"])
        # The same id, but not the same process.
        assert starting.wait(60) == 0
    finally:
        gone.kill()
        gone.wait()


def test_a_lab_from_the_command_line_stays(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "60"]) as owner:
        monkeypatch.setenv(daemon.OWNER, str(owner.pid))
        program = "import sys; from bigtcp_bench.commands.main import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, "lab", "up", "--folder", str(directory.parent)]
        subprocess.run(command, check=True, capture_output=True)
        assert daemon.status(directory).running, "it outlives the command"
        owner.kill()
    eventually(lambda: not daemon.status(directory).running)
