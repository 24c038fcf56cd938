"""Uploads in pieces: Google's own library brings large files; what is cut off goes on, and nothing else is kept."""

import asyncio
import base64
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import google_crc32c
import httpx
import pytest
from google.api_core.exceptions import NotFound
from google.cloud import storage as google_storage
from google.oauth2.credentials import Credentials
from running import RunningServer, make_project_key

from kivnun.server.errors import ApiError
from kivnun.server.vertex import resumable
from kivnun.server.vertex.checksums import read_goog_hash, sum_file
from kivnun.server.vertex.resumable import Piece, ResumableUploads, read_range

MIB = 1 << 20
PIECE = 256 * 1024


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("buckets")
    (root / "mine").mkdir()
    return root


@pytest.fixture(scope="module")
def server(start_server: Callable[..., RunningServer], buckets: Path) -> RunningServer:
    return start_server("--bucket-dir", str(buckets), "--workers", "0", "--max-file-mib", "32")


@pytest.fixture
def bucket(server: RunningServer) -> Iterator[google_storage.Bucket]:
    options = {"api_endpoint": server.root_url}
    client = google_storage.Client(project="mine", credentials=Credentials(token=server.key), client_options=options)
    yield client.bucket("mine")
    client.close()


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def begin(server: RunningServer, name: str, **headers: str) -> str:
    address = f"{server.root_url}/upload/storage/v1/b/mine/o?uploadType=resumable"
    begun = httpx.post(address, json={"name": name}, headers={**server.headers, **headers})
    assert begun.status_code == 200, begun.text
    return begun.headers["location"]


def put(server: RunningServer, place: str, data: bytes, said: str, **headers: str) -> httpx.Response:
    return httpx.put(place, content=data, headers={**server.headers, "content-range": said, **headers})


def held(reply: httpx.Response) -> int:
    assert reply.status_code == 308, reply.text
    return int(reply.headers.get("range", "bytes=0--1").removeprefix("bytes=0-")) + 1


@pytest.mark.parametrize(("size", "chunk"), [(9 * MIB, None), (9 * MIB + 5, 4 * MIB), (PIECE, PIECE), (0, None)])
def test_the_library_brings_a_file_whole(bucket, buckets: Path, tmp_path: Path, size: int, chunk: int | None) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "rows").write_bytes(data[:size])
    blob = bucket.blob("deep/שלום.jsonl", chunk_size=chunk)
    blob.upload_from_filename(tmp_path / "rows")
    assert (buckets / "mine" / "deep" / "שלום.jsonl").read_bytes() == data[:size]
    assert blob.size == size
    assert blob.download_as_bytes() == bucket.get_blob("deep/שלום.jsonl").download_as_bytes() == data[:size]
    assert [path for path in files_of(buckets) if path.endswith(".partial")] == []


def test_a_file_of_unknown_length_comes_in_pieces(bucket, buckets: Path) -> None:
    with bucket.blob("stream", chunk_size=PIECE).open("wb") as file:
        for number in range(3):
            file.write(bytes([number]) * PIECE)
        file.write(b"end")
    assert (buckets / "mine" / "stream").read_bytes() == b"\0" * PIECE + b"\1" * PIECE + b"\2" * PIECE + b"end"


def test_bytes_are_read_by_their_places_and_an_older_object_is_not_there(bucket, server: RunningServer) -> None:
    blob, address = bucket.blob("old"), f"{server.root_url}/download/storage/v1/b/mine/o/old?alt=media"
    blob.upload_from_string("0123456789")
    ranges = {"bytes=2-4": (206, "234"), "bytes=8-99": (206, "89"), "bytes=7-": (206, "789"), "bytes=10-": (416, "")}
    for wanted, (code, text) in ranges.items():
        told = httpx.get(address, headers={**server.headers, "range": wanted})
        assert (told.status_code, told.text) == (code, text), wanted
    assert blob.download_as_bytes(start=3, end=5) == b"345"
    before = blob.generation
    blob.upload_from_string("new")
    assert bucket.blob("old", generation=blob.generation).download_as_bytes() == b"new"
    with pytest.raises(NotFound, match="another one"):
        bucket.blob("old", generation=before).download_as_bytes()


