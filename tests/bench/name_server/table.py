"""Medians over the rounds, beside an empty loop and beside gdnsd: table.py ROWS, a JSON object a line."""
import json
import statistics
import sys

rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]


def cost(row):
    return row["user"] + row["system"]


def ratios(mine, others):
    """What each round's own measurement costs by that round's one of another server."""
    other = {row["round"]: cost(row) for row in others}
    return [cost(row) / other[row["round"]] for row in mine if other.get(row["round"])]


def middle(of, rows):
    return statistics.median(of(row) for row in rows)


print("CPU in microseconds a query; ratios are the medians of each round's own, in brackets those that half of them lie between.\n")
print(
    f"{'case':10} {'server':10} {'queries/s':>10} {'user':>6} {'system':>7} {'both':>6} {'x echo':>7} {'x gdnsd':>8} "
    f"{'':13} {'lost':>5}"
)
for case in dict.fromkeys(row["case"] for row in rows):
    of = lambda server: [row for row in rows if row["case"] == case and row["server"] == server]
    for server in dict.fromkeys(row["server"] for row in rows if row["case"] == case):
        mine = of(server)
        echo, gdnsd = ratios(mine, of("echo")), ratios(mine, of("gdnsd"))
        spread = ""
        if len(gdnsd) >= 4 and server != "gdnsd":
            low, _, high = statistics.quantiles(gdnsd, n=4)
            spread = f"({low:.2f} to {high:.2f})"
        shown = [f"{statistics.median(ratio):.2f}" if ratio else "-" for ratio in (echo, gdnsd)]
        print(
            f"{case:10} {server:10} {middle(lambda row: row['rate'], mine):10.0f} {middle(lambda row: row['user'], mine):6.2f} "
            f"{middle(lambda row: row['system'], mine):7.2f} {middle(cost, mine):6.2f} {shown[0]:>7} {shown[1]:>8} "
            f"{spread:13} {sum(row['lost'] for row in mine):5}"
        )
