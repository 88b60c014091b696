"""What of the hub's API an upload asks for, on loopback: repositories, uploads in both modes, commits."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hub:
    """A hub's state: repository to whether it is private, and to its files; tokens that it saw."""

    address: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    refuses: int = 0


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    """A hub that listens on loopback until the end of the block."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _answer(self, data: object, status: int = 200) -> None:
            body = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            name = self.path.removeprefix("/api/models/").partition("?")[0]
            if name not in state.private:
                self._answer({"error": "Repository not found"}, 404)
                return
            self._answer({"id": name, "private": state.private[name], "sha": "0" * 40, "siblings": []})

        def do_PUT(self) -> None:
            state.objects[self.path.rpartition("/")[2]] = self._body()
            self._answer({})

        def do_POST(self) -> None:
            body = self._body()
            state.tokens.add(self.headers.get("Authorization"))
            if state.refuses:
                self._answer({"error": "no"}, state.refuses)
            elif self.path == "/api/repos/create":
                asked = json.loads(body)
                name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                private = asked.get("private", asked.get("visibility") == "private")
                known = name in state.private
                state.private.setdefault(name, bool(private))
                self._answer({"url": f"{state.address}/{name}"}, 409 if known else 200)
            elif "/preupload/" in self.path:
                listed = json.loads(body)["files"]
                modes = ("regular", "lfs")
                self._answer(
                    {
                        "files": [
                            {
                                "path": each["path"],
                                "uploadMode": modes[each["path"].endswith(".safetensors")],
                                "shouldIgnore": False,
                            }
                            for each in listed
                        ]
                    }
                )
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = json.loads(body)["objects"]
                self._answer(
                    {
                        "transfer": "basic",
                        "objects": [
                            {**o, "actions": {"upload": {"href": f"{state.address}/put/{o['oid']}"}}}
                            for o in objects
                        ],
                    }
                )
            elif "/commit/" in self.path:
                name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
                found = state.files.setdefault(name, {})
                for line in body.splitlines():
                    entry = json.loads(line)
                    value = entry["value"]
                    if entry["key"] == "file":
                        found[value["path"]] = base64.b64decode(value["content"])
                    elif entry["key"] == "lfsFile":
                        found[value["path"]] = state.objects[value["oid"]]
                url = f"{state.address}/{name}/commit/{'a' * 40}"
                self._answer({"success": True, "commitOid": "a" * 40, "commitUrl": url})
            else:
                self._answer({"errors": [], "warnings": []})

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
