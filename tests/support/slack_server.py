"""A local server that speaks as much of Slack's Web API as the project uses, and refuses what Slack refuses.

Start it with ``with SlackServer() as server:`` and point a client at ``server.base_url``. What arrived is in
``server.messages`` and ``server.files``; ``server.misbehave("429", "close", …)`` says how the next requests are
answered.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")

MAX_BLOCKS = 50
MAX_TEXT = 40_000
#: Where Slack begins to answer msg_blocks_too_long: https://github.com/slackapi/bolt-js/issues/2509
MAX_BLOCKS_CHARS = 13_000

#: Longest text of the objects in a block, by the block's type: https://docs.slack.dev/reference/block-kit/blocks
TEXT_LIMITS = {"header": 150, "section": 3000, "context": 3000}
#: https://docs.slack.dev/reference/methods/files.getUploadURLExternal (alt_txt_too_large)
MAX_ALT_TEXT = 1_000
#: https://docs.slack.dev/messaging/message-metadata
METADATA_TYPE = re.compile(r"[a-z0-9_.:-]{1,128}", re.IGNORECASE)
PNG = b"\x89PNG\r\n\x1a\n"

#: What each method needs: https://docs.slack.dev/reference/methods
SCOPES = {
    "auth.test": None,
    "chat.postMessage": "chat:write",
    "chat.update": "chat:write",
    "conversations.history": "channels:history",
    "conversations.replies": "channels:history",
    "files.getUploadURLExternal": "files:write",
    "files.completeUploadExternal": "files:write",
}

Answer = dict[str, Any]


@dataclass
class SlackServer:
    """The server; ``token`` is the only one it accepts and ``channels`` are those the bot is in."""

    token: str = field(default_factory=lambda: f"xoxb-{secrets.token_hex(8)}")
    channels: tuple[str, ...] = ("C0BENCH", "C0PROD")
    scopes: tuple[str, ...] = ("chat:write", "files:write", "channels:history")
    retry_after_s: int = 1
    #: Messages on one page of a history.
    page: int = 100

    def __post_init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        #: Shared files: title, channel, thread_ts, initial_comment, content.
        self.files: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self._uploads: dict[str, dict[str, Any]] = {}
        self._script: deque[str] = deque()
        self._methods: dict[str, Callable[[dict[str, Any]], Answer]] = {
            "auth.test": lambda _arguments: {"ok": True},
            "chat.postMessage": self._post_message,
            "chat.update": self._update,
            "conversations.history": self._history,
            "conversations.replies": self._history,
            "files.getUploadURLExternal": self._upload_url,
            "files.completeUploadExternal": self._complete_upload,
        }
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> SlackServer:
        # A proxy of the environment has no business between a test and this server.
        self._proxies = {name: os.environ.pop(name) for name in PROXIES if name in os.environ}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.environ.update(self._proxies)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/api/"

    @property
    def requests(self) -> int:
        """Return how many requests came in."""
        return len(self.calls)

    def misbehave(self, *answers: str) -> None:
        """Answer the next requests so, one each: 429, 500, html, reset, close (midway), hang, or an error code.

        ``ok`` does nothing wrong. ``taken-…`` does what was asked and then answers so.
        """
        self._script.extend(answers)

    def next_misbehaviour(self, method: str) -> str | None:
        self.calls.append(method)
        script = self._script.popleft() if self._script else None
        return None if script == "ok" else script

    def thread(self, ts: str) -> list[dict[str, Any]]:
        """Return the answers to message ``ts``."""
        return [message for message in self.messages if message.get("thread_ts") == ts]

    def receive(self, path: str, content: bytes) -> bool:
        """Take the bytes of a file (step two of three); False when nobody announced them so."""
        upload = self._uploads.get(path)
        if upload is None or len(content) != upload["length"]:
            return False
        upload["content"] = content
        return True

    def answer(self, method: str, headers: Message, body: bytes, query: str = "") -> Answer:
        """Return what Slack would answer; every refusal is HTTP 200 with ``ok: false``, as Slack does it."""
        if method not in self._methods:
            return _error("unknown_method")
        arguments = _arguments(headers, body)
        if arguments is None:
            return _error("invalid_form_data")
        arguments = dict(parse_qsl(query)) | arguments
        authorization = headers.get("Authorization", "")
        if not authorization.startswith("Bearer "):
            return _error("not_authed")
        if authorization.removeprefix("Bearer ") != self.token:
            return _error("invalid_auth")
        if SCOPES[method] not in (None, *self.scopes):
            return {**_error("missing_scope"), "needed": SCOPES[method], "provided": ",".join(self.scopes)}
        return self._methods[method](arguments)

    def _post_message(self, arguments: dict[str, Any]) -> Answer:
        if arguments.get("channel") not in self.channels:
            return _error("channel_not_found")
        if refusal := content_refusal(arguments):
            return refusal
        if (parent := arguments.get("thread_ts")) and self._message(arguments["channel"], parent) is None:
            return _error("thread_not_found")
        ts = f"{time.time():.6f}"
        self.messages.append({**arguments, "ts": ts, "posted": arguments})
        message = {"text": arguments.get("text") or "", "blocks": arguments.get("blocks") or [], "ts": ts}
        return {"ok": True, "channel": arguments["channel"], "ts": ts, "message": message}

    def _update(self, arguments: dict[str, Any]) -> Answer:
        if arguments.get("channel") not in self.channels:
            return _error("channel_not_found")
        message = self._message(arguments["channel"], arguments.get("ts"))
        if message is None:
            return _error("message_not_found")
        if refusal := content_refusal(arguments):
            return refusal
        message.update(text=arguments["text"], blocks=arguments["blocks"])
        return {"ok": True, "channel": arguments["channel"], "ts": arguments["ts"]}

    def _history(self, arguments: dict[str, Any]) -> Answer:
        """Answer both methods: with ``ts`` that thread, else the channel without its threads; newest first."""
        parent, oldest = arguments.get("ts"), float(arguments.get("oldest", 0))
        found = [
            {
                key: value
                for key, value in message.items()
                if key != "metadata" or arguments["include_all_metadata"]
            }
            for message in self.messages
            if message["channel"] == arguments["channel"] and float(message["ts"]) >= oldest
            if (parent in (message["ts"], message.get("thread_ts")) if parent else not message.get("thread_ts"))
        ]
        begin = int(arguments.get("cursor") or 0)
        end = begin + min(self.page, int(arguments["limit"]))
        page, cursor = found[::-1][begin:end], str(end) if end < len(found) else ""
        return {"ok": True, "messages": page, "response_metadata": {"next_cursor": cursor}}

    def _upload_url(self, arguments: dict[str, Any]) -> Answer:
        if not arguments.get("filename") or not int(arguments.get("length", 0)):
            return _error("missing_argument")
        if len(arguments.get("alt_txt") or "") > MAX_ALT_TEXT:
            return _error("alt_txt_too_large")
        path = f"/upload/v1/{secrets.token_hex(8)}"
        number = f"F{secrets.token_hex(5).upper()}"
        self._uploads[path] = {"id": number, "length": int(arguments["length"]), "content": None}
        return {"ok": True, "upload_url": self.base_url.removesuffix("/api/") + path, "file_id": number}

    def _complete_upload(self, arguments: dict[str, Any]) -> Answer:
        if arguments.get("channel_id") not in self.channels:
            return _error("channel_not_found")
        shared = []
        for one in json.loads(arguments["files"]):
            upload = next((upload for upload in self._uploads.values() if upload["id"] == one["id"]), None)
            if upload is None or upload["content"] is None:
                return _error("file_not_found")
            place = {"channel": arguments["channel_id"], "thread_ts": arguments.get("thread_ts")}
            comment = {"initial_comment": arguments.get("initial_comment")}
            self.files.append({**place, **comment, "title": one["title"], "content": upload["content"]})
            shared.append({"id": one["id"], "title": one["title"]})
        return {"ok": True, "files": shared}

    def _message(self, channel: str, ts: str | None) -> dict[str, Any] | None:
        found = (one for one in self.messages if (one["channel"], one["ts"]) == (channel, ts))
        return next(found, None)


def content_refusal(arguments: dict[str, Any]) -> Answer | None:
    """Return what Slack would answer to a message with this content if it refused it."""
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
    metadata = arguments.get("metadata")
    if metadata is not None and not (
        METADATA_TYPE.fullmatch(str(metadata.get("event_type")))
        and isinstance(metadata.get("event_payload"), dict)
    ):
        return _error("invalid_metadata_format")
    return None


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
    if not body:
        return {}
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
            url = urlsplit(self.path)
            if url.path.startswith("/upload/"):
                misbehaviour = slack.next_misbehaviour("upload")
                answer = lambda: "OK - 3" if slack.receive(url.path, body) else None  # noqa: E731
            else:
                method = url.path.removeprefix("/api/")
                misbehaviour = slack.next_misbehaviour(method)
                answer = lambda: json.dumps(slack.answer(method, self.headers, body, url.query))  # noqa: E731
            if misbehaviour is not None and misbehaviour.startswith("taken-"):
                answer()
                misbehaviour = misbehaviour.removeprefix("taken-")
            match misbehaviour:
                case None:
                    text = answer()
                    self._send(200 if text is not None else 404, text or "")
                case "429":
                    refusal = json.dumps(_error("ratelimited"))
                    self._send(429, refusal, {"Retry-After": str(slack.retry_after_s)})
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
            own["X-OAuth-Scopes"] = ",".join(slack.scopes)
            self.send_response(status)
            for name, value in {**own, **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output for the test."""

    return Handler
