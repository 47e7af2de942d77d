"""One iperf3 client: how it is run, and how what it prints is read."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

from bigtcp_bench.in_cluster.children import end, output_of
from bigtcp_bench.in_cluster.kind import GIGABYTE, Metric, Unreadable, number_at, too_short, value_at
from bigtcp_bench.in_cluster.output import Failed, Json, reason
from bigtcp_bench.in_cluster.partner import CONNECT_TIMEOUT_S

#: An iperf3 that needs this much longer than it was told to run hangs.
GRACE_S = 10
#: The write size with which BIG TCP has its largest effect (180 KB per packet; the default 128K gives 141 KB).
WRITE_SIZE = "1M"


class Client:
    """One iperf3 client that is running; the server was told to expect it."""

    def __init__(self, address: str, orders: Json, scenario: Json, *more: str) -> None:
        """Start it; ``more`` arguments are what only one kind of traffic needs. Raises Failed."""
        duration_s, omit_s = orders["duration_s"], orders["omit_s"]
        self._port = orders["iperf_port"]
        self._halfway_s = omit_s + duration_s / 2
        self._limit_s = omit_s + duration_s + GRACE_S
        command = ["iperf3", "-c", address, "-p", str(self._port)]
        command += ["-6" if scenario["family"] == "ipv6" else "-4", "-l", WRITE_SIZE, "-t", str(duration_s)]
        command += ["-P", str(scenario["streams"]), "--json", "--get-server-output"]
        command += ["--connect-timeout", str(CONNECT_TIMEOUT_S * 1000)]
        command += ["-O", str(omit_s)] if omit_s else []
        self._seen: Json = {"command": [*command, *more]}
        try:
            self._process = subprocess.Popen(
                self._seen["command"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise Failed(f"iperf3 cannot be run: {reason(error)}") from error

    def stop(self) -> None:
        """End it, whatever it has measured."""
        end(self._process)
        self._process.communicate()

    def finish(self, *, look: bool = True) -> Json:
        """Wait for its end and return what it printed; ``look`` at its sockets meanwhile. Raises Failed."""
        process, limit_s, timed_out = self._process, float(self._limit_s), False
        try:
            if look:
                try:
                    process.communicate(timeout=self._halfway_s)
                except subprocess.TimeoutExpired:
                    # Only while it runs do its sockets exist; one look costs some milliseconds of CPU.
                    self._seen["sockets"] = output_of("ss", "-tinOH", "dport", "=", f":{self._port}")
                    limit_s -= self._halfway_s
            try:
                output, complaints = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                timed_out = True
                end(process)
                output, complaints = process.communicate()
        finally:
            end(process)
        return self._read(output.decode(errors="replace"), complaints.decode(errors="replace"), timed_out)

    def _read(self, output: str, complaints: str, timed_out: bool) -> Json:
        seen, code = self._seen, self._process.returncode
        seen["exit_code"] = code
        seen["stderr"] = complaints[-2000:]
        seen["iperf3"] = _first_json(output)
        if timed_out:
            raise Failed(f"iperf3 did not end within {self._limit_s} s and was stopped", seen)
        if seen["iperf3"] is None:
            seen["stdout"] = output[:2000]
            if odd := _not_a_number(output):
                raise Failed(f"iperf3 (exit code {code}) printed what is JSON but for {odd}", seen)
            shown = _tail(seen["stderr"] or seen["stdout"])
            raise Failed(f"iperf3 (exit code {code}) printed no JSON but: {shown}", seen)
        if seen["iperf3"].get("error"):
            raise Failed(f"iperf3: {seen['iperf3']['error']}", seen)
        if code:
            raise Failed(f"iperf3 ended with exit code {code}: {_tail(seen['stderr'])}", seen)
        return seen


def _tail(text: str) -> str:
    return " ".join(text.split())[-200:] or "(nothing)"


def _first_json(text: str) -> Json | None:
    """Return the first JSON object in ``text``: some versions print a warning before it, or it twice."""
    start = text.find("{")
    try:
        found = json.JSONDecoder().raw_decode(text, start)[0] if start >= 0 else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


#: A value that is no JSON, behind the string before it: what C's printf makes of a division by nothing.
NOT_A_NUMBER = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*(-?(?:nan|inf(?:inity)?))\b', re.IGNORECASE)


def _not_a_number(text: str) -> str | None:
    """Return which value, and of what, is all that keeps ``text`` from being JSON; None if it is not."""
    found = NOT_A_NUMBER.search(text)
    if found is None or _first_json(NOT_A_NUMBER.sub(r'"\1":null', text)) is None:
        return None
    return f"a bare {found[2]} ({found[1]})"


# --- How it is read ---------------------------------------------------------------------------------------------
# The fields below are alike in iperf3 3.12 to 3.20; what newer ones add (milliseconds, fq_rate, …) is ignored.

#: A receiver may get a little more than was sent in the same seconds, namely what was on its way when they began:
#: for each stream what Linux buffers at both ends (4 MB of tcp_wmem and 6 of tcp_rmem, by default). Beyond that,
#: and this share, somebody has counted wrongly.
MAX_RECEIVED_SHARE = 1.1
BUFFERED_BYTES = 10_000_000

THROUGHPUT = Metric("throughput_bps", "bit/s", "higher", "throughput")
RETRANSMITS = Metric(
    "retransmits_per_gb",
    "1/GB",
    "lower",
    "retransmitted segments per gigabyte",
    "linear",
    short="retransmits",
    # A gigabyte is about 690,000 segments of an ordinary connection: this is 0.15 % of them.
    floor=1_000.0,
)


def result_at(document: Json, path: str) -> float:
    """Return a number of iperf3's own result in a repetition's document, such as that of ``sum_sent.bytes``."""
    return number_at(document.get("iperf3"), f"end.{path}", "iperf3's result")


def throughput_bps(document: Json) -> float:
    """Return what the receiver got in the measured seconds. Raises Unreadable."""
    return result_at(document, "sum_received.bits_per_second")


def retransmits_per_gb(document: Json) -> float:
    """Return the retransmits of the measured seconds, per gigabyte sent in them. Raises Unreadable."""
    sent = value_at(document.get("iperf3"), "end.sum_sent", "iperf3's result")
    if isinstance(sent, dict) and sent.get("retransmits") is None:
        raise Unreadable("iperf3 did not count retransmits")
    sent_bytes = result_at(document, "sum_sent.bytes")
    if not sent_bytes:
        raise Unreadable("nothing was sent")
    return result_at(document, "sum_sent.retransmits") / (sent_bytes / GIGABYTE)


def problems(document: Json, orders: Json, scenario: Json) -> Iterator[str]:
    """Yield why iperf3 measured nothing sound. May raise Unreadable."""
    if document.get("iperf3") is None:
        raise Unreadable("the document has no iperf3 result")
    if isinstance(document["iperf3"], dict) and document["iperf3"].get("error"):
        raise Unreadable(f"iperf3: {document['iperf3']['error']}")
    streams = value_at(document["iperf3"], "end.streams", "iperf3's result")
    if not isinstance(streams, list):
        raise Unreadable("iperf3's result: end.streams is no list")
    received = [number_at(one, "receiver.bytes", f"iperf3's result: stream {n}") for n, one in enumerate(streams)]
    ends = {
        (end, what): result_at(document, f"{end}.{what}")
        for end in ("sum_sent", "sum_received")
        for what in ("seconds", "bytes", "bits_per_second")
    }
    yield from too_short(min(ends["sum_sent", "seconds"], ends["sum_received", "seconds"]), orders)
    if len(streams) != scenario["streams"]:
        yield f"iperf3 ran {len(streams)} streams instead of {scenario['streams']}"
    got_bps, seconds = ends["sum_received", "bits_per_second"], max(ends["sum_received", "seconds"], 1e-9)
    buffered_bytes = BUFFERED_BYTES * len(streams)
    sent_bytes, got_bytes = ends["sum_sent", "bytes"], ends["sum_received", "bytes"]
    if not got_bytes:
        yield "the receiver got no bytes"
    elif (
        got_bytes > MAX_RECEIVED_SHARE * sent_bytes + buffered_bytes
        or got_bps > MAX_RECEIVED_SHARE * ends["sum_sent", "bits_per_second"] + 8 * buffered_bytes / seconds
    ):
        yield (
            f"the receiver got {got_bytes:,.0f} bytes where {sent_bytes:,.0f} were sent, so one of the two ends "
            "has counted wrongly"
        )
    elif silent := received.count(0):
        yield f"{silent} of {len(streams)} streams brought no bytes to the receiver"
