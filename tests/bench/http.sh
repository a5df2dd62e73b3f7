#!/usr/bin/env bash
# The cost of the data plane beside HAProxy's and nginx's, with the same features on for all: one table, with Meridian's targets.
#
#   bash tests/bench/http.sh [--rounds N] [--seconds N] [--case NAME]... [--list] [--rows FILE] [--body GIB] [--connections N]
#
#   --rounds N        the contestants take turns, N rounds; medians are shown, ratios by round (default 5)
#   --seconds N       of load in each measurement (default 4)
#   --case NAME       this case only; may be given several times (--list shows them)
#   --rows FILE       append the raw figures there, a line of JSON each
#   --body GIB        size of the large body (default 2)
#   --connections N   idle connections (default 10000, or what the limit of open files leaves)
#
# MERIDIAN=/path/to/meridian measures that binary; else `cargo build --release` makes one. Needs Linux with two cores, nginx (and its
# stream module), haproxy, wrk, h2load, curl, openssl, python3 ≥ 3.10; no root. The proxy under test runs on core 0, the load and
# the origin on core 1, all on loopback. data_plane/ holds the contestants, the cases, and the table.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/../.."
here=$PWD/tests/bench/data_plane
# shellcheck source-path=SCRIPTDIR source=common.sh
source tests/bench/common.sh
export PATH="$PATH:/usr/sbin"

rounds=5 seconds=4 body_gib=2 connections=10000 keep=/dev/null cases=()
usage() { usage_of tests/bench/http.sh; }
while [ $# -gt 0 ]; do
  case $1 in
    --list) python3 "$here/table.py" list; exit ;;
    --help | -h) usage; exit ;;
    --rounds | --seconds | --body | --connections) whole_number "$@" ;;&
    --rounds) rounds=$2 ;;
    --seconds) seconds=$2 ;;
    --body) body_gib=$2 ;;
    --connections) connections=$2 ;;
    --rows) keep=$(named_file "${2:?--rows takes a file}") ;;
    --case)
      python3 "$here/table.py" names | grep -xF -- "${2:-}" >/dev/null || { echo "no case \"${2:-}\"; see --list" >&2; exit 2; }
      cases+=("$2") ;;
    *) usage >&2; exit 2 ;;
  esac
  shift 2
done
[ ${#cases[@]} -gt 0 ] || mapfile -t cases < <(python3 "$here/table.py" names)

need "nginx libnginx-mod-stream haproxy wrk nghttp2-client curl openssl python3 util-linux" \
  nginx haproxy wrk h2load curl openssl python3 taskset flock
[ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || { echo "needs nginx's stream module: apt-get install libnginx-mod-stream" >&2; exit 1; }
alone
meridian=$(binary meridian node "${MERIDIAN:-}")
ulimit -n "$(ulimit -Hn)"

# shellcheck source-path=SCRIPTDIR source=data_plane/contestants.sh
source "$here/contestants.sh"
# shellcheck source-path=SCRIPTDIR source=data_plane/cases.sh
source "$here/cases.sh"
folder=$(mktemp -d)
rows=$folder/rows
trap 'stop "${!pid[@]}"; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
chmod 755 "$folder"
cd "$folder"
# Everything that is started runs on core 1; the proxies move to core 0.
taskset -cp 1 $$ >/dev/null

# Neighbours on the same cores make every figure larger, CPU time too: caches are shared.
busy=$(cut -d' ' -f1-3 /proc/loadavg)
write_configurations "$body_gib"
start_origin
for proxy in "${proxies[@]}"; do start "$proxy"; check_features "$proxy"; done
for round in $(seq "$rounds"); do
  for name in "${cases[@]}"; do
    if once "$name" && [ "$round" -gt 1 ]; then continue; fi
    echo "round $round of $rounds: $name" >&2
    run_case "$name"
    cat "$rows" >>"$keep"; cat "$rows" >>all; : >"$rows"
  done
done

outcome=0
python3 "$here/table.py" print all || outcome=$?
echo
echo "$(date -u +%F), $rounds rounds of $seconds s; load average before: $busy"
"$meridian" --version
haproxy -v | sed -n 1p
nginx -v 2>&1
openssl version
exit $outcome
