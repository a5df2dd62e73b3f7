"""Prints the figures of a file, name, figure, unit, separated by tabs, and beside them the targets; fails when one is missed."""

import sys

AT_MOST, AT_LEAST = "at most", "at least"
TARGETS = {
    "cookie open": (AT_MOST, 400),
    "cookie seal": (AT_MOST, 600),
    "local look-up": (AT_MOST, 150),
    "RAM a pin, all in": (AT_MOST, 100),
    "disk a pin": (AT_MOST, 300),
    "new pins acknowledged and on all three disks": (AT_LEAST, 15_000),
    "new pins acknowledged": (AT_LEAST, 50_000),
    "repair traffic": (AT_MOST, 5),
    "added latency of a new session, median of pairs": (AT_MOST, 200),
    "restart of the store": (AT_MOST, 5),
    "from a death to three replicas of all": (AT_MOST, 60),
    "CPU of each node meanwhile": (AT_MOST, 10),
    "from its return to equal replicas": (AT_MOST, 30),
    "Meridian: of them lost": (AT_MOST, 0),
}


def main():
    with open(sys.argv[1]) as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    named = {name: float(figure) for name, figure, _ in rows}
    idle, full = (named.get(f"traffic at rest {which}") for which in ("without pins", "with them"))
    if idle is not None and full is not None:
        rows.append(["repair traffic", f"{max(full - idle, 0):.1f}", "KB/s a node"])
    missed = False
    for name, figure, unit in rows:
        told = ""
        if name in TARGETS:
            kind, target = TARGETS[name]
            met = float(figure) <= target if kind == AT_MOST else float(figure) >= target
            missed |= not met
            told = f"({kind} {target}: {'met' if met else 'missed'})"
        print(f"{name:54} {figure:>12} {unit:14} {told}".rstrip())
    sys.exit(missed)


main()
