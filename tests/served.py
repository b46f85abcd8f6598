"""Servers of other projects for tests, which may be killed and started again, and a proxy that counts what comes."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HOST = "127.0.0.1"


class Served:
    """A server that listens at one port, each time that it is started.

    Args:
        command: that starts it, but for host and port.
        log: gets what it prints.
        environment: beside this process's.
        seconds: that it may take to listen.
    """

    def __init__(
        self, command: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None, seconds: float = 240.0
    ) -> None:
        self.port = free_port()
        self.command = [*command, "--host", HOST, "--port", str(self.port)]
        self.log, self.seconds, self.environment = log, seconds, {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/v1"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(self.command, stdout=output, stderr=output, env=self.environment)
        deadline = time.monotonic() + self.seconds
        while not listens(self.port):
            told = self.log.read_text(encoding="utf-8", errors="replace")
            assert self._process.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Counting:
    """A proxy before a server that keeps which questions came and which answers went back whole.

    Where the server is away or dies, the connection is closed without a word, as the server's own would be.
    """

    def __init__(self, port: int) -> None:
        self.came: list[str] = []  # by `question`
        self.answered: list[str] = []
        self._lock = threading.Lock()
        self._server = _Proxy((HOST, 0), type("Handler", (_Forward,), {"counting": self, "to": port}))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_port}/v1"

    def note(self, where: list[str], body: bytes) -> None:
        with self._lock:
            where.append(question(json.loads(body)["messages"]))

    def begin_again(self) -> tuple[list[str], list[str]]:
        """What came and what was answered since the last time."""
        with self._lock:
            found = list(self.came), list(self.answered)
            self.came.clear()
            self.answered.clear()
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that was killed."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    counting: Counting
    to: int

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = http.client.HTTPConnection(HOST, self.to, timeout=600)
        try:
            server.request("POST", self.path, body, {"Content-Type": "application/json"})
            self.counting.note(self.counting.came, body)
            answer = server.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException):
            self.close_connection = True
            return
        finally:
            server.close()
        if answer.status == 200:
            self.counting.note(self.counting.answered, body)
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


def transformers_command(model: Path) -> list[str]:
    """``transformers serve`` with the model in a folder."""
    return [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--device", "cpu"]


def question(messages: Sequence[Mapping[str, str]]) -> str:
    """What tells one question from another: a hash of what is said."""
    return hashlib.sha256(json.dumps([dict(one) for one in messages], sort_keys=True).encode()).hexdigest()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
