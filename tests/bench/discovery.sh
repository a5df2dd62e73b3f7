#!/usr/bin/env bash
# What it costs to follow backends that come and go, how soon a new one serves, and whether anybody notices: one table, with targets.
#
#   bash tests/bench/discovery.sh [--backends N] [--changes N] [--seconds N] [--rounds N] [--case NAME]... [--list] [--out FILE]
#
#   --backends N  in the pool, where the cost is measured (default 1000)
#   --changes N   so many of them are replaced by others every second (default 50)
#   --seconds N   for so long (default 20)
#   --rounds N    new backends whose first requests are waited for (default 10)
#   --case NAME   this case only; may be given several times (--list shows them)
#   --out FILE    append the figures there: name, figure, unit, separated by tabs
#
# MERIDIAN=/path/to/meridian measures that binary; else `cargo build --release` makes one. Needs Linux, curl, python3; no root. Three
# nodes of one region, the backends and their users are on loopback and on this machine's cores, all together.
# discovery/ holds the measurements and the cases.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/../.."
here=$PWD/tests/bench/discovery
# shellcheck source-path=SCRIPTDIR source=common.sh
source tests/bench/common.sh

backends=1000 changes=50 seconds=20 rounds=10 out=/dev/null cases=()
all=(file lease checked first clean)
while [ $# -gt 0 ]; do
  case $1 in
    --list) printf '%s\n' "${all[@]}"; exit ;;
    --help | -h) usage_of tests/bench/discovery.sh; exit ;;
    --backends | --changes | --seconds | --rounds) whole_number "$@" ;;&
    --backends) backends=$2 ;;
    --changes) changes=$2 ;;
    --seconds) seconds=$2 ;;
    --rounds) rounds=$2 ;;
    --out) out=$(named_file "${2:?--out takes a file}") ;;
    --case)
      known_case "${2:-}" "${all[@]}"
      cases+=("$2") ;;
    *) usage_of tests/bench/discovery.sh >&2; exit 2 ;;
  esac
  shift 2
done
[ ${#cases[@]} -gt 0 ] || cases=("${all[@]}")

need "curl python3 util-linux" curl python3 flock
alone
meridian=$(binary meridian node "${MERIDIAN:-}")
ulimit -n "$(ulimit -Hn)"

folder=$(mktemp -d)
net=127.62
# shellcheck source-path=SCRIPTDIR source=three_nodes.sh
source tests/bench/three_nodes.sh
# shellcheck source-path=SCRIPTDIR source=discovery/cases.sh
source "$here/cases.sh"
trap 'stop_nodes; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
cd "$folder"

tabulate
echo "$(date -u +%F), $changes of $backends backends replaced a second for $seconds s, three nodes; load average before: $busy; $(nproc) cores"
"$meridian" --version
exit $outcome
