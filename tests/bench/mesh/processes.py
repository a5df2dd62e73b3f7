"""Measures real nodes on loopback, each case in a mesh of its own. Prints figures: name, figure, unit, limit, separated by tabs."""

import argparse
import asyncio
import http.client
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

HTTP, MESH, ADMIN, BACKEND = 8080, 7946, 7900, 9000
PATIENCE = 60


def say(name, figure, unit="", limit=""):
    print(name, f"{figure:.3f}" if isinstance(figure, float) else figure, unit, limit, sep="\t", flush=True)


def percentile(values, hundredths):
    values = sorted(values)
    return values[max(-(-len(values) * hundredths // 100) - 1, 0)]


def wait_until(what, holds, pause=0.05):
    """How long it took until `holds()` was true."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > PATIENCE:
            sys.exit(f"after {PATIENCE} s it is not so that {what}")
        time.sleep(pause)
    return time.monotonic() - began


class Node:
    """A place for a node, and its process while it runs."""

    def __init__(self, mesh, number, region, name):
        self.mesh, self.region, self.name = mesh, region, name
        self.address = f"127.71.{number // 200}.{number % 200 + 1}"
        self.folder = mesh.folder / name
        self.process = None

    def start(self, *flags):
        self.folder.mkdir(exist_ok=True)
        seeds = ", ".join(f'"{seed.address}:{MESH}"' for seed in self.mesh.seeds if seed is not self)
        (self.folder / "node.toml").write_text(
            f'[node]\nname = "{self.name}"\nregion = "{self.region}"\ndata = "{self.folder}/data"\n'
            f'[mesh]\nlisten = "{self.address}:{MESH}"\nseeds = [{seeds}]\nkey_file = "{self.mesh.folder}/key"\n'
            f'[proxy]\nlisten = ["{self.address}"]\nworkers = 1\n[dns]\nlisten = []\n'
            f'[admin]\nlisten = "{self.address}:{ADMIN}"\n[log]\naccess = "off"\n'
        )
        command = [self.mesh.program, "start", "-c", str(self.folder / "node.toml"), *flags]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def status(self):
        """What it says of the mesh; None while it does not answer."""
        connection = http.client.HTTPConnection(self.address, ADMIN, timeout=5)
        try:
            connection.request("GET", "/v1/status")
            answer = connection.getresponse()
            return json.load(answer) if answer.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def sees(self, count):
        status = self.status()
        return status is not None and sum(member["state"] == "alive" for member in status["members"]) == count

    def serves(self):
        connection = http.client.HTTPConnection(self.address, HTTP, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def ticks(self):
        """Processor time so far, in seconds."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wakings(self):
        """How often its threads have gone to sleep so far."""
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/status")
        lines = (line for task in tasks for line in task.read_text().splitlines())
        return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))

    def resident(self):
        """Resident memory in MB."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1000


class Mesh:
    """Some nodes that share a key, in a folder that goes with them."""

    def __init__(self, arguments, case, regions):
        self.program, self.folder = arguments.meridian, pathlib.Path(arguments.folder) / case
        self.folder.mkdir()
        subprocess.run([self.program, "key", "new", str(self.folder / "key")], check=True, stdout=subprocess.DEVNULL)
        self.nodes = []
        for region, count in regions:
            for number in range(1, count + 1):
                self.nodes.append(Node(self, len(self.nodes), region, f"{region}-{number}"))
        self.seeds = self.nodes[:2]
        self.helpers = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for node in self.running():
            node.kill()
        for helper in self.helpers:
            helper.kill()
            helper.wait()
        shutil.rmtree(self.folder)

    def running(self):
        return [node for node in self.nodes if node.process]

    def start(self, services=None):
        flags = []
        if services:
            (self.folder / "services.toml").write_text(services)
            flags = ["--apply", str(self.folder / "services.toml")]
        began = time.monotonic()
        for node in self.nodes:
            node.start(*(flags if node is self.nodes[0] else []))
        self.is_whole()
        return time.monotonic() - began

    def is_whole(self):
        count = len(self.running())
        for node in self.running():
            wait_until(f"{node.name} sees {count} nodes alive", lambda node=node: node.sees(count))

    def backend(self, address, after=0):
        """A process that answers every request, by its address, after so many milliseconds."""
        script = pathlib.Path(__file__).with_name("backend.py")
        process = subprocess.Popen([sys.executable, str(script), address, str(BACKEND), str(after)])
        self.helpers.append(process)
        return process


def services(backends):
    entries = "".join(f'  {{ address = "{address}:{BACKEND}", region = "{region}" }},\n' for address, region in backends)
    return (
        f'[listener.http]\nport = {HTTP}\nprotocol = "http"\n'
        '[service.web]\nsplit = { web = 1 }\nsticky.cookie = { name = "meridian", ttl = "8h" }\n'
        f'[pool.web]\nhealth.http = {{ path = "/", interval = "1s" }}\nbackend = [\n{entries}]\n'
    )


def idle(arguments):
    """A node alone, and one of three, that nobody asks for anything."""
    for count, what in [(1, "alone"), (3, "in a mesh of three")]:
        with Mesh(arguments, f"idle-{count}", [("eu", count)]) as mesh:
            address = "127.71.9.1"
            mesh.backend(address)
            mesh.start(services([(address, "eu")]))
            wait_until("the node serves", mesh.nodes[0].serves)
            time.sleep(10)
            node, seconds = mesh.nodes[-1], 30
            before, awoken = node.ticks(), node.wakings()
            time.sleep(seconds)
            say(f"wakings of an idle node {what}", (node.wakings() - awoken) / seconds, "a second")
            say(f"CPU of an idle node {what}", 100 * (node.ticks() - before) / seconds, "% of a core", 1)
            say(f"memory of an idle node {what}", node.resident(), "MB", 40)


def form(arguments):
    """Thirty nodes that start at once."""
    with Mesh(arguments, "form", [(region, 10) for region in ["ap", "eu", "us"]]) as mesh:
        say("30 processes form a mesh", mesh.start(), "s", 15)
        time.sleep(30)
        before, seconds = [node.ticks() for node in mesh.nodes], 20
        time.sleep(seconds)
        spent = [100 * (node.ticks() - then) / seconds for node, then in zip(mesh.nodes, before)]
        say("CPU of one of 30 idle nodes, mean", sum(spent) / len(spent), "% of a core")
        say("memory of one of 30 idle nodes, most", max(node.resident() for node in mesh.nodes), "MB")


class Watch(threading.Thread):
    """Follows what a node tells of others."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.node, self.events = node, []
        self.connection = http.client.HTTPConnection(node.address, ADMIN)
        self.connection.request("GET", "/v1/events", headers={"accept": "text/event-stream"})
        self.answer = self.connection.getresponse()
        self.start()

    def run(self):
        try:
            for line in self.answer:
                if line.startswith(b"data:"):
                    self.events.append(json.loads(line[5:]))
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            # The node is gone.
            pass

    def saw(self, kind, subject, since_ms):
        """When it first told so, in milliseconds since 1970."""
        told = (e["at_ms"] for e in self.events if e["kind"] == kind and e["subject"] == subject and e["at_ms"] >= since_ms)
        return next(told, None)


def death(arguments):
    """Nodes of a mesh of nine are killed, one after the other."""
    near, far = [], []
    with Mesh(arguments, "death", [(region, 3) for region in ["ap", "eu", "us"]]) as mesh:
        mesh.start()
        time.sleep(5)
        for number in range(arguments.rounds):
            victim = mesh.nodes[number * 4 % len(mesh.nodes)]
            watches = [Watch(node) for node in mesh.running() if node is not victim]
            # At any moment of the rounds that the nodes make.
            time.sleep(1 + number * 0.037 % 1)
            killed = time.time() * 1000
            victim.kill()
            saw = lambda watch: watch.saw("suspect", victim.name, int(killed))
            wait_until(f"all suspect {victim.name}", lambda: all(map(saw, watches)))
            for watch in watches:
                (near if watch.node.region == victim.region else far).append((saw(watch) - killed) / 1000)
                watch.connection.close()
            victim.start()
            mesh.is_whole()
    say("processes killed", arguments.rounds)
    say("process suspected in its region, median", percentile(near, 50), "s")
    say("process suspected in its region, p99", percentile(near, 99), "s", 1)
    say("process suspected mesh-wide, median", percentile(near + far, 50), "s")
    say("process suspected mesh-wide, p99", percentile(near + far, 99), "s", 3)


def backend(arguments):
    """One of two backends is killed while wrk asks both nodes of a mesh of two."""
    with Mesh(arguments, "backend", [("eu", 2)]) as mesh:
        addresses = ["127.71.9.1", "127.71.9.2"]
        processes = [mesh.backend(address) for address in addresses]
        mesh.start(services([(address, "eu") for address in addresses]))
        for node in mesh.nodes:
            wait_until(f"{node.name} serves", node.serves)
        time.sleep(3)
        url = lambda node: f"http://{node.address}:{HTTP}/"
        load = [
            subprocess.Popen(["wrk", "-t1", "-c32", "-d9s", "--timeout", "10s", url(node)], stdout=subprocess.PIPE, text=True)
            for node in mesh.nodes
        ]
        time.sleep(3)
        processes[0].kill()
        told = [process.communicate()[0] for process in load]
    failed = requests = 0
    for line in "".join(told).splitlines():
        words = line.replace(",", "").split()
        if "requests in" in line:
            requests += int(words[0])
        elif "Non-2xx" in line:
            failed += int(words[-1])
        elif "Socket errors" in line:
            failed += sum(int(word) for word in words if word.isdigit())
    if requests < 1000:
        sys.exit(f"hardly any load: {told}")
    say("requests while a backend is killed", requests)
    say("of them failed", failed, "", 0)


class User:
    """Asks one node after the other answer; when that is gone, the next address that a browser would have."""

    def __init__(self, addresses):
        self.addresses, self.at = addresses, 0
        self.cookie, self.streams = None, None
        self.asking, self.done, self.failures = False, 0, []

    async def ask(self):
        if self.streams and self.streams[0].at_eof():
            # Closed while it was idle: no request was on it.
            self.streams[1].close()
            self.streams = None
        while not self.streams:
            try:
                self.streams = await asyncio.open_connection(self.addresses[self.at % len(self.addresses)], HTTP)
            except OSError:
                # Nobody took the request: it has not failed yet.
                self.at += 1
                await asyncio.sleep(0.01)
        reader, writer = self.streams
        cookie = f"cookie: {self.cookie}\r\n" if self.cookie else ""
        self.asking = True
        try:
            writer.write(f"GET / HTTP/1.1\r\nhost: shop\r\n{cookie}\r\n".encode())
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1")
            lines = head.split("\r\n")
            fields = [line.split(": ", 1) for line in lines[1:] if ": " in line]
            length = next(int(value) for name, value in fields if name.lower() == "content-length")
            await reader.readexactly(length)
            if lines[0].split()[1] != "200":
                raise ConnectionError(lines[0])
            for name, value in fields:
                if name.lower() == "set-cookie":
                    self.cookie = value.split(";")[0]
            self.done += 1
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, StopIteration) as error:
            self.failures.append(repr(error))
            writer.close()
            self.streams = None
        self.asking = False

    async def travel(self, addresses):
        """Begins a session here, and asks elsewhere from now on."""
        await self.ask()
        if self.streams:
            self.streams[1].close()
        self.addresses, self.at, self.streams = addresses, 0, None

    async def shop(self, until):
        while time.monotonic() < until:
            await self.ask()
            await asyncio.sleep(0.005)


