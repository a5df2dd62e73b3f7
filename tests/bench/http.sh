#!/usr/bin/env bash
# CPU a request, beside HAProxy and nginx, with the same features on for all: keep-alive both sides, X-Forwarded-For, cookie
# persistence, least connections. Needs root-less Linux with nginx, haproxy, wrk, curl, openssl and python3, and two cores:
# the proxy under test runs on core 0, the load and the origin on core 1.
#
#   bash tests/bench/http.sh [ROUNDS [SECONDS]]     default: 5 rounds of 4 s; the contestants take turns, medians are shown
#
# The figure to trust on a noisy machine is CPU a request: (user + system time of the proxy's processes, /proc/PID/stat)
# divided by the requests that were answered. Requests a second swing with the neighbours.
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-5} seconds=${2:-4}
export PATH="$PATH:/usr/sbin"
for program in nginx haproxy wrk curl openssl python3 taskset; do
  command -v $program >/dev/null || { echo "needs $program: apt-get install nginx haproxy wrk curl openssl python3 util-linux" >&2; exit 1; }
done
cargo build --release --locked --quiet
meridian=$PWD/target/release/meridian
folder=$(mktemp -d); pids=()
cleanup() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; rm -rf "$folder"; }
trap cleanup EXIT
cd "$folder"

origin=127.60.0.1 ours=127.60.0.2 theirs=127.60.0.3 other=127.60.0.4
small=$(printf '0123456789abcdef%.0s' 1 2 3 4)
chmod 755 "$folder"; mkdir www; head -c 16384 /dev/zero | tr '\0' x >www/16k
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=bench.test \
  -keyout key.pem -out cert.pem 2>/dev/null
cat cert.pem key.pem >both.pem

