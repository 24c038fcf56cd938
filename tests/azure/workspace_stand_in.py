"""The part of an Azure Machine Learning workspace that a job's submission speaks to, on loopback, over TLS."""

import datetime
import ipaddress
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key: the client library sends no token without TLS."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = folder / "cert.pem", folder / "key.pem"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_path.write_bytes(key.private_bytes(*encoding))
    return certificate_path, key_path


class Workspace(ThreadingHTTPServer):
    """Takes code, environment and job; hands out a token as a managed identity does."""

    daemon_threads = True

    def __init__(self, folder: Path, *, signs_in: bool = True, refuses_jobs: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        certificate, key = write_certificate(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.signs_in, self.refuses_jobs = signs_in, refuses_jobs
        self.blobs: dict[str, bytes] = {}
        self.jobs: dict[str, dict] = {}
        self.environments: list[dict] = []
        self.tokens: set[str] = set()
        self.url = f"https://127.0.0.1:{self.server_port}"
        self.environment = {
            "REQUESTS_CA_BUNDLE": str(certificate),
            "AZUREML_DEV_URL_MFE": self.url,
            "IDENTITY_ENDPOINT": f"{self.url}/token",
            "IDENTITY_HEADER": "loopback",
        }

    def __enter__(self) -> "Workspace":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Workspace

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path, _, query = self.path.partition("?")
        self.server.tokens.add(self.headers.get("authorization", ""))
        status, value = self._route(path, query, body)
        data = json.dumps(value).encode()
        self.send_response(status)
        headers = {"content-type": "application/json", "content-length": str(len(data)), "etag": "1"}
        for name, text in {**headers, "last-modified": "Sat, 21 Nov 2026 10:00:00 GMT"}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = _answer  # noqa: N815 - the names of http.server

    def _route(self, path: str, query: str, body: bytes) -> tuple[int, dict]:
        server = self.server
        if path == "/token":
            token = {"access_token": "loopback-token", "expires_on": "4102444800", "token_type": "Bearer"}
            return (200, token) if server.signs_in else (400, {"error": "no identity"})
        if path.startswith("/account"):
            return self._store(path, query, body)
        if "/jobs/" in path:
            return self._take_job(path, json.loads(body))
        if "/codes/" in path or "/environments/" in path:
            return self._keep_asset(path, body)
        return 404, {"error": {"code": "NotFound", "message": f"nothing at {path}"}}

    def _keep_asset(self, path: str, body: bytes) -> tuple[int, dict]:
        server = self.server
        if path.endswith("/startPendingUpload"):
            sas = {"credentialType": "SAS", "sasUri": f"{server.url}/account/container?sv=2020&sig=secret"}
            place = {"blobUri": f"{server.url}/account/container", "storageAccountArmId": "/s/x", "credential": sas}
            return 200, {"blobReferenceForConsumption": place}
        if self.command == "GET":
            return 200, {"value": []}
        properties = json.loads(body)["properties"]
        if "/environments/" in path:
            server.environments.append(properties)
        return 200, {"id": path, "name": "1", "properties": properties}

    def _store(self, path: str, query: str, body: bytes) -> tuple[int, dict]:
        if self.command == "HEAD":
            return 404, {}
        if "comp=metadata" in query:
            return 200, {}
        self.server.blobs[path.removeprefix("/account/container/")] = body
        return 201, {}

    def _take_job(self, path: str, job: dict) -> tuple[int, dict]:
        if self.server.refuses_jobs:
            return 400, {"error": {"code": "UserError", "message": "Unknown compute target 'gpu-cluster'."}}
        name = path.rsplit("/", 1)[-1]
        self.server.jobs[name] = job["properties"]
        studio = {"Studio": {"endpoint": f"https://ml.azure.com/runs/{name}", "jobServiceType": "Studio"}}
        properties = {**job["properties"], "status": "Starting", "services": studio}
        return 200, {"id": path, "name": name, "properties": properties}
