import asyncio
import socket
from pathlib import Path

from kivnun.server.binding import listen
from kivnun.server.service import ServeSettings


def test_small_replies_are_sent_at_once(tmp_path: Path) -> None:
    """A reply is two writes, head and body; with Nagle's algorithm the second waits 40 ms for the client's ACK."""

    async def ask() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            found.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = listen(ServeSettings(tmp_path, port=0))
        async with await asyncio.start_server(answer, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            nodelay = await found
            writer.close()
            await writer.wait_closed()
        return nodelay

    assert asyncio.run(ask()) == 1
