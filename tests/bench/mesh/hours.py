"""Adds up the figures of simulated hours: their number, and their files. A run that told nothing is a broken promise."""

import sys


def main():
    wanted, files = int(sys.argv[1]), sys.argv[2:]
    sums, rows, silent = {}, {}, wanted - len(files)
    for file in files:
        with open(file) as lines:
            figures = [line.rstrip("\n").split("\t") for line in lines]
        silent += not figures
        for name, figure, unit, limit in figures:
            # Runs name how much trouble they had.
            name = name.split(" (")[0]
            sums[name] = sums.get(name, 0) + float(figure)
            rows[name] = (unit, limit)
    for name, figure in sums.items():
        unit, limit = rows[name]
        print(name, f"{figure:g}", unit, limit, sep="\t")
    print("simulated hours that did not end", silent, "", "0", sep="\t")


main()
