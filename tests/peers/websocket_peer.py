"""WebSocket by the `websockets` package, as server and as client.

    websocket_peer.py serve ADDRESS NAME     echoes what it is sent, until it is ended; also answers GET /healthz
    websocket_peer.py ask ADDRESS            proves a session over several connections; prints the name of its backend

What a server understands beside what it echoes: `who` (its name), `last` (how the connection before ended), `close CODE WORDS`.
"""

import asyncio
import http
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def run_server(address, name):
    host, port = address.rsplit(":", 1)
    last = "none"

    async def handle(socket):
        nonlocal last
        try:
            async for message in socket:
                if message == "who":
                    await socket.send(name)
                elif message == "last":
                    await socket.send(last)
                elif isinstance(message, str) and message.startswith("close "):
                    _, code, words = message.split(" ", 2)
                    await socket.close(int(code), words)
                else:
                    await socket.send(message)
        finally:
            last = f"{socket.close_code} {socket.close_reason}"

    def health(connection, request):
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "fine\n")
        if request.path == "/closed":
            return connection.respond(http.HTTPStatus.FORBIDDEN, "not here\n")

    def choose(connection, offered):
        return "second" if "second" in offered else None

    async with serve(
        handle, host, int(port), process_request=health, select_subprotocol=choose, max_size=None
    ) as server:
        print("serving", flush=True)
        await server.serve_forever()


async def ask(address):
    url = f"ws://{address}/chat?room=1"

    async with connect(url, subprotocols=["first", "second"], max_size=None) as socket:
        assert socket.subprotocol == "second", socket.subprotocol
        cookie = socket.response.headers["Set-Cookie"].split(";")[0]
        await socket.send("who")
        name = await socket.recv()
        # Compressed where both agree on it, fragmented, binary, large, and empty.
        for message in ["grüße", bytes(range(256)), b"x" * 3_000_000, "y" * 200_000, b"", ""]:
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send([b"in ", b"three ", b"frames"])
        assert await socket.recv() == b"in three frames"
        pong = await socket.ping(b"are you there")
        await asyncio.wait_for(pong, 10)
        await socket.close(4001, "enough")
        assert (socket.close_code, socket.close_reason) == (4001, "enough")

    for _ in range(6):
        async with connect(url, additional_headers={"Cookie": cookie}) as socket:
            assert "Set-Cookie" not in socket.response.headers
            await socket.send("who")
            heard = await socket.recv()
            assert heard == name, f"moved from {name} to {heard}"
            await socket.send("last")
            last = await socket.recv()
            assert last in ("4001 enough", "4002 go away"), last
            # The server ends this one.
            await socket.send("close 4002 go away")
            try:
                await socket.recv()
                raise AssertionError("it stayed open")
            except ConnectionClosed as closed:
                assert (closed.rcvd.code, closed.rcvd.reason) == (4002, "go away"), closed

    try:
        async with connect(f"ws://{address}/closed"):
            raise AssertionError("the refusal was not passed on")
    except InvalidStatus as refused:
        assert refused.response.status_code == 403, refused
        assert refused.response.body == b"not here\n", refused.response.body
    print(name)


if __name__ == "__main__":
    asyncio.run({"serve": run_server, "ask": ask}[sys.argv[1]](*sys.argv[2:]))
