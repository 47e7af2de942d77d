"""How large packets are on a device: the agent's own capture, which reads headers only."""

from __future__ import annotations

import bisect
import contextlib
import mmap
import socket
import struct
import threading
import time

from bigtcp_bench.in_cluster.output import Json
from bigtcp_bench.in_cluster.snapshot import snapshot

# Numbers from include/uapi/linux/if_packet.h and if_ether.h.
SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION = 5, 6, 10
TPACKET_V2, TP_STATUS_USER = 1, 1
ETH_P_ALL = 3
PACKET_OUTGOING = 4
#: struct tpacket2_hdr, as far as it is read: status, length of the packet, length that was kept, offsets of the
#: link's and of the IP header. Behind all of it, at 32, a struct sockaddr_ll with the packet's direction.
TPACKET2_HEADER = struct.Struct("=IIIHH")
TPACKET2_DIRECTION = 32 + 10
#: 8 MB for 32,768 packets, a quarter of a second of 100,000 a second and more, of which only headers are kept.
RING_BLOCK_BYTES, RING_BLOCKS, RING_FRAME_BYTES = 1 << 16, 128, 256
#: How long the reader sleeps when it has read everything.
RING_PAUSE_S = 0.002
#: A sender ends before the last of its bytes are on their way: a capture ends when nothing has come for so long,
#: and at the latest so long after it was told to.
SILENCE_S, LINGER_S = 0.1, 1.0
#: Upper bounds of packet sizes, in bytes with the IP header: an Ethernet frame, a jumbo frame, what is possible
#: without BIG TCP (65,536), what Cilium sets (196,608), and the largest that Linux allows (GSO_MAX_SIZE, 524,280).
PACKET_BOUNDS = (1_500, 9_000, 16_384, 65_536, 131_072, 196_608, 524_280)
TCP, HOP_BY_HOP = 6, 0


class Capture:
    """Counts the packets of TCP connections on the device that has ``address``, by size, in both directions.

    Only those from or to ``port``. The kernel writes headers and true lengths (``skb->len``, as a pcap record's
    original length is) into a ring, read in a thread: a socket's buffer would be full after two large packets.
    """

    def __init__(self, address: str, port: int) -> None:
        """Begin. Raises OSError, in particular without CAP_NET_RAW, or if no device has the address."""
        device = snapshot(address)["device"]
        if device is None:
            raise OSError(f"no device has the address {address}")
        self.device = str(device)
        self._port = port
        #: (sent, near port, far port) → for each bound: packets, bytes.
        self._sizes: dict[tuple[bool, int, int], list[list[int]]] = {}
        #: How many packets were read, and when the capture was told to end.
        self._read_packets = 0
        self._ended_at: float | None = None
        with contextlib.ExitStack() as stack:
            # SOCK_DGRAM leaves the link's header out of lengths; protocol 0 until everything is set up.
            self._socket = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
            self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
            self._frames = RING_BLOCK_BYTES // RING_FRAME_BYTES * RING_BLOCKS
            request = struct.pack("=IIII", RING_BLOCK_BYTES, RING_BLOCKS, RING_FRAME_BYTES, self._frames)
            self._socket.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
            self._ring = stack.enter_context(mmap.mmap(self._socket.fileno(), RING_BLOCK_BYTES * RING_BLOCKS))
            self._socket.bind((self.device, ETH_P_ALL))
            self._resources = stack.pop_all()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def end(self) -> None:
        """Have it end when all is quiet; ``stop`` waits for that."""
        if self._ended_at is None:
            self._ended_at = time.monotonic()

    def stop(self) -> Json:
        """End when all is quiet, and return what was seen: packets by connection, direction and size.

        ``dropped`` of all that were ``seen`` were lost: for want of room, or because they were never read.
        """
        self.end()
        self._reader.join()
        seen, _ = struct.unpack("=II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        dropped = seen - self._read_packets
        self._resources.close()
        connections: dict[tuple[int, int], Json] = {}
        for (sent, near, far), sizes in self._sizes.items():
            ports = {"near_port": near, "far_port": far}
            one = connections.setdefault((near, far), {**ports, "sent": [], "received": []})
            one["sent" if sent else "received"] = [
                {"upper_bytes": PACKET_BOUNDS[place], "packets": packets, "bytes": size}
                for place, (packets, size) in enumerate(sizes)
                if packets
            ]
        return {"device": self.device, "seen": seen, "dropped": dropped, "connections": list(connections.values())}

    def _read(self) -> None:
        """Count what is in the ring, until nothing has come for a while after the end."""
        last = time.monotonic()
        while True:
            ended_at, before = self._ended_at, self._read_packets
            while self._take(self._read_packets % self._frames * RING_FRAME_BYTES):
                self._read_packets += 1
            now = time.monotonic()
            if self._read_packets > before:
                last = now
            if ended_at is not None and (now - max(last, ended_at) >= SILENCE_S or now - ended_at >= LINGER_S):
                return
            if self._read_packets == before:
                time.sleep(RING_PAUSE_S)

    def _take(self, frame: int) -> bool:
        """Count the packet in the ring at ``frame`` and give its place back; return False if there is none yet."""
        ring = self._ring
        status, length, kept, _, header = TPACKET2_HEADER.unpack_from(ring, frame)
        if not status & TP_STATUS_USER:
            return False
        ports = _tcp_ports(ring[frame + header : frame + header + kept])
        if ports is not None and self._port in ports:
            sent = ring[frame + TPACKET2_DIRECTION] == PACKET_OUTGOING
            near, far = ports if sent else ports[::-1]
            sizes = self._sizes.setdefault((sent, near, far), [[0, 0] for _ in PACKET_BOUNDS])
            place = sizes[min(bisect.bisect_left(PACKET_BOUNDS, length), len(PACKET_BOUNDS) - 1)]
            place[0] += 1
            place[1] += length
        struct.pack_into("=I", ring, frame, 0)
        return True


def _tcp_ports(packet: bytes) -> tuple[int, int] | None:
    """Return source and destination port of a TCP packet; None for any other."""
    try:
        version = packet[0] >> 4
        if version == 4:
            offset, protocol = (packet[0] & 0xF) * 4, packet[9]
        elif version == 6:
            offset, protocol = 40, packet[6]
            if protocol == HOP_BY_HOP:  # before Linux 7.0 it carries the true length of a large IPv6 packet
                offset, protocol = offset + (packet[41] + 1) * 8, packet[40]
        else:
            return None
        ports = struct.unpack_from("!HH", packet, offset)
    except (IndexError, struct.error):
        return None
    return (ports[0], ports[1]) if protocol == TCP else None
