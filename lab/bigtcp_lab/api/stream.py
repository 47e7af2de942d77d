"""``pods/exec`` over WebSocket: one channel byte before each message, as kubectl and the clients speak it."""

from __future__ import annotations

import asyncio
import json

from starlette.websockets import WebSocket

from .runtime_protocol import ExecSession

#: Newest first; version 5 adds the closing of a single channel, which is how stdin ends.
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _ERROR, _RESIZE, _CLOSE = 0, 3, 4, 255


def chosen_protocol(offered: list[str]) -> str | None:
    """Return the newest protocol that client and server both speak, or ``None``."""
    return next((protocol for protocol in PROTOCOLS if protocol in offered), None)


def exit_status(command: list[str], exit_code: int) -> dict[str, object]:
    """Return the Status that the error channel carries at the end of a command."""
    if exit_code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": (
            f"command terminated with non-zero exit code: error executing command [{' '.join(command)}], "
            f"exit code {exit_code}"
        ),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(exit_code)}]},
    }


async def serve_exec(websocket: WebSocket, session: ExecSession, command: list[str]) -> None:
    """Carry ``session`` over an accepted ``websocket`` until the command has ended or the client has gone."""
    sender = asyncio.create_task(_send(websocket, session, command))
    receiver = asyncio.create_task(_receive(websocket, session))
    try:
        await asyncio.wait({sender, receiver}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        told = sender.done() and not sender.cancelled() and sender.exception() is None
        sender.cancel()
        receiver.cancel()
        await asyncio.gather(sender, receiver, return_exceptions=True)
        if not told:  # nobody is left to hear the rest
            await session.kill()


async def _send(websocket: WebSocket, session: ExecSession, command: list[str]) -> None:
    while (chunk := await session.read()) is not None:
        channel, data = chunk
        await websocket.send_bytes(bytes([channel]) + data)
    status = json.dumps(exit_status(command, await session.wait())).encode()
    await websocket.send_bytes(bytes([_ERROR]) + status)
    await websocket.close()


async def _receive(websocket: WebSocket, session: ExecSession) -> None:
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        data = message.get("bytes") or (message.get("text") or "").encode()
        if not data:
            continue
        channel, payload = data[0], data[1:]
        if channel == _STDIN and payload:
            await session.write(payload)
        elif channel == _CLOSE and payload == bytes([_STDIN]):
            await session.close_stdin()
        elif channel == _RESIZE and payload:
            size = json.loads(payload)
            await session.resize(int(size["Width"]), int(size["Height"]))
