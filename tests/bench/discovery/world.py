"""Backends that come and go, their users, and what nodes spend on them. Plays one of file, lease, first, clean and prints figures.

Every backend is a listener on an address of its own (127.63.x.y:9000) in this process; where only the cost of following them is
measured and nobody checks them, nobody listens.
"""

import argparse
import asyncio
import http.client
import json
import os
import socket
import sys
import time
import urllib.request

PORT = 9000
# A backend that its list no longer names is asked for so long yet: the pool's drain, and some more.
DRAINS = 5.0


def say(name, figure, unit):
    print(f"{name}\t{figure}\t{unit}", flush=True)


def address(number):
    return f"127.63.{number >> 8 & 255}.{number & 255}"


class World:
    def __init__(self, options):
        self.options = options
        self.nodes = options.nodes.split(",")
        self.pids = options.pids.split(",")

    def put_list(self, numbers):
        """Writes the list and puts it in the place of the old one at once."""
        new = self.options.list + ".new"
        with open(new, "w") as file:
            json.dump([{"address": f"{address(n)}:{PORT}", "region": "eu"} for n in numbers], file)
        os.rename(new, self.options.list)

    def backends(self, node):
        url = f"http://{node}:{self.options.admin}/v1/pools"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)[0]["backends"]

    def until_all_have(self, count, is_counted=lambda backend: True):
        """Waits at most a minute until every node has so many backends."""
        end = time.monotonic() + 60
        for node in self.nodes:
            while len([backend for backend in self.backends(node) if is_counted(backend)]) != count:
                if time.monotonic() > end:
                    raise SystemExit(f"after a minute {node} still has not {count} backends")
                time.sleep(0.2)

    def used(self):
        """Seconds of a core that each node has used."""
        seconds = []
        for pid in self.pids:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(") ", 1)[1].split()
            seconds.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        return seconds

    def cost(self, change):
        """The share of a core that each node uses while `change(tick)` is called twice a second, in percent."""
        time.sleep(3)
        before, began = self.used(), time.monotonic()
        for tick in range(self.options.seconds * 2):
            change(tick)
            time.sleep(max(0.0, began + (tick + 1) / 2 - time.monotonic()))
        lasted = time.monotonic() - began
        return [(after - first) / lasted * 100 for first, after in zip(before, self.used())]

    def tell(self, what, shares):
        say(f"CPU of the busiest node, {what}", f"{max(shares):.2f}", "% of a core")


def file(world):
    """The pool's list is replaced twice a second by one in which some backends are others."""
    count, half = world.options.backends, world.options.changes / 2
    # Connections wait in the kernel, which is enough for a check.
    listening = range(count + world.options.changes * (world.options.seconds + 1)) if world.options.listen else []
    sockets = [socket.create_server((address(number), PORT)) for number in listening]
    world.put_list(range(count))
    world.until_all_have(count, is_up if sockets else lambda backend: True)
    title = world.options.title
    world.tell(f"at rest, {title}: {count} backends", world.cost(lambda _: None))

    def change(tick):
        moved = int((tick + 1) * half)
        world.put_list(range(moved, moved + count))

    world.tell(f"changes {title}: {world.options.changes} a second", world.cost(change))
    for each in sockets:
        each.close()


def lease(world):
    """Every backend registers itself, renews its lease, and in the end takes it back."""
    count, half = world.options.backends, world.options.changes / 2
    # Each asks one node, a third of them each.
    connections = [http.client.HTTPConnection(node, world.options.admin) for node in world.nodes]

    def ask(method, number, query=""):
        connection = connections[number % len(connections)]
        connection.request(method, f"/v1/pools/web/backends/{address(number)}:{PORT}{query}")
        answer = connection.getresponse()
        answer.read()
        if answer.status not in (200, 204):
            raise SystemExit(f"{method} {address(number)}: {answer.status}")

    for number in range(count):
        ask("PUT", number)
    world.until_all_have(count)
    state = {"first": 0, "renewed": 0}

    def renew():
        # All within 20 s, as a lease of 60 s asks for.
        for number in range(state["renewed"], state["renewed"] + count // 40):
            ask("PUT", state["first"] + number % count)
        state["renewed"] += count // 40

    world.tell(f"at rest, {world.options.title}: {count} backends", world.cost(lambda _: renew()))

    def change(tick):
        renew()
        for number in range(state["first"], int((tick + 1) * half)):
            ask("PUT", number + count)
            ask("DELETE", number, "?gone=true")
            state["first"] = number + 1

    world.tell(f"changes {world.options.title}: {world.options.changes} a second", world.cost(change))


class Backend:
    """Answers anybody, and notes when it was first checked and first used through each node."""

    def __init__(self, number):
        self.number, self.checked, self.used = number, None, {}
        self.writers = set()

    async def start(self):
        self.server = await asyncio.start_server(self.serve, address(self.number), PORT)
        return self

    async def serve(self, reader, writer):
        self.writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode()
                now = time.monotonic()
                if path == "/healthz":
                    self.checked = self.checked or now
                else:
                    self.used.setdefault(path, now)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    def stop(self):
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()


class Users:
    """So many users of each node, each asking again as soon as it has its answer."""

    def __init__(self, world, each, pause):
        self.done, self.failures = 0, []
        self.tasks = [
            asyncio.create_task(self.user(node, world.options.http, f"/{node}", pause)) for node in world.nodes for _ in range(each)
        ]

    async def user(self, node, port, path, pause):
        request = f"GET {path} HTTP/1.1\r\nhost: web\r\n\r\n".encode()
        reader = writer = None
        while True:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(node, port)
                writer.write(request)
                await writer.drain()
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
                await reader.readexactly(length)
                if head.split(b" ", 2)[1] != b"200":
                    raise ValueError(head.split(b"\r\n", 1)[0].decode())
                self.done += 1
            except (OSError, asyncio.IncompleteReadError, ValueError, IndexError) as error:
                self.failures.append(repr(error))
                if writer is not None:
                    writer.close()
                writer = None
            await asyncio.sleep(pause)

    def stop(self):
        for task in self.tasks:
            task.cancel()


async def until(what, condition):
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"after a minute still not: {what}")
        await asyncio.sleep(0.005)


