"""Prints the figures of a file, name, figure, unit, separated by tabs, and beside them the targets; fails when one is missed."""

import sys

# Names begin with these; at most this.
TARGETS = {
    "CPU of the busiest node, changes by a file:": 5,
    "CPU of the busiest node, changes by leases:": 5,
    "first request through the last node, slowest": 1000,
    "requests that failed": 0,
}


def main():
    missed = False
    with open(sys.argv[1]) as file:
        for name, figure, unit in (line.rstrip("\n").split("\t") for line in file):
            told = ""
            for prefix, target in TARGETS.items():
                if name.startswith(prefix):
                    met = float(figure) <= target
                    missed |= not met
                    told = f"(at most {target}: {'met' if met else 'missed'})"
            print(f"{name:70} {figure:>10} {unit:12} {told}".rstrip())
    sys.exit(missed)


main()
