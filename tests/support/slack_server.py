"""A local server that speaks as much of Slack's Web API as the project uses, and refuses what Slack refuses.

Start it with ``with SlackServer() as server:`` and point a client at ``server.base_url``. What arrived is in
``server.messages``; ``server.misbehave("429", "close", …)`` says how the next requests are answered.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

MAX_BLOCKS = 50
MAX_TEXT = 40_000
#: Where Slack begins to answer msg_blocks_too_long: https://github.com/slackapi/bolt-js/issues/2509
MAX_BLOCKS_CHARS = 13_000

#: Longest text of the objects in a block, by the block's type: https://docs.slack.dev/reference/block-kit/blocks
TEXT_LIMITS = {"header": 150, "section": 3000, "context": 3000}

Answer = dict[str, Any]


@dataclass
class SlackServer:
    """The server; ``token`` is the only one it accepts and ``channels`` are those the bot is in."""

    token: str = field(default_factory=lambda: f"xoxb-{secrets.token_hex(8)}")
    channels: tuple[str, ...] = ("C0BENCH",)
    retry_after_s: int = 1

    def __post_init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.requests = 0
        self._script: deque[str] = deque()
        self._methods: dict[str, Callable[[dict[str, Any]], Answer]] = {"chat.postMessage": self._post_message}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> SlackServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/api/"

    def misbehave(self, *answers: str) -> None:
        """Answer the next requests so, one each: 429, 500, html, reset, close (midway), hang, or an error code."""
        self._script.extend(answers)

    def next_misbehaviour(self) -> str | None:
        self.requests += 1
        return self._script.popleft() if self._script else None

    def answer(self, method: str, headers: Message, body: bytes) -> Answer:
        """Return what Slack would answer; every refusal is HTTP 200 with ``ok: false``, as Slack does it."""
        if method not in self._methods:
            return _error("unknown_method")
        arguments = _arguments(headers, body)
        if arguments is None:
            return _error("invalid_form_data")
        authorization = headers.get("Authorization", "")
        if not authorization.startswith("Bearer "):
            return _error("not_authed")
        if authorization.removeprefix("Bearer ") != self.token:
            return _error("invalid_auth")
        return self._methods[method](arguments)

    def _post_message(self, arguments: dict[str, Any]) -> Answer:
        if arguments.get("channel") not in self.channels:
            return _error("channel_not_found")
        blocks = arguments.get("blocks") or []
        text = arguments.get("text") or ""
        if not blocks and not text:
            return _error("no_text")
        if len(text) > MAX_TEXT:
            return _error("msg_too_long")
        if problems := block_problems(blocks):
            return {**_error("invalid_blocks"), "response_metadata": {"messages": problems}}
        if len(json.dumps(blocks, ensure_ascii=False)) > MAX_BLOCKS_CHARS:
            return _error("msg_blocks_too_long")
        ts = f"{1_700_000_000 + len(self.messages)}.{secrets.randbelow(10**6):06d}"
        self.messages.append({**arguments, "ts": ts})
        return {"ok": True, "channel": arguments["channel"], "ts": ts, "message": {"text": text, "blocks": blocks}}


def block_problems(blocks: Any) -> list[str]:
    """Return why Slack would refuse ``blocks``, as messages like its own."""
    if not isinstance(blocks, list):
        return ["[ERROR] must be an array"]
    problems = [f"no more than {MAX_BLOCKS} items allowed"] if len(blocks) > MAX_BLOCKS else []
    for index, block in enumerate(blocks):
        where = f"[json-pointer:/blocks/{index}]"
        kind = block.get("type")
        if kind == "divider":
            continue
        if kind not in TEXT_LIMITS:
            problems.append(f"unsupported type: {kind} {where}")
            continue
        elements = block.get("elements", []) if kind == "context" else [block.get("text")]
        if not 1 <= len(elements) <= 10:
            problems.append(f"must have 1 to 10 elements {where}")
        for element in elements:
            problems += [f"{problem} {where}" for problem in _text_problems(element, kind)]
    return problems


def _text_problems(element: Any, kind: str) -> list[str]:
    if not isinstance(element, dict) or not isinstance(element.get("text"), str):
        return ["missing required field: text"]
    allowed = ("plain_text",) if kind == "header" else ("plain_text", "mrkdwn")
    if element.get("type") not in allowed:
        return [f"unsupported type of text: {element.get('type')}"]
    if not element["text"]:
        return ["must be more than 0 characters"]
    if len(element["text"]) > TEXT_LIMITS[kind]:
        return [f"must be less than {TEXT_LIMITS[kind] + 1} characters"]
    return []


def _arguments(headers: Message, body: bytes) -> dict[str, Any] | None:
    """Return the arguments of a JSON or form body (a form carries blocks as JSON), or None if it is neither."""
    try:
        if headers.get_content_type() == "application/json":
            arguments = json.loads(body)
        else:
            arguments = dict(parse_qsl(body.decode(), strict_parsing=True))
            if "blocks" in arguments:
                arguments["blocks"] = json.loads(arguments["blocks"])
    except ValueError:
        return None
    return arguments if isinstance(arguments, dict) else None


def _error(code: str) -> Answer:
    return {"ok": False, "error": code}


def _handler_of(slack: SlackServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            match slack.next_misbehaviour():
                case None:
                    method = self.path.removeprefix("/api/")
                    self._send(200, json.dumps(slack.answer(method, self.headers, body)))
                case "429":
                    answer = json.dumps(_error("ratelimited"))
                    self._send(429, answer, {"Retry-After": str(slack.retry_after_s)})
                case "500":
                    self._send(500, json.dumps(_error("internal_error")))
                case "html":
                    self._send(200, "<html>Sign in to the network</html>", {"Content-Type": "text/html"})
                case "reset":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                case "close":
                    self._send(200, '{"ok": true, "ts', {"Content-Length": "500"})
                    self.close_connection = True
                case "hang":
                    # Until the client has given up and closed its side.
                    self.connection.recv(1)
                    self.close_connection = True
                case code:
                    self._send(200, json.dumps(_error(str(code))))

        def _send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
            content = text.encode()
            own = {"Content-Type": "application/json; charset=utf-8", "Content-Length": str(len(content))}
            self.send_response(status)
            for name, value in {**own, **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output for the test."""

    return Handler
