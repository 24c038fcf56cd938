"""A stand-in for the Hugging Face hub on the loopback: the few addresses that fetching a data set needs."""

import hashlib
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Datasets = Mapping[str, Mapping[str, bytes]]
Answer = tuple[bytes, Mapping[str, str]]


@contextmanager
def serve_hub(datasets: Datasets) -> Generator[tuple[str, list[str]]]:
    """Serve data sets, each its files by name; the server's address, and the files that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(with_body=True)

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def answer(self, *, with_body: bool) -> None:
            body, headers = find_answer(self.path.partition("?")[0], datasets, asked) or (b"", {})
            self.send_response(200 if headers else 404)
            for name, value in {"X-Error-Code": "RepoNotFound", **headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def find_answer(path: str, datasets: Datasets, asked: list[str]) -> Answer | None:
    """Body and headers of an address, or None where nothing is."""
    for name, files in datasets.items():
        if path.startswith(f"/api/datasets/{name}"):
            tree = [{"type": "file", "path": file, "size": len(files[file]), "oid": "0" * 40} for file in files]
            siblings = [{"rfilename": file} for file in files]
            known = {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
            return json.dumps(tree if "/tree/" in path else known).encode(), {"Content-Type": "application/json"}
        if path.startswith(f"/datasets/{name}/resolve/"):
            file = path.split("/resolve/", 1)[1].partition("/")[2]
            asked.append(file)
            if file in files:
                etag = hashlib.sha256(files[file]).hexdigest()
                return files[file], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
    return None
