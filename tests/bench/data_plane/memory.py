"""What a proxy's resident memory grows by: for idle connections, and for a large body each way. Prints one row of figures.

idle: every connection has made one request and had its answer, and stays open for 20 s; ten source addresses.
body: a user who asks for a large body, reads a little of it, pauses, and reads the rest; then one who sends as much. A proxy
      that takes from the origin whatever it gives would hold the body during the pause.
"""

import argparse
import json
import os
import re
import resource
import socket
import ssl
import sys
import time

SOURCES = 10
# How long connections are idle before their cost is read: a proxy may give back buffers of those that stay so.
IDLE_SECONDS = 20


def resident(processes, field="VmRSS"):
    """KiB over all processes."""
    total = 0
    for process in processes:
        with open(f"/proc/{process}/status") as status:
            total += int(re.search(rf"{field}:\s+(\d+)", status.read())[1])
    return total


def connect(given, number=0):
    source = f"127.60.2.{1 + number % SOURCES}"
    plain = socket.create_connection((given.address, given.port), timeout=30, source_address=(source, 0))
    if not given.tls:
        return plain
    return given.tls_context.wrap_socket(plain, server_hostname="bench.test")


def head(given, method, path, more=""):
    return f"{method} {path} HTTP/1.1\r\nHost: bench.test\r\nCookie: {given.cookie}\r\n{more}\r\n".encode()


def answer(connection):
    """Status, length of the body, and what of the body came with the head."""
    got = b""
    while b"\r\n\r\n" not in got:
        more = connection.recv(16384)
        if not more:
            sys.exit(f"the proxy closed a connection after {got!r}")
        got += more
    header, _, body = got.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", header, re.I)
    return int(header.split()[1]), int(length[1]) if length else 0, body


def ask(given, connection):
    connection.sendall(head(given, "GET", "/"))
    status, length, body = answer(connection)
    while len(body) < length:
        body += connection.recv(16384)
    return status == 200


def warm_up(given):
    """Code and tables that the first requests touch are not what a connection costs."""
    for number in range(50):
        with connect(given, number) as connection:
            ask(given, connection)


def idle(given):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # The proxy needs as many and has the same limit.
    count = min(given.connections, hard - 1000)
    warm_up(given)
    before = resident(given.processes)
    held, bad, began = [], 0, time.monotonic()
    for number in range(count):
        connection = connect(given, number)
        bad += not ask(given, connection)
        connection.setblocking(False)
        held.append(connection)
    time.sleep(IDLE_SECONDS)
    after = resident(given.processes)
    # One that the proxy closed can be read from: it gives nothing.
    for connection in held:
        try:
            bad += connection.recv(1) == b""
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
    if bad:
        # All three close one after 75 s or more: on a machine too busy to open them all in that time nothing can be said.
        took = time.monotonic() - began
        print(f"{given.proxy} closed or refused {bad} of {count} connections, opened in {took:.0f} s", file=sys.stderr)
    return {"served": count, "grown": after - before, "bad": bad}


def body(given):
    size = os.path.getsize(given.file)
    warm_up(given)
    before = resident(given.processes)
    bad = 0
    with connect(given) as connection:
        connection.sendall(head(given, "GET", "/body"))
        status, length, begun = answer(connection)
        got, paused, room = len(begun), False, bytearray(1 << 20)
        while got < length:
            if got > 1 << 20 and not paused:
                time.sleep(2)
                paused = True
            count = connection.recv_into(room)
            if not count:
                break
            got += count
        bad += status != 200 or got != size
    with connect(given, 1) as connection, open(given.file, "rb") as source:
        connection.sendall(head(given, "PUT", "/up/body", f"Content-Length: {size}\r\n"))
        connection.sendfile(source)
        status, _, _ = answer(connection)
        bad += status not in (201, 204) or os.path.getsize(given.uploaded) != size
    os.remove(given.uploaded)
    return {"served": 2 * size / 2**30, "grown": resident(given.processes, "VmHWM") - before, "bad": bad}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["idle", "body"])
    arguments.add_argument("--case", required=True)
    arguments.add_argument("--proxy", required=True)
    arguments.add_argument("--address", required=True)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--cookie", required=True)
    arguments.add_argument("--processes", type=int, nargs="+", required=True)
    arguments.add_argument("--tls", action="store_true")
    arguments.add_argument("--connections", type=int, default=10000)
    arguments.add_argument("--file", help="the body, as the origin has it")
    arguments.add_argument("--uploaded", help="where the origin puts what was sent")
    given = arguments.parse_args()
    given.tls_context = ssl.create_default_context(cafile="cert.pem") if given.tls else None
    row = idle(given) if given.what == "idle" else body(given)
    row |= {"case": given.case, "proxy": given.proxy, "round": 1, "peak": resident(given.processes, "VmHWM")}
    print(json.dumps(row))


main()
