"""A backend that answers every request with its address, after so many milliseconds: ADDRESS PORT MILLISECONDS."""

import asyncio
import sys


class Backend(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.unread = transport, b""

    def data_received(self, data):
        heads = (self.unread + data).split(b"\r\n\r\n")
        self.unread = heads.pop()
        for _ in heads:
            if AFTER:
                asyncio.get_running_loop().call_later(AFTER, self.transport.write, ANSWER)
            else:
                self.transport.write(ANSWER)


async def main():
    server = await asyncio.get_running_loop().create_server(Backend, sys.argv[1], int(sys.argv[2]))
    await server.serve_forever()


AFTER = int(sys.argv[3]) / 1000
BODY = f"{sys.argv[1]}\n".encode()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\ncontent-type: text/plain\r\n\r\n%b" % (len(BODY), BODY)
asyncio.run(main())
