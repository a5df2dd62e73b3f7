"""Medians over the rounds, with what an empty loop costs beside them: table.py ROWS, a JSON object a line."""
import json
import statistics
import sys

rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
cases = list(dict.fromkeys(row["case"] for row in rows))
print("CPU in microseconds a query; ratios are the medians of each round's own.\n")
print(f"{'case':10} {'server':10} {'queries/s':>10} {'user':>6} {'system':>7} {'both':>6} {'x echo':>7} {'lost':>6}")
for case in cases:
    here = [row for row in rows if row["case"] == case]
    echo = {row["round"]: row["user"] + row["system"] for row in here if row["server"] == "echo"}
    for server in dict.fromkeys(row["server"] for row in here):
        mine = [row for row in here if row["server"] == server]
        middle = lambda of: statistics.median(of(row) for row in mine)
        ratios = [(row["user"] + row["system"]) / echo[row["round"]] for row in mine if echo.get(row["round"])]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else "-"
        lost = sum(row["lost"] for row in mine)
        print(
            f"{case:10} {server:10} {middle(lambda r: r['rate']):10.0f} {middle(lambda r: r['user']):6.2f} "
            f"{middle(lambda r: r['system']):7.2f} {middle(lambda r: r['user'] + r['system']):6.2f} {ratio:>7} {lost:6}"
        )
