"""A server on loopback that speaks as much of the hub's protocol as a dataset download needs."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

COMMIT = "c0ffee" * 6 + "c0ff"
REPOSITORY = "somebody/parameter-golf"


class FakeHub:
    """`files` by path, those above 100 bytes in large storage; what is asked for is kept in `requests`."""

    def __init__(self, files: dict[str, bytes]):
        self.files = dict(files)
        self.served = dict(files)
        """What is really sent: a change here is a corrupt transfer."""
        self.cut_once: dict[str, int] = {}
        """Bytes after which the next transfer of a file breaks off."""
        self.down = False
        self.requests: list[tuple[str, str | None]] = []
        """Path and Range header of each file transfer."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                hub.answer_get(self)

            def do_POST(self):
                hub.answer_post(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer_get(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(request.path.split("?")[0])
        if self.down:
            return self._send(request, 503, b"down")
        if path.startswith(f"/api/datasets/{REPOSITORY}/revision/"):
            info = {"id": REPOSITORY, "sha": COMMIT, "siblings": [], "tags": []}
            return self._send(request, 200, json.dumps(info).encode())
        resolve = f"/datasets/{REPOSITORY}/resolve/{COMMIT}/"
        if path.startswith(resolve) and path.removeprefix(resolve) in self.files:
            request.send_response(302)
            request.send_header("Location", f"{self.endpoint}/storage/{path.removeprefix(resolve)}")
            request.send_header("Content-Length", "0")
            return request.end_headers()
        if path.startswith("/storage/"):
            return self._send_file(request, path.removeprefix("/storage/"))
        return self._send(request, 404, b"no such thing")

    def answer_post(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"])).decode()
        if request.path != f"/api/datasets/{REPOSITORY}/paths-info/{COMMIT}":
            return self._send(request, 404, b"no such thing")
        infos = []
        for path in parse_qs(body)["paths"]:
            if path in self.files:
                data = self.files[path]
                info = {"type": "file", "path": path, "size": len(data)}
                info["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                if len(data) > 100:
                    sha256 = hashlib.sha256(data).hexdigest()
                    info["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
                infos.append(info)
        return self._send(request, 200, json.dumps(infos).encode())

    def _send(self, request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _send_file(self, request: BaseHTTPRequestHandler, path: str) -> None:
        data = self.served[path]
        wanted = request.headers.get("Range")
        self.requests.append((path, wanted))
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        request.send_response(206 if wanted else 200)
        request.send_header("Content-Length", str(len(data) - start))
        if wanted:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        if path in self.cut_once:
            request.wfile.write(data[start : self.cut_once.pop(path)])
            request.close_connection = True
            return
        request.wfile.write(data[start:])
