"""The cases of the data plane's benchmark, what Meridian is held to in each, and the table of what was measured.

    table.py names            the names of the cases, one a line
    table.py list             with what they are
    table.py print FILE       the table of the rows in FILE (a line of JSON each, see figures.py) and how the targets fared
"""

import collections
import dataclasses
import json
import os
import statistics
import sys

TICKS = os.sysconf("SC_CLK_TCK")
# The contestant that shows what the load and the origin take by themselves.
NO_PROXY = "no proxy"


@dataclasses.dataclass
class Target:
    """Meridian's figure is at most `factor` times that of `of`: a proxy, the better of the others, or one in `case`."""

    factor: float
    of: str = "the better"
    case: str | None = None


@dataclasses.dataclass
class Limit:
    """Meridian's figure is at most this."""

    figure: float


@dataclasses.dataclass
class Case:
    title: str
    unit: str = "µs/request"
    targets: tuple = ()
    # Whether a ratio says something: a growth next to nothing has none.
    ratio: bool = True


CASES = {
    "small-1": Case("64 B, 1 connection"),
    "small-64": Case("64 B, 64 connections", targets=(Target(1.0), Target(1.2, "haproxy", "tcp-64"))),
    "tcp-64": Case("64 B, 64 conn., TCP mode"),
    "small-512": Case("64 B, 512 connections"),
    "16k": Case("16 KiB, 64 connections"),
    "close": Case("64 B, a connection each"),
    "https": Case("HTTPS 64 B, 64 connections", targets=(Target(0.95),)),
    "full": Case("HTTPS, full handshake each", targets=(Target(0.75),)),
    "resumed": Case("HTTPS, resumed each"),
    "h2": Case("HTTP/2, 8 × 100 streams", targets=(Target(1.0),)),
    "relay": Case("TCP relay of 1 GiB", "ms/GiB", (Target(1.0, "haproxy"), Target(1.0, "haproxy-splice"))),
    "latency": Case("p99 added at half load", "µs", (Target(1.0, "haproxy"),)),
    "idle": Case("idle connections", "KiB each", (Limit(16),)),
    "idle-tls": Case("idle connections, TLS", "KiB each", (Limit(16),)),
    "body": Case("large body, paused; upload", "MiB grown", (Limit(8),), ratio=False),
}


def figure(row, rows):
    """The figure that the case is about."""
    name, spent = row["case"], row.get("ticks", 0) / TICKS
    if name in ("idle", "idle-tls"):
        return row["grown"] / row["served"]
    if name == "body":
        return row["grown"] / 1024
    if name == "latency":
        direct = [r for r in rows if (r["case"], r["proxy"], r["round"]) == (name, NO_PROXY, row["round"])]
        return row["p99"] - direct[0]["p99"]
    return spent * (1e3 if name == "relay" else 1e6) / max(row["served"], 1e-9)


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def medians(rows):
    """By case and proxy: the figure and the others, each the median of its rounds; what went bad is added up."""
    grouped = collections.defaultdict(list)
    for row in rows:
        grouped[row["case"], row["proxy"]].append(row | {"figure": figure(row, rows)})
    result = {}
    for key, group in grouped.items():
        result[key] = {name: median(r.get(name) for r in group) for name in ("figure", "rate", "p50", "p99", "peak")}
        result[key]["bad"] = sum(r["bad"] for r in group)
        result[key]["rounds"] = {r["round"]: r["figure"] for r in group}
    return result


def better(summary, case):
    """The proxy with the lowest figure among those that are not Meridian."""
    others = {p: s["figure"] for (c, p), s in summary.items() if c == case and p not in ("meridian", NO_PROXY)}
    return min(others, key=others.get, default=None)


def ratios(ours, reference):
    """Of each round in which both were measured: what disturbs the machine for longer than a round disturbs both alike."""
    if ours is None or reference is None:
        return []
    pairs = [(value, reference["rounds"].get(number)) for number, value in ours["rounds"].items()]
    return [value / other for value, other in pairs if other is not None and other > 0]


def show(value, digits, width):
    return f"{value:{width}.{digits}f}" if value is not None else " " * (width - 1) + "-"


def print_table(summary):
    print(
        f"{'case':27} {'proxy':15} {'figure':>9} {'unit':11} {'× better':>8} {'(range)':>12} {'per s':>8} {'p50 µs':>8} {'p99 µs':>8}"
        f" {'bad':>5} {'peak MiB':>8}"
    )
    for name, case in CASES.items():
        reference = summary.get((name, better(summary, name))) if case.ratio else None
        of_case = {proxy: s for (c, proxy), s in summary.items() if c == name}
        for proxy in sorted(of_case, key=lambda p: (p != "meridian", p)):
            s = of_case[proxy]
            shares = ratios(s, reference) if proxy != NO_PROXY else []
            between = f"{min(shares):.2f}–{max(shares):.2f}" if len(shares) > 1 and s is not reference else ""
            value, peak = (s["figure"], s["peak"] / 1024) if proxy != NO_PROXY else (None, None)
            print(
                f"{case.title:27} {proxy:15} {show(value, 2, 9)} {case.unit:11} {show(median(shares), 2, 8)} {between:>12}"
                f" {show(s['rate'], 1 if name == 'relay' else 0, 8)} {show(s['p50'], 0, 8)} {show(s['p99'], 0, 8)}"
                f" {s['bad']:5} {show(peak, 1, 8)}"
            )


def print_targets(summary):
    """Whether Meridian's figures are what they should be. One beside bad answers is void."""
    lines = []
    for name, case in CASES.items():
        ours = summary.get((name, "meridian"))
        for target in case.targets if ours else ():
            if isinstance(target, Limit):
                value, most, what, bad = ours["figure"], target.figure, case.unit, ours["bad"]
            else:
                at = target.case or name
                reference = summary.get((at, better(summary, at) if target.of == "the better" else target.of))
                value, most = median(ratios(ours, reference)), target.factor
                what = f"× {target.of}" + (f" in {CASES[at].title}" if target.case else "")
                bad = ours["bad"] + (reference["bad"] if reference else 0)
            if value is None:
                continue
            verdict = "void" if bad else "met" if value <= most else "missed"
            lines.append(f"{case.title:27} {value:7.2f} {what} (at most {most:g}): {verdict}")
    if lines:
        print("\ntargets\n" + "\n".join(lines))


def main():
    match sys.argv[1:]:
        case ["names"]:
            print("\n".join(CASES))
        case ["list"]:
            for name, case in CASES.items():
                print(f"{name:10} {case.title} ({case.unit})")
        case ["print", path]:
            with open(path) as file:
                summary = medians([json.loads(line) for line in file])
            print_table(summary)
            print_targets(summary)
            bad = sum(s["bad"] for s in summary.values())
            if bad:
                sys.exit(f"\n{bad} answers were not what was asked for (column \"bad\"): the figures beside them say nothing")
        case _:
            sys.exit(__doc__)


main()