def test_what_was_cut_off_goes_on_where_it_stopped(server: RunningServer, buckets: Path) -> None:
    data = bytes(range(256)) * 8192
    place = begin(server, "cut")
    assert held(put(server, place, b"", "bytes */*")) == 0
    assert held(put(server, place, data[:PIECE], f"bytes 0-{PIECE - 1}/{len(data)}")) == PIECE
    came = cut_off(server, place, data[PIECE:], f"bytes {PIECE}-{len(data) - 1}/{len(data)}", 700_000)
    assert "cut" not in files_of(buckets / "mine")
    # A client that does not ask sends the same piece again: what came before is left out.
    whole = put(server, place, data[PIECE:], f"bytes {PIECE}-{len(data) - 1}/{len(data)}")
    assert (whole.status_code, whole.json()["size"]) == (200, str(len(data)))
    assert PIECE < came <= PIECE + 700_000
    assert (buckets / "mine" / "cut").read_bytes() == data
    again = put(server, place, b"", f"bytes */{len(data)}")
    assert (again.status_code, again.json()) == (200, whole.json())


def cut_off(server: RunningServer, place: str, data: bytes, said: str, count: int) -> int:
    """Send the beginning of a piece and hang up; how much the server has of the object then."""
    address = urlsplit(place)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"PUT {address.path}?{address.query} HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-range: {said}\r\n"
        head += f"authorization: Bearer {server.key}\r\ncontent-length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data[:count])
    return held(put(server, place, b"", "bytes */*"))


@pytest.mark.parametrize(
    ("data", "said", "code", "is_over"),
    [
        (b"abc", "bytes 5-7/10", 400, False),
        (b"abc", "bytes 0-2/11", 400, False),
        (b"abc", "bytes 2-1/10", 400, False),
        (b"abc", "bytes 0-10/10", 400, False),
        (b"abc", "rows 0-2/10", 400, False),
        (b"abc", "bytes 0-1/10", 400, True),
        (b"abc", "bytes 0-4/10", 400, True),
    ],
)
def test_bytes_that_do_not_fit_are_refused(
    server: RunningServer, buckets: Path, data: bytes, said: str, code: int, is_over: bool
) -> None:
    before = files_of(buckets)
    place = begin(server, "fit", **{"x-upload-content-length": "10"})
    assert put(server, place, data, said).status_code == code
    after = put(server, place, b"", "bytes */*")
    assert after.status_code == (404 if is_over else 308)
    if not is_over:
        assert httpx.delete(place, headers=server.headers).status_code == 499
        assert put(server, place, b"", "bytes */*").status_code == 404
    assert files_of(buckets) == before


@pytest.mark.parametrize("where", ["head", "header"])
def test_other_bytes_than_the_client_says_are_not_kept(server: RunningServer, buckets: Path, where: str) -> None:
    before, data = files_of(buckets), b"what was meant"
    crc32c = base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
    address = f"{server.root_url}/upload/storage/v1/b/mine/o?uploadType=resumable&name=sum"
    for sent, code in ((b"what was sent!", 400), (data, 200)):
        head = {"crc32c": crc32c} if where == "head" else {}
        place = httpx.post(address, json=head, headers=server.headers).headers["location"]
        said = {"x-goog-hash": f"crc32c={crc32c}"} if where == "header" else {}
        told = put(server, place, sent, f"bytes 0-{len(sent) - 1}/{len(sent)}", **said)
        assert told.status_code == code, told.text
        if code == 400:
            assert "crc32c" in told.json()["error"]["message"]
            assert files_of(buckets) == before
    assert files_of(buckets)["mine/sum"] == data
    (buckets / "mine" / "sum").unlink()


