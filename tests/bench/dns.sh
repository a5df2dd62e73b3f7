#!/usr/bin/env bash
# The cost of a DNS query beside gdnsd's, Knot's, NSD's and PowerDNS's, and beside a loop that only sends back what it receives.
#
#   bash tests/bench/dns.sh [--rounds N] [--seconds N] [--case NAME]... [--server NAME]... [--rows FILE]
#
#   --rounds N     the servers take turns, N rounds; medians are shown (default 5)
#   --seconds N    of load in each measurement (default 4)
#   --case NAME    this case only; may be given several times:
#                    steered   one name, steered by the resolver's address
#                    ecs       the same by a client subnet (RFC 7871)
#                    static    one name with one address
#                    missing   a name that is not there
#                    names     10,000 steered names, asked at random
#                    signed    steered as above, in a zone that Meridian signs; asked with DO, Meridian alone
#                    unsigned  the same in the zone that is not signed, to compare with
#   --server NAME  this server only (echo, meridian, gdnsd, knot, nsd, pdns); may be given several times. All of them run
#   --rows FILE    append the raw figures there, a line of JSON each
#
# MERIDIAN=/path/to/meridian measures that binary; else `cargo build --release` makes one. Needs Linux with two cores, gdnsd, knotd with
# its geoip module, nsd, pdns_server with its geoip backend, dnsperf, cc, python3; no root. The server under test has one thread for
# UDP on core 0, the load runs on core 1, all on loopback. NSD cannot steer and serves the static cases alone.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/../.."
here=$PWD/tests/bench/name_server
# shellcheck source-path=SCRIPTDIR source=common.sh
source tests/bench/common.sh
export PATH="$PATH:/usr/sbin"

all_cases=(steered ecs static missing names signed unsigned)
all_servers=(echo meridian gdnsd knot nsd pdns)
rounds=5 seconds=4 keep=/dev/null cases=() servers=()
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage_of tests/bench/dns.sh; exit ;;
    --rounds | --seconds) whole_number "$@" ;;&
    --rounds) rounds=$2 ;;
    --seconds) seconds=$2 ;;
    --case) [[ " ${all_cases[*]} " == *" ${2:-} "* ]] || { echo "no case \"${2:-}\"; see --help" >&2; exit 2; }; cases+=("$2") ;;
    --server) [[ " ${all_servers[*]} " == *" ${2:-} "* ]] || { echo "no server \"${2:-}\"; see --help" >&2; exit 2; }; servers+=("$2") ;;
    --rows) keep=$(named_file "${2:?--rows takes a file}") ;;
    *) echo "unknown option $1; see --help" >&2; exit 2 ;;
  esac
  shift 2