cat >origin.conf <<CONF
worker_processes 1; daemon off; pid origin.pid; error_log origin.err;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 100000000; keepalive_timeout 3600s;
  server { listen $origin:9001 backlog=4096; listen $origin:9002 backlog=4096; root $folder/www;
    location = / { return 200 "$small"; } location = /healthz { return 200 "ok"; } }
}
CONF
cat >nginx.conf <<CONF
worker_processes 1; daemon off; pid nginx.pid; error_log nginx.err;
events { worker_connections 8192; }
http {
  access_log off; keepalive_requests 100000000; keepalive_timeout 3600s; proxy_temp_path $folder/tmp;
  map \$cookie_route \$kept { default ""; one $origin:9001; two $origin:9002; }
  upstream pool { least_conn; server $origin:9001; server $origin:9002; keepalive 512; }
  upstream one { server $origin:9001; keepalive 512; }
  server { listen $other:8080 backlog=4096; listen $other:8443 ssl http2 backlog=4096;
    ssl_certificate $folder/cert.pem; ssl_certificate_key $folder/key.pem;
    location / {
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
      if (\$cookie_route = one) { proxy_pass http://one; }
      add_header Set-Cookie "route=one; Path=/";
      proxy_pass http://pool; } }
}
CONF
cat >haproxy.cfg <<CONF
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option forwardfor
  http-reuse always
frontend f
  bind $theirs:8080
  bind $theirs:8443 ssl crt $folder/both.pem alpn h2,http/1.1
  default_backend b
backend b
  balance leastconn
  cookie SRV insert indirect nocache
  server s1 $origin:9001 cookie s1
  server s2 $origin:9002 cookie s2
CONF
cat >node.toml <<CONF
[node]
name = "bench"
data = "$folder/data"
[mesh]
listen = "$ours:7946"
[proxy]
listen = ["$ours"]
workers = 1
[admin]
listen = "$ours:7900"
[log]
level = "warn"
access = "off"
CONF
cat >services.toml <<CONF
[listener.http]
port = 8080
protocol = "http"
[listener.https]
port = 8443
protocol = "https"
certificate = [{ cert = "$folder/cert.pem", key = "$folder/key.pem" }]
[service.web]
split = { web = 1 }
sticky.cookie = { name = "meridian", ttl = "8h" }
[pool.web]
balance = "weighted-least-connections"
health.http = { path = "/healthz" }
backend = [{ address = "$origin:9001" }, { address = "$origin:9002" }]
CONF

taskset -c 1 nginx -p "$folder" -c origin.conf & pids+=($!)
taskset -c 0 nginx -p "$folder" -c nginx.conf & pids+=($!); nginx_pid=$!
taskset -c 0 haproxy -f haproxy.cfg -db >/dev/null 2>&1 & pids+=($!); haproxy_pid=$!
taskset -c 0 "$meridian" start -c node.toml --apply services.toml 2>meridian.log & pids+=($!); meridian_pid=$!

await() { for _ in $(seq 200); do curl -sk -o /dev/null "$1" && return; sleep 0.1; done; echo "$1 does not answer" >&2; tail -5 meridian.log >&2; exit 1; }
await http://$origin:9001/; await http://$ours:8080/; await https://$ours:8443/; await http://$theirs:8080/; await http://$other:8080/

# The CPU ticks that a process and its children have used.
ticks() {
  local total=0 pid
  for pid in "$1" $(cat /proc/"$1"/task/*/children 2>/dev/null); do
    total=$((total + $(awk '{ sub(/.*\) /, ""); print $12 + $13 }' /proc/"$pid"/stat)))
  done
  echo $total
}
memory() { awk '/VmHWM/ { print $2 }' /proc/"$1"/status; }

results=$folder/results
# measure CASE NAME PID URL CONNECTIONS [HEADER]
measure() {
  local case=$1 name=$2 pid=$3 url=$4 connections=$5 header=${6:-} before after out
  local cookie; cookie=$(curl -sk -o /dev/null -D - "$url" | tr -d '\r' | awk -F': ' 'tolower($1) == "set-cookie" { split($2, a, ";"); print a[1]; exit }')
  before=$(ticks "$pid")
  out=$(taskset -c 1 wrk -t1 -c"$connections" -d"$seconds"s --latency -H "Cookie: $cookie" ${header:+-H "$header"} "$url")
  after=$(ticks "$pid")
  echo "$out" | python3 -c '
import re, sys
case, name, ticks, memory = sys.argv[1:5]
out = sys.stdin.read()
requests = int(re.search(r"(\d+) requests in", out)[1])
rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
unit = {"us": 1, "ms": 1e3, "s": 1e6}
lat = {p: float(v) * unit[u] for p, v, u in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", out)}
bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
bad = int(bad[1]) if bad else 0
print(case, name, int(ticks) * 10000.0 / max(requests, 1), rate, lat["50"], lat["99"], bad, memory, sep="\t")
' "$case" "$name" $((after - before)) "$(memory "$pid")" >>"$results"
}
turn() {
  local case=$1 scheme=$2 port=$3 path=$4 connections=$5 header=${6:-}
  measure "$case" meridian "$meridian_pid" $scheme://$ours:$port$path "$connections" "$header"
  measure "$case" haproxy "$haproxy_pid" $scheme://$theirs:$port$path "$connections" "$header"
  measure "$case" nginx "$nginx_pid" $scheme://$other:$port$path "$connections" "$header"
}
for round in $(seq "$rounds"); do
  echo "round $round of $rounds" >&2
  turn "64 B, 1 connection" http 8080 / 1
  turn "64 B, 64 connections" http 8080 / 64
  turn "64 B, 512 connections" http 8080 / 512
  turn "16 KiB, 64 connections" http 8080 /16k 64
  turn "HTTPS 64 B, 64 connections" https 8443 / 64
  turn "64 B, a connection each" http 8080 / 64 "Connection: close"
done
python3 - "$results" <<'PY'
import collections, statistics, sys
rows = collections.defaultdict(list)
for line in open(sys.argv[1]):
    case, name, *figures = line.rstrip("\n").split("\t")
    rows[case, name].append([float(figure) for figure in figures])
print(f"{'case':28} {'proxy':9} {'µs CPU/req':>10} {'req/s':>8} {'p50 µs':>8} {'p99 µs':>8} {'errors':>6} {'peak MiB':>8}")
for (case, name), figures in rows.items():
    cpu, rate, p50, p99, bad, memory = (statistics.median(column) for column in zip(*figures))
    print(f"{case:28} {name:9} {cpu:10.2f} {rate:8.0f} {p50:8.0f} {p99:8.0f} {bad:6.0f} {memory / 1024:8.1f}")
PY
echo; date -u +%F; "$meridian" --version; haproxy -v | head -1; nginx -v 2>&1
