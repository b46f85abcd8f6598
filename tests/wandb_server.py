"""A server that speaks as much of W&B's protocol as a run needs, and fails in every way that it is told to.

``python -m tests.wandb_server FOLDER`` serves on a free port, which it writes to ``FOLDER/port``. What
``FOLDER/fault`` holds decides how it answers from then on: nothing (well), ``hang`` (never), ``500``, ``401`` or
``drop`` (the connection ends); with a word after it, only requests with that word in their path. Each row of a run's
history that it was sent is a line of ``FOLDER/history``. What it is told of runs and artifacts is a line each of
``FOLDER/told``: ``run ID JOB_TYPE``, ``made ARTIFACT RUN``, ``used ARTIFACT RUN``, ``file ARTIFACT NAME MD5`` of each
that it was sent, and ``committed ARTIFACT`` when it is whole; an artifact is a name and a digest, so that equal ones
are one version.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

HANGS = 600.0
COMMITTED: set[str] = set()
"""Versions of artifacts that are whole."""


def answer(query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """What W&B says to a query; nothing to those that a run can do without."""
    user = {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}, "email": "me"}
    if "mutation UpsertBucket" in query:
        project = {"id": "p", "name": variables.get("project", "rft"), "entity": {"id": "e", "name": "me"}}
        bucket = {"id": "b", "name": variables.get("name"), "displayName": variables.get("displayName")}
        bucket |= {"description": None, "config": "{}", "sweepName": None, "project": project, "historyLineCount": 0}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if "mutation CreateRunFiles" in query:
        files = [
            {"name": name, "uploadUrl": f"{variables['base']}/upload/{name}"} for name in variables.get("files", [])
        ]
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
    if "mutation CreateArtifact(" in query:  # it has all of them already
        made = {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}}
        return {"createArtifact": {"artifact": made}}
    if "mutation UseArtifact(" in query:
        return {"useArtifact": {"artifact": {"id": "a"}}}
    if "iewer" in query:
        return {"viewer": user}
    return of_artifacts(query, variables)


def resume_status(rows: list[dict[str, Any]], variables: dict[str, Any]) -> dict[str, Any]:
    """What W&B says of a run that it has rows of, to who asks whether it goes on."""
    lines = {"logLineCount": 0, "historyLineCount": len(rows), "eventsLineCount": 0}
    tails = {"historyTail": json.dumps([json.dumps(rows[-1])]), "eventsTail": "[]", "summaryMetrics": "{}"}
    about = {"id": "b", "name": variables["name"], "displayName": "a run", "config": "{}", "tags": []}
    bucket = {**about, **lines, **tails, "wandbConfig": json.dumps({"t": 1})}
    entity = {"id": "e", "name": "me"}
    return {"model": {"id": "p", "name": variables["project"], "entity": entity, "bucket": bucket}}


def of_artifacts(query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """The same for artifacts: their files are taken, and what is whole is not asked for again."""
    given = variables.get("input") or variables
    upload = {"uploadUrl": f"{variables['base']}/upload/manifest", "uploadHeaders": []}
    if "mutation CreateArtifactFiles" in query:
        of = {"uploadMultipartUrls": None, "storagePath": "kept", "uploadHeaders": []}
        nodes = [
            of
            | {"uploadUrl": f"{variables['base']}/upload/file/{quote(one['artifactID'])}/{quote(one['name'], '')}"}
            | {"artifact": {"id": one["artifactID"]}}
            for one in given["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
    for name in ("createArtifactManifest", "updateArtifactManifest"):
        if f"{name}(" in query:
            return {name: {"artifactManifest": {"id": "m", "file": {"id": "f", **upload}}}}
    if "mutation CreateArtifact " in query:
        version = f"{given['artifactCollectionName']}:{given['digest']}"
        state = "COMMITTED" if version in COMMITTED else "PENDING"
        artifact = {"id": version, "state": state, "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}
    if "mutation CommitArtifact" in query:
        COMMITTED.add(given["artifactID"])
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}
    if "mutation UseArtifact" in query:
        return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}
    return {}


def told(query: str, variables: dict[str, Any]) -> str | None:
    """What a query tells, as a line; None if it only asks."""
    given = variables.get("input") or variables
    if "mutation UpsertBucket" in query and given.get("jobType"):
        return f"run {given['name']} {given['jobType']}"
    if "mutation CreateArtifact " in query and given.get("runName"):
        return f"made {given['artifactCollectionName']}:{given['digest']} {given['runName']}"
    if "mutation UseArtifact" in query:
        return f"used {given['artifactID']} {given['runName']}"
    if "mutation CommitArtifact" in query:
        return f"committed {given['artifactID']}"
    return None


def sent_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows that a server was sent, and has written whole."""
    file = folder / "history"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    folder: Path
    protocol_version = "HTTP/1.1"

    def fails(self) -> bool:
        """Whether it was told to fail; then it has."""
        fault, _, part = (self.folder / "fault").read_text(encoding="utf-8").strip().partition(" ")
        fault = fault if part in self.path else ""
        with (self.folder / "asked").open("a", encoding="utf-8") as file:
            file.write(f"{self.command} {self.path} {fault}\n")
        if fault == "hang":
            time.sleep(HANGS)
        if fault in ("hang", "drop"):
            self.close_connection = True
        elif fault:
            self.send({"error": fault}, int(fault))
        return bool(fault)

    def note(self, line: str) -> None:
        """Add to what it was told."""
        with (self.folder / "told").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def send(self, data: Any, code: int = 200) -> None:
        """Answer in JSON."""
        body = json.dumps(data).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """Anything; of a file that is uploaded, note what it is."""
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.fails():
            if self.path.startswith("/upload/file/"):
                version, name = self.path.split("/")[3:]
                md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
                self.note(f"file {unquote(version)} {name} {md5}")
            self.send({})

    do_PUT = do_GET

    def do_POST(self) -> None:
        """A query, or what a run streams."""
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            sent = gzip.decompress(sent)
        body = json.loads(sent or b"{}")
        if self.fails():
            return
        if self.path.endswith("/graphql"):
            variables = (body.get("variables") or {}) | {"base": f"http://{self.headers['Host']}"}
            if line := told(body.get("query", ""), variables):
                self.note(line)
            query, rows = body.get("query", ""), sent_rows(self.folder)
            asked = "query RunResumeStatus" in query and rows and (self.folder / "resumes").exists()
            self.send({"data": resume_status(rows, variables) if asked else answer(query, variables)})
            return
        lines = body.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        with (self.folder / "history").open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
        self.send({"limits": {}})

    def log_message(self, *args: Any) -> None:
        """Nothing."""


