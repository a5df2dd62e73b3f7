"""Prints the figures of a file, name, figure, unit, limit, separated by tabs; fails when one is above its limit."""

import sys


def main():
    missed = False
    with open(sys.argv[1]) as file:
        for line in file:
            name, figure, unit, limit = line.rstrip("\n").split("\t")
            told = ""
            if limit:
                met = float(figure) <= float(limit)
                missed |= not met
                told = f"(at most {limit}: {'met' if met else 'missed'})"
            print(f"{name:58} {float(figure):>12g} {unit:10} {told}".rstrip())
    sys.exit(missed)


main()
