"""A small Hugging Face Hub on this machine: the endpoints that huggingface_hub speaks to, over real HTTP.

`HF_ENDPOINT` and the cache's place are read when huggingface_hub is imported, so `Hub.run` runs the code under test in a process of
its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

Files = Mapping[str, bytes]
CLI = "from jobonnx.cli.main import main; main()"  # the command line, for `Hub.process`
CLOSED = "http://127.0.0.1:9"  # the discard port: nobody listens


@dataclass
class Repository:
    """Commits and the names that point at them."""

    commits: dict[str, Files] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # branch or tag -> commit
    gated: bool = False

    def push(self, files: Files, branch: str = "main") -> str:
        """Add a commit with these files, all of them; return its 40 hex digits."""
        commit = hashlib.sha1(b"".join(name.encode() + data for name, data in sorted(files.items()))).hexdigest()
        self.commits[commit] = dict(files)
        self.names[branch] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        commit = self.names.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass
class Hub:
    """Repositories by id, and what was asked of them."""

    address: str
    home: Path  # HF_HOME of the processes that `run` starts
    repositories: dict[str, Repository] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)  # paths of the files that were sent
    on_download: Callable[[str], None] = lambda name: None  # called after a file was sent

    def push(self, name: str, content: Path | Files, branch: str = "main") -> str:
        """Commit a folder's files (or a mapping of path to bytes) to a repository; return the commit."""
        files = content if isinstance(content, Mapping) else read_files(content)
        return self.repositories.setdefault(name, Repository()).push(files, branch)

    def run(
        self, code: str, *arguments: str, endpoint: str | None = None, offline: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run Python code in a process that knows this Hub and no other; JobonnxErrors end it with their sentence on stderr."""
        wrapped = (
            "import sys\nfrom jobonnx.errors import JobonnxError\ntry:\n"
            + "".join(f"    {line}\n" for line in code.strip().splitlines())
            + "except JobonnxError as error:\n    sys.exit(str(error))\n"
        )
        return self.process("-c", wrapped, *arguments, endpoint=endpoint, offline=offline)

    def process(self, *command: str, endpoint: str | None = None, offline: bool = False) -> subprocess.CompletedProcess[str]:
        """Run `python *command` against this Hub."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE"))}
        added = {"HF_ENDPOINT": endpoint or self.address, "HF_HOME": str(self.home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        added |= {"HF_HUB_OFFLINE": "1"} if offline else {}
        added |= {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
        return subprocess.run(
            [sys.executable, *command], env=kept | added, capture_output=True, text=True, check=False, timeout=120
        )


def read_files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path with forward slashes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextmanager
def serve_hub(home: Path) -> Iterator[Hub]:
    """Serve a Hub on a free port of this machine, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}", home)
    server.hub = hub  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silent."""

    def _answer(self, body: bool) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(self.path.split("?")[0])
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(.+)", path)  # what huggingface_hub 2 asks for
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = info or tree or file
        repository = hub.repositories.get(match[1]) if match else None
        if match is None or repository is None:
            # The Hub does not tell strangers whether a repository is private or not there.
            return self._fail(401, "RepoNotFound", "Invalid username or password.")
        commit = repository.resolve(match[2] or "main")
        if commit is None:
            return self._fail(404, "RevisionNotFound", f"Invalid rev id: {match[2]}")
        files = repository.commits[commit]
        if info:
            siblings = [{"rfilename": name} for name in files]
            content = {"_id": "0", "id": match[1], "modelId": match[1], "sha": commit, "siblings": siblings, "tags": []}
            return self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"}, body)
        if tree:
            entries = [{"type": "file", "path": name, "size": len(data), "oid": _oid(data)} for name, data in files.items()]
            return self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"}, body)
        if repository.gated:
            return self._fail(403, "GatedRepo", "Access to this model is restricted.")
        if match[3] not in files:
            return self._fail(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        return self._send_file(match[3], files[match[3]], commit, body)

    def _send_file(self, name: str, data: bytes, commit: str, body: bool) -> None:
        headers = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        status, start = 200, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and body:
            status, start = 206, int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(status, data[start:], headers, body)
        if body:
            hub: Hub = self.server.hub  # type: ignore[attr-defined]
            hub.downloads.append(name)
            hub.on_download(name)

    def _fail(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {**(headers or {}), "X-Error-Code": code, "X-Error-Message": message}, self.command == "GET")

    def _send(self, status: int, data: bytes, headers: Mapping[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _oid(data: bytes) -> str:
    """Name a file's content as git does."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