done
[ ${#cases[@]} -gt 0 ] || cases=("${all_cases[@]}")
[ ${#servers[@]} -gt 0 ] || servers=("${all_servers[@]}")
need "gdnsd knot knot-module-geoip nsd pdns-server pdns-backend-geoip dnsperf gcc python3 util-linux" \
  gdnsd knotd nsd pdns_server dnsperf cc python3 taskset flock
alone
meridian=$(binary meridian node "${MERIDIAN:-}")

work=$(mktemp -d)
declare -A process
stop() {
  for server in "${!process[@]}"; do kill "${process[$server]}" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT

declare -A port=([echo]=5391 [meridian]=5392 [gdnsd]=5393 [knot]=5394 [nsd]=5395 [pdns]=5396)
names=$(seq 1 10000)
mkdir -p "$work"/{gdnsd/zones,gdnsd/run,gdnsd/state,knot,nsd,pdns,meridian}

# Two networks, one answer each; the load comes from the second, the client subnets lie in the first.
cc -O2 -o "$work/echo" "$here/echo.c"
cat >"$work/gdnsd/config" <<CONFIG
options => { listen => 127.0.0.1, dns_port => ${port[gdnsd]}, udp_threads => 1, tcp_threads => 1, run_dir => $work/gdnsd/run, state_dir => $work/gdnsd/state }
plugins => { geoip => { maps => { m => { nets => { 10.0.0.0/8 => [a], 127.0.0.0/8 => [b] }, datacenters => [a, b] } },
  resources => { r => { map => m, dcmap => { a => 192.0.2.1, b => 192.0.2.2 } } } } }
CONFIG
zone() { printf '@ 300 SOA ns1 host 1 900 300 604800 60\n@ 300 NS ns1\n@ 300 NS ns2\nns1 300 A 192.0.2.53\nns2 300 A 192.0.2.54\nstatic 300 A 192.0.2.10\n'; }
{ zone; echo 'www 300 DYNA geoip!r'; printf 'n%s 300 DYNA geoip!r\n' $names; } >"$work/gdnsd/zones/example.com"
{ echo '$ORIGIN example.com.'; zone; printf 'www 300 A 192.0.2.9\n'; printf 'n%s 300 A 192.0.2.9\n' $names; } >"$work/knot/zone"
cp "$work/knot/zone" "$work/nsd/zone"
answers='  - net: "10.0.0.0/8"\n    A: 192.0.2.1\n  - net: "127.0.0.0/8"\n    A: 192.0.2.2\n'
{ printf 'www.example.com:\n'"$answers"; printf 'n%s.example.com:\n'"$answers" $names; } >"$work/knot/geo.conf"
cat >"$work/knot/conf" <<CONFIG
server:
  rundir: "$work/knot"
  listen: 127.0.0.1@${port[knot]}
  udp-workers: 1
  tcp-workers: 1
  edns-client-subnet: on
database:
  storage: "$work/knot"
mod-geoip:
  - id: geo
    config-file: "$work/knot/geo.conf"
    mode: subnet
zone:
  - domain: example.com
    file: "$work/knot/zone"
    module: mod-geoip/geo
CONFIG
cat >"$work/nsd/conf" <<CONFIG
server:
  ip-address: 127.0.0.1@${port[nsd]}
  username: ""
  zonesdir: "$work/nsd"
  database: ""
  pidfile: "$work/nsd/pid"
  xfrdfile: "$work/nsd/xfrd"
  zonelistfile: "$work/nsd/zones"
  xfrdir: "$work/nsd"
  server-count: 1
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: example.com
  zonefile: zone
CONFIG
cat >"$work/pdns/pdns.conf" <<CONFIG
launch=geoip
geoip-zones-file=$work/pdns/zones.yaml
edns-subnet-processing=yes
local-address=127.0.0.1
local-port=${port[pdns]}
receiver-threads=1
daemon=no
guardian=no
socket-dir=$work/pdns
setuid=
setgid=
CONFIG
{
  printf 'domains:\n- domain: example.com\n  ttl: 300\n  records:\n    example.com:\n'
  printf '      - soa: ns1.example.com host.example.com 1 900 300 604800 60\n      - ns: ns1.example.com\n'
  printf '    ns1.example.com:\n      - a: 192.0.2.53\n    static.example.com:\n      - a: 192.0.2.10\n'
  printf '    a.example.com:\n      - a: 192.0.2.1\n    b.example.com:\n      - a: 192.0.2.2\n  services:\n'
  net="{ 10.0.0.0/8: [ 'a.example.com' ], 127.0.0.0/8: [ 'b.example.com' ] }"
  printf "    www.example.com: $net\n"
  printf "    n%s.example.com: $net\n" $names
} >"$work/pdns/zones.yaml"
# One node answers for both networks. Its own admin port is the backend, so that there is a healthy one.
cat >"$work/meridian/node.toml" <<CONFIG
[node]
name = "bench"
region = "b"
data = "$work/meridian/data"
public = ["192.0.2.2"]
[mesh]
listen = "127.0.0.1:17946"
[proxy]
listen = ["127.0.0.1"]
workers = 1
[dns]
listen = ["127.0.0.1:${port[meridian]}"]
[admin]
listen = "127.0.0.1:17900"
[log]
level = "warn"
access = "off"
CONFIG
{
  cat <<CONFIG
[region.a]
prefixes = ["10.0.0.0/8"]
[region.b]
prefixes = ["127.0.0.0/8"]
[pool.web]
health.tcp = { interval = "2s" }
backend = [{ address = "127.0.0.1:17900", region = "b" }]
[listener.http]
port = 18080
protocol = "http"
[service.web]
split = { web = 1 }
[[dns.zone."example.com".record]]
name = "static"
type = "A"
value = "192.0.2.10"
[dns.zone."signed.example"]
nameserver = { ns1 = ["192.0.2.53"], ns2 = ["192.0.2.54"] }
ttl = "300s"
dnssec = true
steer.www = { service = "web", policy = "nearest", answers = 1 }
[dns.zone."example.com"]
nameserver = { ns1 = ["192.0.2.53"], ns2 = ["192.0.2.54"] }
ttl = "300s"
steer.www = { service = "web", policy = "nearest", answers = 1 }
CONFIG
  printf 'steer.n%s = { service = "web", policy = "nearest", answers = 1 }\n' $names
} >"$work/meridian/services.toml"

run() { # SERVER COMMAND...
  local server=$1
  shift
  (cd "$work/$server" 2>/dev/null || cd "$work"; exec taskset -c 0 "$@") >"$work/$server.log" 2>&1 &
  process[$server]=$!
}
run echo "$work/echo" "${port[echo]}"
run meridian "$meridian" start -c node.toml --apply services.toml
run gdnsd gdnsd -c "$work/gdnsd" start
run knot knotd -c conf
run nsd nsd -d -c conf
run pdns pdns_server --config-dir="$work/pdns"

# What each must answer before it is measured; echo sends the question back.
asks() { # SERVER NAME ANSWER
  for _ in $(seq 150); do
    python3 - "${port[$1]}" "$2" "$3" <<'PYTHON' && return
import socket, sys
port, name, answer = int(sys.argv[1]), sys.argv[2], sys.argv[3]
labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asker.settimeout(0.2)
try:
    asker.sendto(b"\x01\x02\x01\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1", ("127.0.0.1", port))
    sys.exit(0 if socket.inet_aton(answer) in asker.recv(4096) else 1)
except OSError:
    sys.exit(1)
PYTHON
    sleep 0.1
  done
  echo "$1 does not answer $2 with $3:" >&2
  tail -5 "$work/$1.log" >&2
  return 1
}
for server in meridian gdnsd knot pdns; do asks $server www.example.com 192.0.2.2; asks $server n77.example.com 192.0.2.2; done
for server in meridian gdnsd knot nsd pdns; do asks $server static.example.com 192.0.2.10; done
asks meridian www.signed.example 192.0.2.2
# The zone's key is made when no other node is found that has one.
for _ in $(seq 150); do
  "$meridian" --node http://127.0.0.1:17900 dns ds signed.example >/dev/null 2>&1 && break
  sleep 0.1
done
"$meridian" --node http://127.0.0.1:17900 dns ds signed.example >/dev/null 2>&1 || { echo "signed.example has no key" >&2; exit 1; }

echo 'www.example.com A' >"$work/steered.queries"
cp "$work/steered.queries" "$work/ecs.queries"
cp "$work/steered.queries" "$work/unsigned.queries"
echo 'www.signed.example A' >"$work/signed.queries"
echo 'static.example.com A' >"$work/static.queries"
echo 'missing.example.com A' >"$work/missing.queries"
shuf -i 1-10000 --random-source=<(yes) | sed 's/.*/n&.example.com A/' >"$work/names.queries"

# All threads of a process and of those it made: user and system time in ticks.
family() {
  echo "$1"
  for child in $(ps -o pid= --ppid "$1"); do family "$child"; done
}
ticks() {
  for pid in $(family "$1"); do sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null; done | awk '{ user += $12; kernel += $13 } END { print user, kernel }'
}
hertz=$(getconf CLK_TCK)
measure() { # CASE SERVER ROUND
  local options=() before after said
  [ "$1" != ecs ] || options=(-E 8:000118000a0102)
  [[ $1 != *signed ]] || options=(-D)
  read -ra before < <(ticks "${process[$2]}")
  said=$(taskset -c 1 dnsperf -s 127.0.0.1 -p "${port[$2]}" -d "$work/$1.queries" -l "$seconds" -c 8 -q 200 -T 1 "${options[@]}" 2>&1)
  read -ra after < <(ticks "${process[$2]}")
  awk -v name="$1" -v server="$2" -v round="$3" -v user=$((after[0] - before[0])) -v kernel=$((after[1] - before[1])) -v hertz="$hertz" '
    /Queries completed/ { done = $3 } /Queries lost/ { lost = $3 } /Queries per second/ { rate = $4 }
    END { if (!done) exit 1
      printf "{\"case\": \"%s\", \"server\": \"%s\", \"round\": %d, \"rate\": %.0f, \"user\": %.4f, \"system\": %.4f, \"lost\": %d}\n",
        name, server, round, rate, user * 1e6 / hertz / done, kernel * 1e6 / hertz / done, lost }' <<<"$said" |
    tee -a "$keep" >>"$work/rows"
}
for ((round = 1; round <= rounds; round++)); do
  for case in "${cases[@]}"; do
    for server in "${servers[@]}"; do
      [[ $server == nsd && $case != static && $case != missing ]] && continue
      [[ $case == *signed && $server != echo && $server != meridian ]] && continue
      measure "$case" "$server" "$round"
    done
  done
done
python3 "$here/table.py" "$work/rows"
