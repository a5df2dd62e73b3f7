"""One row of figures from what a load program printed (standard input).

A row is a line of JSON: how much was served, the CPU ticks that the proxy spent on it, rate, p50 and p99 in µs where the program
tells them, peak memory, and `bad`: what was not answered as it should be. A table is made of them by table.py.
"""

import argparse
import json
import re
import sys


def wrk(text, _elapsed):
    unit = {"us": 1, "ms": 1e3, "s": 1e6, "m": 60e6}
    latency = {p: float(v) * unit[u] for p, v, u in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s|m)\b", text)}
    bad = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    for line in re.findall(r"Socket errors: (.*)", text):
        bad += sum(int(n) for n in re.findall(r"\d+", line))
    return {
        "served": int(re.search(r"(\d+) requests in", text)[1]),
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        "p50": latency["50"],
        "p99": latency["99"],
        "bad": bad,
    }


def h2load(text, elapsed):
    """The log has a line a request: start in µs since 1970, status (-1: failed), µs to the end of the answer."""
    with open("requests.log") as log:
        requests = [tuple(map(int, line.split("\t"))) for line in log]
    times = sorted(took for _, _, took in requests)
    lost = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", text)
    refused = sum(1 for _, status, _ in requests if not 200 <= status < 400)
    return {
        "served": len(requests),
        "rate": len(requests) / elapsed,
        "p50": times[len(times) // 2],
        "p99": times[len(times) * 99 // 100],
        "bad": max(refused, sum(map(int, lost.groups()))),
    }


def s_time(text, elapsed, wanted):
    """Several clients' output: a letter a connection (`*` full, `r` resumed) and a sum at the end of each."""
    sums = re.findall(r"(\d+) connections in \d+ real seconds, (\d+) bytes read per connection", text)
    served = sum(int(connections) for connections, _ in sums)
    if not served:
        sys.exit("openssl s_time counted no connection:\n" + text[-500:])
    letters = "".join(re.findall(r"^[*r]+$", text, re.M))
    # The first connections of `-reuse` are full ones that nobody counts.
    other_kind = served - letters.count(wanted) if letters.count(wanted) < served else 0
    unanswered = sum(int(connections) for connections, size in sums if int(size) < 64)
    return {"served": served, "rate": served / elapsed, "p50": None, "p99": None, "bad": other_kind + unanswered}


def curl(text, elapsed):
    transfers = [tuple(map(int, line.split())) for line in text.splitlines()]
    gibibytes = sum(size for _, size in transfers) / 2**30
    bad = sum(1 for status, size in transfers if status != 200 or size != 2**30)
    return {"served": gibibytes, "rate": gibibytes / elapsed, "p50": None, "p99": None, "bad": bad}


TOOLS = {
    "wrk": wrk,
    "h2load": h2load,
    "s_time-new": lambda text, elapsed: s_time(text, elapsed, "*"),
    "s_time-reuse": lambda text, elapsed: s_time(text, elapsed, "r"),
    "curl": curl,
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("tool", choices=TOOLS)
    arguments.add_argument("--case", required=True)
    arguments.add_argument("--proxy", required=True)
    arguments.add_argument("--round", type=int, required=True)
    arguments.add_argument("--ticks", type=int, required=True, help="CPU time, in clock ticks")
    arguments.add_argument("--peak", type=int, required=True, help="KiB")
    arguments.add_argument("--began", type=float, required=True, help="seconds since 1970")
    arguments.add_argument("--ended", type=float, required=True)
    given = arguments.parse_args()
    row = TOOLS[given.tool](sys.stdin.read(), given.ended - given.began)
    row |= {key: getattr(given, key) for key in ("case", "proxy", "round", "ticks", "peak")}
    print(json.dumps(row))


main()
