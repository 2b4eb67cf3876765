"""A server on loopback that speaks as much of the hub's protocol as its client needs to write and read.

Repositories are made, files go up as git objects or through large storage, a commit is one request, and
branches and commits are resolved and downloaded. A token's text names the user whom it lets write.
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LARGE_BYTES = 1_000
"""Above it a file goes into large storage."""
LICENCES = ("mit", "apache-2.0", "odc-by", "other")


class Repository:
    """Files by commit; the newest commit is the branch main."""

    def __init__(self, private: bool):
        self.private = private
        self.commits: dict[str, dict[str, bytes]] = {}
        self.add_commit({})

    def add_commit(self, files: dict[str, bytes]) -> str:
        number = len(self.commits).to_bytes(2, "big")
        content = number + b"".join(name.encode() + data for name, data in sorted(files.items()))
        self.newest = hashlib.sha1(content).hexdigest()
        self.commits[self.newest] = files
        return self.newest

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.newest]

    def find(self, revision: str) -> str | None:
        commit = self.newest if revision == "main" else revision
        return commit if commit in self.commits else None


class WritableHub:
    """Repositories by kind and name, in `repositories`; `requests` has method and path of each request."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.ignored: set[str] = set()
        """Files that a .gitignore of the repositories excludes."""
        self.no_commits = False
        """Tokens may make repositories, and nothing else."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def handle_request(self) -> None:
                hub.answer(self)

            do_GET = do_HEAD = do_POST = do_PUT = handle_request

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, name: str, kind: str = "model") -> dict[str, bytes]:
        return self.repositories[kind, name].files

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        address = urlsplit(request.path)
        parts = [unquote(part) for part in address.path.strip("/").split("/")]
        self.requests.append((request.command, address.path))
        body = read_body(request)
        user = (request.headers.get("Authorization") or "").removeprefix("Bearer hf_") or None
        if parts == ["api", "repos", "create"]:
            return self._create(request, json.loads(body), user)
        if parts == ["api", "validate-yaml"]:
            return self._validate(request, json.loads(body)["content"])
        if parts[0] == "large":
            return self._large(request, parts[1], body)
        if parts[0] == "api":
            return self._repository(request, parts[1].removesuffix("s"), parts[2:], body, user)
        kind = "dataset" if parts[0] == "datasets" else "model"
        parts = parts[1:] if kind == "dataset" else parts
        if parts[1].endswith(".git"):
            return self._batch(request, json.loads(body))
        return self._resolve(request, kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]), user)

    def _create(self, request: BaseHTTPRequestHandler, asked: dict[str, Any], user: str | None) -> None:
        kind, owner = asked.get("type") or "model", asked.get("organization") or user
        name = f"{owner}/{asked['name']}"
        if user is None:
            return send_error(request, 401, "Invalid username or password.")
        if owner != user:
            return send_error(request, 403, f"You don't have the rights to create a model under {owner}")
        answer = {"url": f"{self.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"}
        if (kind, name) in self.repositories:
            return send(request, 409, {"error": "You already created this repo", **answer})
        private = asked.get("private") or asked.get("visibility") == "private"
        self.repositories[kind, name] = Repository(bool(private))
        return send(request, 200, answer)

    def _validate(self, request: BaseHTTPRequestHandler, card: str) -> None:
        metadata = yaml.safe_load(card.split("---\n")[1])
        licence = metadata.get("license", "mit")
        errors = [] if licence in LICENCES else [{"message": f'"license" must be one of {LICENCES}'}]
        send(request, 400 if errors else 200, {"errors": errors, "warnings": []})

    def _batch(self, request: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        objects = []
        for wanted in asked["objects"]:
            actions = {
                name: {"href": f"{self.endpoint}/large/{wanted['oid']}"} for name in ("upload", "verify")
            }
            objects.append(wanted if wanted["oid"] in self.large else {**wanted, "actions": actions})
        send(request, 200, {"transfer": "basic", "objects": objects})

    def _large(self, request: BaseHTTPRequestHandler, oid: str, body: bytes) -> None:
        if request.command == "PUT":
            if hashlib.sha256(body).hexdigest() != oid:
                return send_error(request, 400, "another sha256")
            self.large[oid] = body
        elif request.command == "POST":
            asked = json.loads(body)
            if len(self.large[asked["oid"]]) != asked["size"]:
                return send_error(request, 400, "another size")
        else:
            return send(request, 200, self.large[oid])
        return send(request, 200, {})

    def _repository(
        self, request: BaseHTTPRequestHandler, kind: str, parts: list[str], body: bytes, user: str | None
    ) -> None:
        name, rest = "/".join(parts[:2]), parts[2:]
        repository = self.repositories.get((kind, name))
        if repository is None or (repository.private and user != parts[0]):
            return send_error(request, 404 if user else 401, "Repository not found", "RepoNotFound")
        commit = repository.find(rest[1] if len(rest) > 1 else "main")
        if commit is None:
            return send_error(request, 404, "Invalid rev id", "RevisionNotFound")
        files = repository.commits[commit]
        what = rest[0] if rest else "revision"
        if what in ("preupload", "commit") and (user != parts[0] or self.no_commits):
            return send_error(request, 403, "Forbidden")
        if what == "preupload":
            asked = json.loads(body)["files"]
            answer: Any = {"files": [self._upload_mode(file, files) for file in asked]}
        elif what == "commit":
            commit = repository.add_commit(self._changed(files, body))
            answer = {"commitUrl": f"{self.endpoint}/{name}/commit/{commit}", "commitOid": commit}
        elif what == "tree":
            answer = [describe(path, data) for path, data in files.items()]
        else:
            siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
            answer = {"id": name, "sha": commit, "siblings": siblings, "tags": []}
            answer["private"] = repository.private
        return send(request, 200, answer)

    def _upload_mode(self, file: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
        path, mode = file["path"], "lfs" if file["size"] > LARGE_BYTES else "regular"
        known = describe(path, files[path])["oid"] if path in files else None
        return {"path": path, "uploadMode": mode, "shouldIgnore": path in self.ignored, "oid": known}

    def _changed(self, files: dict[str, bytes], body: bytes) -> dict[str, bytes]:
        changed = dict(files)
        for line in map(json.loads, body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                changed[value["path"]] = self.large[value["oid"]]
            elif key == "deletedFile":
                del changed[value["path"]]
        return changed

    def _resolve(
        self,
        request: BaseHTTPRequestHandler,
        kind: str,
        name: str,
        revision: str,
        path: str,
        user: str | None,
    ) -> None:
        repository = self.repositories.get((kind, name))
        commit = repository.find(revision) if repository else None
        if repository is None or commit is None or (repository.private and user != name.split("/")[0]):
            return send_error(request, 404, "Not found", "RepoNotFound")
        data = repository.commits[commit].get(path)
        if data is None:
            return send_error(request, 404, "Entry not found", "EntryNotFound")
        described = describe(path, data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{described["oid"]}"'}
        if "lfs" in described:
            oid = described["lfs"]["oid"]
            headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
            # By another name, as the hub's storage is another host.
            location = f"http://localhost:{self._server.server_port}/large/{oid}"
            return send(request, 302, b"", {**headers, "Location": location})
        return send(request, 200, data, headers)


def describe(path: str, data: bytes) -> dict[str, Any]:
    """A file as the hub lists it: its git object, and the one of large storage."""
    sha256 = hashlib.sha256(data).hexdigest()
    if len(data) <= LARGE_BYTES:
        blob = data
    else:
        blob = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
    info = {"type": "file", "path": path, "size": len(data)}
    info["oid"] = hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()
    if len(data) > LARGE_BYTES:
        info["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": len(blob)}
    return info


def read_body(request: BaseHTTPRequestHandler) -> bytes:
    """The body of a request, of known length or in chunks."""
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    body = b""
    while size := int(request.rfile.readline(), 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body


def send(
    request: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None
) -> None:
    """Answers with bytes, or with JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data)


def send_error(request: BaseHTTPRequestHandler, status: int, text: str, code: str | None = None) -> None:
    """Answers with an error as the hub does."""
    headers = {"X-Error-Message": text, **({"X-Error-Code": code} if code else {})}
    send(request, status, {"error": text}, headers)