def is_up(backend):
    return backend["state"] == "up"


async def first(world):
    """From a backend's first answer to a check to the first request it gets through each node."""
    old = [await Backend(number).start() for number in range(4)]
    world.put_list(range(4))
    await asyncio.to_thread(world.until_all_have, 4, is_up)
    users = Users(world, 2, 0.002)
    listed, served = [], []
    for number in range(4, 4 + world.options.rounds):
        new = await Backend(number).start()
        began = time.monotonic()
        world.put_list([0, 1, 2, 3, number])
        await until("it serves through every node", lambda: len(new.used) == len(world.nodes) and new.checked)
        listed.append((new.checked - began) * 1000)
        served.append([max(0.0, (used - new.checked) * 1000) for used in new.used.values()])
        world.put_list(range(4))
        await asyncio.to_thread(world.until_all_have, 4, is_up)
        new.stop()
    users.stop()
    middle = lambda figures: sorted(figures)[len(figures) // 2]
    say("from the list to the first check, median", f"{middle(listed):.0f}", "ms")
    say("from that to the first request through the first node, median", f"{middle([min(row) for row in served]):.0f}", "ms")
    say("first request through the last node, median", f"{middle([max(row) for row in served]):.0f}", "ms")
    say(f"first request through the last node, slowest of {len(served)}", f"{max(max(row) for row in served):.0f}", "ms")
    for backend in old:
        backend.stop()


async def clean(world):
    """Users go on while backends come and go; who has gone for some seconds answers nobody any more."""
    count, half = world.options.backends, world.options.changes / 2
    running = {number: await Backend(number).start() for number in range(count)}
    world.put_list(running)
    await asyncio.to_thread(world.until_all_have, count, is_up)
    users, ending, present, met = Users(world, 3, 0.005), [], count, 0
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    for tick in range(world.options.seconds * 2):
        moved = int((tick + 1) * half)
        while present < moved + count:
            running[present] = await Backend(present).start()
            present += 1
        world.put_list(range(moved, moved + count))
        for number in [number for number in running if number < moved]:
            backend = running.pop(number)
            met += bool(backend.used)
            ending.append(loop.call_later(DRAINS, backend.stop))
        await asyncio.sleep(max(0.0, began + (tick + 1) / 2 - time.monotonic()))
    await asyncio.sleep(DRAINS + 1)
    users.stop()
    say("backends that came and went under load", moved, "")
    say("of them had requests", met, "")
    say("requests meanwhile", users.done, "")
    say("requests that failed", len(users.failures), "")
    for failure in users.failures[:5]:
        print(failure, file=sys.stderr)
    if users.done == 0 or met == 0:
        raise SystemExit("nobody was served")
    for backend in running.values():
        backend.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("play", choices=["file", "lease", "first", "clean"])
    for name in ["--list", "--nodes", "--pids", "--title"]:
        parser.add_argument(name)
    for name in ["--http", "--admin", "--backends", "--changes", "--seconds", "--rounds"]:
        parser.add_argument(name, type=int)
    parser.add_argument("--listen", action="store_true")
    options = parser.parse_args()
    play = {"file": file, "lease": lease, "first": first, "clean": clean}[options.play](World(options))
    if play is not None:
        asyncio.run(play)


main()
