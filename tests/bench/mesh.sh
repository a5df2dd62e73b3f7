#!/usr/bin/env bash
# What the mesh knows, when, and at what cost: a hundred simulated nodes, and real processes; one table, with Meridian's targets.
#
#   bash tests/bench/mesh.sh [--rounds N] [--hours N] [--case NAME]... [--list] [--out FILE]
#
#   --rounds N    nodes killed, in the simulation and in a mesh of nine processes (default 20)
#   --hours N     simulated hours of a mesh of twelve with 5 % loss, and as many with stalls (default 24)
#   --case NAME   this case only; may be given several times (--list shows them)
#   --out FILE    append the figures there: name, figure, unit, limit, separated by tabs
#
# MERIDIAN=/path/to/meridian and MESH_SIM=/path/to/mesh-sim measure those binaries; else cargo makes both. Needs Linux, python3, wrk;
# no root. Everything is on loopback and on this machine's cores, all nodes together. The hours are simulated in runs of one, a
# seed each, on as many cores as there are; a run that breaks a promise names its seed.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/../.."
here=$PWD/tests/bench/mesh
# shellcheck source-path=SCRIPTDIR source=common.sh
source tests/bench/common.sh

rounds=20 hours=24 out=/dev/null cases=()
simulated=(sim-death sim-spread sim-traffic sim-probes sim-partition sim-loss sim-stalls)
all=("${simulated[@]}" idle form death backend region)
while [ $# -gt 0 ]; do
  case $1 in
    --list) printf '%s\n' "${all[@]}"; exit ;;
    --help | -h) usage_of tests/bench/mesh.sh; exit ;;
    --rounds | --hours) whole_number "$@" ;;&
    --rounds) rounds=$2 ;;
    --hours) hours=$2 ;;
    --out) out=$(named_file "${2:?--out takes a file}") ;;
    --case)
      known_case "${2:-}" "${all[@]}"
      cases+=("$2") ;;
    *) usage_of tests/bench/mesh.sh >&2; exit 2 ;;
  esac
  shift 2
done
[ ${#cases[@]} -gt 0 ] || cases=("${all[@]}")

need "python3 wrk util-linux" python3 wrk flock
alone
meridian=$(binary meridian node "${MERIDIAN:-}")
sim=${MESH_SIM:-}
if [ -z "$sim" ] && [[ " ${cases[*]}" == *" sim-"* ]]; then
  cargo build --profile measure --locked --quiet -p mesh-sim >&2
  sim=target/measure/mesh-sim
fi
[ -z "$sim" ] || sim=$(realpath -- "$sim")
ulimit -n "$(ulimit -Hn)"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
cd "$folder"

# So many hours of a scenario, an hour a seed; the figures of all together.
hours_of() {
  seq "$hours" | xargs -P "$(nproc)" -I SEED sh -c '"$0" "$1" --regions 3 --nodes 4 --minutes 60 --seed SEED >SEED.hour' "$sim" "$1" || true
  python3 "$here/hours.py" "$hours" ./*.hour
  rm ./*.hour
}

# Runs the simulation; one that breaks a promise says so in its figures and by its end, and the other cases go on.
simulate() { "$sim" "$@" || touch broken; }

begin() {
  case $1 in
    sim-loss | sim-stalls) hours_of "${1#sim-}" ;;
    sim-spread) simulate spread --rounds $((5 * rounds)) ;;
    sim-partition) simulate partition --regions 4 --nodes 2 ;;
    sim-*) simulate "${1#sim-}" --rounds "$rounds" ;;
    *) python3 "$here/processes.py" "$1" --meridian "$meridian" --rounds "$rounds" --folder "$folder" ;;
  esac
}

tabulate
echo "$(date -u +%F), $rounds rounds, $hours simulated hours; load average before: $busy; $(nproc) cores"
"$meridian" --version
exit $outcome
