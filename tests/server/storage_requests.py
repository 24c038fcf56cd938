"""A multipart upload by hand, as google-cloud-storage (3.17.1) writes it: also bodies that it would not send."""

import json
import secrets

import httpx


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
