#!/usr/bin/env bash
# What a session costs, beside HAProxy's stick tables with peers where the work is the same: one table, with Meridian's targets.
#
#   bash tests/bench/sessions.sh [--pins N] [--new N] [--case NAME]... [--list] [--out FILE]
#
#   --pins N      pins in the tables and stores (default 1000000)
#   --new N       new sessions over HTTP, and HAProxy's entries (default 100000)
#   --case NAME   this case only; may be given several times (--list shows them)
#   --out FILE    append the figures there: name, figure, unit, separated by tabs
#
# MERIDIAN=/path/to/meridian and SESSION_BENCH=/path/to/session-bench measure those binaries; else cargo makes both, --release.
# Needs Linux, curl, haproxy, python3; no root. Where `unshare -rn` works, the region runs in a network of its own, in which its
# traffic can be told from others'. Everything is on loopback and on this machine's cores, all nodes together.
# sessions/ holds the measurements and the cases.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/../.."
here=$PWD/tests/bench/sessions
# shellcheck source-path=SCRIPTDIR source=common.sh
source tests/bench/common.sh
export PATH="$PATH:/usr/sbin"

pins=1000000 new=100000 out=/dev/null cases=()
all=(micro region restart death latency meridian-new meridian-kill haproxy-new haproxy-kill)
usage() { usage_of tests/bench/sessions.sh; }
while [ $# -gt 0 ]; do
  case $1 in
    --list) printf '%s\n' "${all[@]}"; exit ;;
    --help | -h) usage; exit ;;
    --pins | --new) whole_number "$@" ;;&
    --pins) pins=$2 ;;
    --new) new=$2 ;;
    --out) out=$(named_file "${2:?--out takes a file}") ;;
    --case)
      known_case "${2:-}" "${all[@]}"
      cases+=("$2") ;;
    *) usage >&2; exit 2 ;;
  esac
  shift 2
done
[ ${#cases[@]} -gt 0 ] || cases=("${all[@]}")

need "curl haproxy python3 util-linux" curl haproxy python3 unshare flock
alone
meridian=$(binary meridian node "${MERIDIAN:-}")
bench=$(binary session-bench session-bench "${SESSION_BENCH:-}")
ulimit -n "$(ulimit -Hn)"

folder=$(mktemp -d)
net=127.61
# shellcheck source-path=SCRIPTDIR source=three_nodes.sh
source tests/bench/three_nodes.sh
# shellcheck source-path=SCRIPTDIR source=sessions/cases.sh
source "$here/cases.sh"
trap 'stop "${!pid[@]}"; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
cd "$folder"

tabulate
echo "$(date -u +%F), $pins pins, $new new sessions over HTTP; load average before: $busy; $(nproc) cores"
"$meridian" --version
haproxy -v | sed -n 1p
exit $outcome