def test_another_project_finds_no_upload(server: RunningServer, buckets: Path) -> None:
    before = set(files_of(buckets))
    place = begin(server, "theirs")
    (buckets / "other").mkdir()
    _, key = make_project_key(server.data_dir)
    stranger = replace(server, key=key)
    assert put(stranger, place, b"abc", "bytes 0-2/3").status_code == 404
    assert httpx.delete(place, headers=stranger.headers).status_code == 404
    assert put(server, place.replace("/b/mine/", "/b/other/"), b"abc", "bytes 0-2/3").status_code == 404
    assert put(server, place, b"abc", "bytes 0-2/3").status_code == 200
    assert set(files_of(buckets)) == before | {"mine/theirs"}


def test_too_large_and_too_many_are_refused(server: RunningServer, buckets: Path) -> None:
    before = files_of(buckets)
    address = f"{server.root_url}/upload/storage/v1/b/mine/o?uploadType=resumable&name=large"
    large = {**server.headers, "x-upload-content-length": str(32 * MIB + 1)}
    assert httpx.post(address, headers=large).status_code == 413
    place = begin(server, "large")
    assert held(put(server, place, bytes(20 * MIB), f"bytes 0-{20 * MIB - 1}/*")) == 20 * MIB
    assert put(server, place, bytes(20 * MIB), f"bytes {20 * MIB}-{40 * MIB - 1}/*").status_code == 413
    places = [begin(server, f"many-{number}") for number in range(resumable.MOST_OF_A_PROJECT)]
    assert httpx.post(address, headers=server.headers).status_code == 429
    for place in places:
        assert httpx.delete(place, headers=server.headers).status_code == 499
    assert files_of(buckets) == before


def test_uploads_that_nobody_goes_on_with_are_forgotten(tmp_path: Path) -> None:
    async def look() -> None:
        uploads = ResumableUploads()
        old = uploads.begin("a", tmp_path, {}, None, 100)
        busy = uploads.begin("a", tmp_path, {}, None, 100)
        old.used_at = busy.used_at = time.monotonic() - resumable.IDLE_SECONDS - 1
        async with busy.lock:
            new = uploads.begin("a", tmp_path, {}, None, 100)
        assert uploads.find("a", tmp_path, busy.upload_id) is busy
        with pytest.raises(ApiError, match="begin it anew"):
            uploads.find("a", tmp_path, old.upload_id)
        assert sorted(tmp_path.iterdir()) == sorted([busy.writer.path, new.writer.path])
        for session in (busy, new):
            uploads.drop(session)
        assert list(tmp_path.iterdir()) == []

    asyncio.run(look())


def test_ranges_and_sums_are_read_as_they_are_written(tmp_path: Path) -> None:
    assert read_range("") == Piece(0, None, None)
    assert read_range("bytes 0-9/*") == Piece(0, 10, None)
    assert read_range("bytes 10-19/20") == Piece(10, 10, 20)
    assert read_range("bytes */20") == Piece(None, 0, 20)
    # The check value of CRC-32C and RFC 1321's of MD5.
    (tmp_path / "check").write_bytes(b"123456789")
    assert sum_file(tmp_path / "check").crc32c == base64.b64encode(bytes.fromhex("e3069283")).decode()
    (tmp_path / "check").write_bytes(b"abc")
    assert base64.b64decode(sum_file(tmp_path / "check").md5).hex() == "900150983cd24fb0d6963f7d28e17f72"
    assert read_goog_hash("crc32c=n03x6A==, md5=Ojk9c3dhfxgoKVVHYwFbHQ==") == {
        "crc32c": "n03x6A==",
        "md5Hash": "Ojk9c3dhfxgoKVVHYwFbHQ==",
    }
    for header in ("crc32c", "sha1=AAAA", "crc32c=?"):
        with pytest.raises(ApiError, match="x-goog-hash"):
            read_goog_hash(header)
