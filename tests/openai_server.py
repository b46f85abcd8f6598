"""An OpenAI-compatible server for tests: chat completions of a real, tiny, random Llama over bytes, and a log.

`Servers` starts one process that builds the model and forks a server for each `start`, so that a server may be killed
and started again in milliseconds. What a server does beyond answering is in its settings, one JSON object:

* ``port``: 0 takes a free one. ``log``: a file that gets one JSON line for each step of a request.
* ``key``: asked for as a bearer token; a wrong one is repeated in part in the 401, as hosted services do.
* ``delay``: seconds before each answer. ``limit_every``: every so many requests get 429 with Retry-After.
  ``gone_after``: after so many requests the model is unknown. ``unfit``: what is in a question that is not taken.
* ``fault``: how all answers are spoiled: ``html``, ``no_choices``, ``no_logprobs``, ``cut``, ``filtered``, ``hang``,
  ``unfit`` (400), ``no_usage``.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODEL = "tiny-judge"


@dataclass
class Running:
    """A server that was started."""

    pid: int
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def lines(self, step: str) -> list[str]:
        """Hashes of the requests that came to a step: came, answered, or a status other than 200; in order."""
        if not self.log.exists():
            return []
        found = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        return [line["request"] for line in found if line["step"] == step]


class Servers:
    """Starts and kills servers; all that are left end with `close`."""

    def __init__(self, folder: Path) -> None:
        repository = Path(__file__).parents[1]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
        self.folder, self._count = folder, 0
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.openai_server"],
            cwd=repository,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, **settings: Any) -> Running:
        """A server that listens."""
        self._count += 1
        log = Path(settings.pop("log", self.folder / f"{self._count}.jsonl"))
        assert self._parent.stdin
        assert self._parent.stdout
        self._parent.stdin.write(json.dumps({"port": 0, "log": str(log), **settings}) + "\n")
        self._parent.stdin.flush()
        pid, port = map(int, self._parent.stdout.readline().split())
        return Running(pid, port, log)

    @staticmethod
    def kill(running: Running) -> None:
        """SIGKILL, and wait until nobody listens."""
        os.kill(running.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", running.port)):
                    return
            time.sleep(0.01)
        raise AssertionError("it still listens")

    def close(self) -> None:
        """End all: a server ends with its parent."""
        self._parent.kill()
        self._parent.wait(timeout=20)
        for pipe in (self._parent.stdin, self._parent.stdout):
            assert pipe
            pipe.close()


class Tiny:
    """Next-byte log-probabilities of a random Llama after the messages, in a plain chat format."""

    def __init__(self) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=256,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=8192,
                initializer_range=0.4,  # so that what it says depends on what it reads
            )
        ).eval()
        self.lock = threading.Lock()

    def answer(self, messages: list[dict[str, str]], max_tokens: int, top: int) -> tuple[str, list[Any], int]:
        """Greedy text, the most likely tokens of each place with log-probabilities, and the prompt's length."""
        import torch

        prompt = "".join(f"<{m['role']}>{m['content']}\n" for m in messages) + "<assistant>"
        ids = list(prompt.encode("utf-8"))
        said: list[int] = []
        listed = []
        with self.lock, torch.inference_mode():
            for _ in range(max_tokens):
                logits = self.model(torch.tensor([ids + said])).logits[0, -1].float().clone()
                # Printable ASCII only, so that each token is a text; the letters of verdicts are likely.
                logits[:32] = logits[127:] = -torch.inf
                logits[[65, 66, 67, 49, 50, 51, 52, 53]] += 8.0
                logprobs = logits.log_softmax(-1)
                values, tokens = logprobs.topk(max(1, top))
                listed.append([(chr(t), v) for t, v in zip(tokens.tolist(), values.tolist(), strict=True)])
                said.append(int(tokens[0]))
        return "".join(map(chr, said)), listed, len(ids)


class Handler(BaseHTTPRequestHandler):
    """POST /v1/chat/completions."""

    protocol_version = "HTTP/1.1"
    tiny: Tiny
    settings: dict[str, Any]
    count = 0
    counting = threading.Lock()

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.digest = hashlib.sha256(body).hexdigest()
        self.note("came")
        with Handler.counting:
            Handler.count += 1
            turn = Handler.count
        if (refusal := self.refused(json.loads(body), turn)) is not None:
            status, message, headers = refusal
            self.note(str(status))
            self.send(status, json.dumps({"error": {"message": message, "code": None}}).encode(), headers)
            return
        time.sleep(self.settings.get("delay", 0.0))
        self.send(200, self.completion(json.loads(body)), {})
        self.note("answered")

    def refused(self, asked: dict[str, Any], turn: int) -> tuple[int, str, dict[str, str]] | None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        every = self.settings.get("limit_every")
        if self.settings.get("key") not in (None, given):
            masked = f"{given[:7]}{'*' * 12}{given[-4:]}"
            return 401, f"Incorrect API key provided: {masked} ({given}). You can find your API key at …", {}
        gone = turn > self.settings.get("gone_after", turn)
        if self.path != "/v1/chat/completions" or asked["model"] != MODEL or gone:
            return 404, f"The model {asked['model']} does not exist for {given}", {}
        if every and turn % every == 0:
            return 429, f"Rate limit reached for {given}", {"Retry-After": "1"}
        unfit = self.settings.get("unfit")
        if self.settings.get("fault") == "unfit" or (unfit and unfit in json.dumps(asked["messages"])):
            return 400, f"maximum context length is 8 tokens, key {given} sk-***{given[-4:]}", {}
        return None

    def completion(self, asked: dict[str, Any]) -> bytes:
        fault = self.settings.get("fault")
        if fault == "hang":
            time.sleep(3600)
        if fault == "html":
            return b"<html>It works!</html>"
        text, listed, read = self.tiny.answer(asked["messages"], asked["max_tokens"], asked.get("top_logprobs", 0))
        content = [
            {**_token(*top[0]), "top_logprobs": [_token(*one) for one in top]}
            for top in listed
            if asked.get("logprobs")
        ]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "logprobs": {"content": content} if asked.get("logprobs") and fault != "no_logprobs" else None,
            "finish_reason": {"filtered": "content_filter", "cut": "length"}.get(fault or "", "stop"),
        }
        whole = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [] if fault == "no_choices" else [choice],
            "usage": {"prompt_tokens": read, "completion_tokens": len(text), "total_tokens": read + len(text)},
        }
        if fault == "no_usage":
            del whole["usage"]
        return json.dumps(whole).encode()

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def note(self, step: str) -> None:
        line = json.dumps({"request": self.digest, "step": step}).encode() + b"\n"
        file = os.open(self.settings["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line)  # one write: lines of several threads do not mix
        os.close(file)


def _token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _serve(settings: dict[str, Any], tell: int, parent: int) -> None:
    """In a fork: serve until killed, or until the parent is no more."""
    Handler.settings = settings
    server = ThreadingHTTPServer(("127.0.0.1", settings["port"]), Handler)
    server.daemon_threads = True
    os.write(tell, f"{os.getpid()} {server.server_port}\n".encode())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(0)


def main() -> None:
    """Build the model, then fork a server for each line of stdin."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    Handler.tiny = Tiny()
    for line in sys.stdin:
        parent = os.getpid()
        if os.fork() == 0:
            _serve(json.loads(line), sys.stdout.fileno(), parent)


if __name__ == "__main__":
    main()