async def lose(lost, users, travellers, addresses, processes):
    for number, user in enumerate(travellers):
        await user.travel(addresses(number))
    end = time.monotonic() + 12
    shopping = [asyncio.create_task(user.shop(end)) for user in users]
    await asyncio.sleep(4)
    victims = [*processes, *(node.process for node in lost)]
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
    # Nobody asks meanwhile: whoever is waiting for an answer now has a request in flight there.
    for victim in victims:
        victim.wait()
    in_flight = [user.asking for user in users]
    await asyncio.gather(*shopping)
    return in_flight


def region(arguments):
    """All nodes and backends of one of two regions are killed while users shop in both, and some from the other one in it."""
    with Mesh(arguments, "region", [("eu", 2), ("us", 2)]) as mesh:
        places = [("127.71.9.1", "eu"), ("127.71.9.2", "eu"), ("127.71.9.3", "us"), ("127.71.9.4", "us")]
        # Slow enough that most users have a request in flight at any moment.
        processes = {address: mesh.backend(address, after=20) for address, _ in places}
        mesh.start(services(places))
        for node in mesh.nodes:
            wait_until(f"{node.name} serves", node.serves)
        time.sleep(3)
        lost = [node for node in mesh.nodes if node.region == "eu"]
        rest = [node for node in mesh.nodes if node.region == "us"]
        first = lambda nodes, number: [node.address for node in nodes[number % 2:] + nodes[:number % 2]]
        there = [User(first(lost, number) + first(rest, number)) for number in range(32)]
        elsewhere = [User(first(rest, number)) for number in range(32)]
        # Their sessions are in the region that is lost: their requests pass through its nodes.
        travellers = [User(first(lost, number)) for number in range(16)]
        gone = [processes[address] for address, name in places if name == "eu"]
        users = there + travellers + elsewhere
        in_flight = asyncio.run(lose(lost, users, travellers, lambda number: first(rest, number), gone))
        for node in lost:
            node.process = None
    if min(user.done for user in users) < 100:
        sys.exit(f"hardly any load: {sorted(user.done for user in users)[:5]}")
    # A request can have been in flight on its nodes of those alone who asked there, and one of each.
    failed = [len(user.failures) for user in users]
    on_its_nodes = [asked and number < len(there + travellers) for number, asked in enumerate(in_flight)]
    excused = sum(min(count, asked) for count, asked in zip(failed, on_its_nodes))
    say("requests while a region is lost", sum(user.done for user in users))
    say("in flight on its nodes", sum(on_its_nodes[: len(there)]))
    say("in flight through its nodes from the other region", sum(on_its_nodes[len(there) :]))
    say("of these failed", excused)
    say("others that failed", sum(failed) - excused, "", 0)
    for user in elsewhere:
        for failure in user.failures[:1]:
            print(f"elsewhere: {failure}", file=sys.stderr)


def main():
    cases = {case.__name__: case for case in [idle, form, death, backend, region]}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=cases)
    parser.add_argument("--meridian", required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", required=True)
    arguments = parser.parse_args()
    cases[arguments.case](arguments)


main()
