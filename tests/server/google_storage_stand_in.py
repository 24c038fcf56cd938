"""As much of google-cloud-storage as uploads a file: its very requests (3.17.1), where the library is not installed.

A test puts it where programs import `google.cloud.storage` from.
"""

import base64
import hashlib
import json
import os
import secrets
from pathlib import Path

import httpx


class Client:
    def __init__(self, project, credentials):
        self.project, self.credentials = project, credentials

    def bucket(self, name):
        return Bucket(self, name)


class Bucket:
    def __init__(self, client, name):
        self.client, self.name = client, name

    def blob(self, name):
        return Blob(self, name)


class Blob:
    def __init__(self, bucket, name):
        self.bucket, self.name = bucket, name

    def upload_from_filename(self, filename):
        data = Path(filename).read_bytes()
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        root = os.environ["STORAGE_EMULATOR_HOST"]
        key = self.bucket.client.credentials.token
        reply = upload(root, self.bucket.name, {"name": self.name, "md5Hash": md5}, data, key)
        reply.raise_for_status()


def upload(root, bucket, head, data, key, boundary=None):
    boundary = boundary or b"=" * 15 + secrets.token_hex(9).encode() + b"=="
    body = b"--" + boundary + b"\r\ncontent-type: application/json; charset=UTF-8\r\n\r\n"
    body += json.dumps(head).encode() + b"\r\n--" + boundary
    body += b"\r\ncontent-type: application/octet-stream\r\n\r\n" + data + b"\r\n--" + boundary + b"--"
    kind = b'multipart/related; boundary="' + boundary + b'"'
    return httpx.post(
        f"{root}/upload/storage/v1/b/{bucket}/o?uploadType=multipart",
        content=body,
        headers={"content-type": kind, "authorization": f"Bearer {key}"},
        timeout=60,
    )
