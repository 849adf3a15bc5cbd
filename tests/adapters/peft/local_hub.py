"""A local stand-in of the Hugging Face hub: the requests that pushing and loading a model send."""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LocalHub(ThreadingHTTPServer):
    """Model repositories in memory, with one branch and without large-file storage.

    Attributes:
        files: ``{repository: {path: content}}``.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.files: dict[str, dict[str, bytes]] = {}

    @property
    def url(self) -> str:
        """For ``HF_ENDPOINT``."""
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repository: str) -> str:
        """The name of a repository's current content, 40 hexadecimal digits."""
        hashes = sorted((path, _sha1(content)) for path, content in self.files[repository].items())
        return _sha1(json.dumps(hashes).encode())


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class _Requests(BaseHTTPRequestHandler):
    server: LocalHub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        match self._path():
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                repository = f"{asked['organization']}/{asked['name']}"
                status = 409 if repository in self.server.files else 200
                self.server.files.setdefault(repository, {})
                self._answer({"url": f"{self.server.url}/{repository}"}, status)
            case ["api", "validate-yaml"]:
                self._answer({"errors": [], "warnings": []})
            case ["api", "models", owner, name, "preupload", "main"]:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                self._answer({"files": files})
            case ["api", "models", owner, name, "commit", "main"]:
                repository = f"{owner}/{name}"
                for entry in map(json.loads, body.splitlines()):
                    if entry["key"] == "file":
                        content = base64.b64decode(entry["value"]["content"])
                        self.server.files[repository][entry["value"]["path"]] = content
                commit = self.server.commit(repository)
                self._answer(
                    {"commitOid": commit, "commitUrl": f"{self.server.url}/{repository}/commit/{commit}"}
                )
            case _:
                self._answer({"error": "unknown request"}, 404)

    def do_GET(self) -> None:
        match self._path():
            case ["api", "models", owner, name, *_] if f"{owner}/{name}" in self.server.files:
                repository = f"{owner}/{name}"
                siblings = [{"rfilename": path} for path in self.server.files[repository]]
                self._answer({"id": repository, "sha": self.server.commit(repository), "siblings": siblings})
            case [owner, name, "resolve", _, *path] if f"{owner}/{name}" in self.server.files:
                repository = f"{owner}/{name}"
                content = self.server.files[repository].get("/".join(path))
                headers = {"X-Repo-Commit": self.server.commit(repository)}
                if content is None:
                    self._answer({"error": "no such file"}, 404, headers | {"X-Error-Code": "EntryNotFound"})
                else:
                    self._answer(content, headers=headers | {"ETag": f'"{_sha1(content)}"'})
            case _:
                self._answer({"error": "no such repository"}, 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _path(self) -> list[str]:
        return self.path.partition("?")[0].strip("/").split("/")

    def _answer(
        self, content: dict | bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing is logged."""
