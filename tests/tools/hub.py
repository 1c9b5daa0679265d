"""The Hugging Face hub played on 127.0.0.1: as much of its protocol as loading data sets and models needs."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the hub holds, how it behaves, and what was asked of it.

    Attributes:
        repositories: folders by name, "owner/model" or "datasets/owner/set".
        failing: which ranges, by their number among `requests` with one, are answered with an error.
        requests: method, path and range of every request.
        url: its HF_ENDPOINT.
    """

    repositories: dict[str, Path]
    failing: range = range(0)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""

    def ranges(self) -> list[tuple[str, int, int]]:
        """Path, first and last byte of every range asked for."""
        asked = [(path, range_.removeprefix("bytes=").split("-")) for _, path, range_ in self.requests if range_]
        return [(path, int(first), int(last)) for path, (first, last) in asked]


@contextmanager
def serving(repositories: dict[str, Path]):
    hub = Hub(repositories)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield hub
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        api = path.startswith("api/")
        path = path.removeprefix("api/").removeprefix("models/") if api else path
        name = next((name for name in self.hub.repositories if f"{path}/".startswith(f"{name}/")), None)
        if name is None:
            return self._json(404, {"error": "Repository not found"}, "RepoNotFound")
        kind, _, rest = path[len(name) + 1 :].partition("/")
        revision, _, inside = rest.partition("/")
        if revision not in ("", "main", COMMIT):
            return self._json(404, {"error": "Revision not found"}, "RevisionNotFound")
        folder = self.hub.repositories[name]
        if kind == "resolve":
            return self._file(folder / inside)
        if kind == "tree":
            return self._tree(folder, inside, "recursive=true" in self.path.lower())
        files = [{"rfilename": str(p.relative_to(folder))} for p in sorted(folder.rglob("*")) if p.is_file()]
        self._json(200, {"id": name.removeprefix("datasets/"), "sha": COMMIT, "siblings": files})

    do_HEAD = do_GET  # noqa: N815  (the name http.server calls)

    def _tree(self, folder: Path, inside: str, recursive: bool):
        if not (folder / inside).is_dir():
            return self._json(404, {"error": "Entry not found"}, "EntryNotFound")
        entries = sorted((folder / inside).rglob("*") if recursive else (folder / inside).iterdir())
        self._json(200, [
            {
                "type": "file" if p.is_file() else "directory", "path": str(p.relative_to(folder)),
                "size": p.stat().st_size if p.is_file() else 0, "oid": hashlib.sha1(str(p).encode()).hexdigest(),
            }
            for p in entries
        ])  # fmt: skip

    def _file(self, path: Path):
        if not path.is_file():
            return self._json(404, {"error": "Entry not found"}, "EntryNotFound")
        content = path.read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if (range_ := self.headers.get("Range")) is None:
            return self._answer(200, content, headers)
        if len(self.hub.ranges()) - 1 in self.hub.failing:
            return self._json(503, {"error": "Try again"})
        first, last = (int(number) if number else None for number in range_.removeprefix("bytes=").split("-"))
        last = min(len(content) - 1 if last is None else last, len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._answer(206, content[first : last + 1], headers)

    def _json(self, status: int, value, code: str = ""):
        headers = {"Content-Type": "application/json", "X-Repo-Commit": COMMIT}
        self._answer(status, json.dumps(value).encode(), headers | ({"X-Error-Code": code} if code else {}))

    def _answer(self, status: int, content: bytes, headers: dict[str, str]):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass
