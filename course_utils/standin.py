"""A stand-in for the Hugging Face hub that takes uploads on this machine: for lessons and tests.

    with standin.Hub() as hub:
        api = HfApi(hub.endpoint, token="none")
        api.create_repo("you/model")
        api.upload_folder(repo_id="you/model", folder_path=folder)
    hub.files["you/model"]["README.md"]  # the bytes that arrived

It answers the four requests that these two calls make: create, check of the card, preupload, commit. All files come
inside the commit, as the hub takes small ones; no storage for large files is imitated.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Hub(ThreadingHTTPServer):
    """Takes repositories on a free port of 127.0.0.1 while entered.

    Attributes:
        endpoint: the address, for `HfApi`.
        files: by repository, the bytes of each file by its name.
        requests: such as "POST /api/repos/create", in order.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []

    def __enter__(self) -> Hub:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *details: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_GET(self) -> None:
        self.server.requests.append(f"GET {self.path}")
        self._answer({"error": "This stand-in only takes uploads."}, 404)

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self._body()
        self.server.requests.append(f"POST {path}")
        match path.strip("/").split("/"):
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                repo_id = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
                self.server.files.setdefault(repo_id, {})
                self._answer({"url": f"{self.server.endpoint}/{repo_id}", "name": repo_id, "id": repo_id})
            case ["api", "validate-yaml"]:
                self._answer({"errors": [], "warnings": []})
            case ["api", "models", owner, name, "preupload", _]:
                wanted = json.loads(body)["files"]
                known = self.server.files.get(f"{owner}/{name}", {})
                self._answer({"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False,
                                         "oid": _git_hash(known.get(file["path"]))} for file in wanted]})  # fmt: skip
            case ["api", "models", owner, name, "commit", _]:
                self._commit(f"{owner}/{name}", body)
            case _:
                self._answer({"error": f"This stand-in has no {path}."}, 404)

    def _commit(self, repo_id: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                value = line["value"]
                self.server.files.setdefault(repo_id, {})[value["path"]] = base64.b64decode(value["content"])
        oid = hashlib.sha1(body).hexdigest()
        self._answer({"success": True, "commitUrl": f"{self.server.endpoint}/{repo_id}/commit/{oid}",
                      "commitOid": oid, "hookOutput": ""})  # fmt: skip

    def _answer(self, content: dict, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _git_hash(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