class Server:
    """A process of ``tests.wandb_server``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.wandb_server", str(folder)], env=environment, stderr=subprocess.DEVNULL
        )
        while not (folder / "port").exists():
            assert self._process.poll() is None
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{(folder / 'port').read_text()}"

    def fail(self, fault: str) -> None:
        """Let it fail from now on."""
        if fault == "refuse":
            self.close()
        else:
            (self.folder / "fault").write_text(fault)

    def resumes(self) -> None:
        """Say of a run from now on which rows there are; till then none is known."""
        (self.folder / "resumes").touch()

    def rows(self) -> list[dict[str, Any]]:
        """The rows that it was sent."""
        return sent_rows(self.folder)

    def steps(self) -> list[float]:
        """Their steps."""
        return [row["_step"] for row in self.rows()]

    def told(self) -> list[list[str]]:
        """What it was told of runs and artifacts, the words of a line each."""
        file = self.folder / "told"
        return [line.split() for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []

    def files(self, version: str) -> dict[str, str]:
        """The files of an artifact that it was sent, by name, with their MD5 as W&B writes it; if it is whole."""
        told = self.told()
        assert ["committed", version] in told
        return {unquote(words[2]): words[3] for words in told if words[:2] == ["file", version]}

    def asked(self) -> list[str]:
        """What it was asked, a line each: method, path and how it failed."""
        file = self.folder / "asked"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def main(folder: Path) -> None:
    """Serve until killed."""
    Handler.folder = folder
    (folder / "fault").touch()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    (folder / "port.new").write_text(str(server.server_port), encoding="utf-8")
    (folder / "port.new").rename(folder / "port")
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
