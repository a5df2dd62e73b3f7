# shellcheck shell=bash disable=SC2034,SC2154 # Names that the other files of this benchmark give or use.
# How each case is measured: the load that is put on each contestant in turn, and what is noted of it. Sourced by ../http.sh after
# contestants.sh. What a case is called and held to stands in table.py; how a program's output is read, in figures.py.
#
# The CPU time of the proxy's processes (/proc/PID/stat) over what was answered is the figure: on a shared machine requests a
# second swing with the neighbours, the cost of one much less.

# measure CASE LABEL PROXY TOOL COMMAND...: runs the load once and appends a row. LABEL is the contestant's name in the table.
measure() {
  local name=$1 label=$2 proxy=$3 tool=$4 before after began ended
  shift 4
  rm -f load.out requests.log
  forget_peak "$proxy"
  before=$(ticks "$proxy") began=$EPOCHREALTIME
  "$@" >load.out 2>&1 || { echo "$name, $label: the load ended with an error:" >&2; tail -n 5 load.out >&2; exit 1; }
  after=$(ticks "$proxy") ended=$EPOCHREALTIME
  alive "$proxy"
  python3 "$here/figures.py" "$tool" --case "$name" --proxy "$label" --round "$round" --ticks $((after - before)) \
    --peak "$(memory "$proxy" VmHWM)" --began "$began" --ended "$ended" <load.out >>"$rows"
}

# The contestants of a round: each round another one begins.
in_turn() {
  local count=${#proxies[@]} at
  for ((at = 0; at < count; at++)); do echo "${proxies[(at + round) % count]}"; done
}

# web CASE SCHEME PATH CONNECTIONS [HEADER...]: HTTP/1.1 by wrk, as fast as it goes, each user with a cookie.
web() {
  local name=$1 scheme=$2 path=$3 connections=$4 proxy header headers port=$http_port
  shift 4
  [ "$scheme" = http ] || port=$https_port
  for proxy in $(in_turn); do
    headers=(-H "Cookie: $(cookie "$proxy")")
    for header in "$@"; do headers+=(-H "$header"); done
    measure "$name" "$proxy" "$proxy" wrk \
      wrk -t1 -c"$connections" -d"${seconds}s" --latency "${headers[@]}" "$scheme://${address[$proxy]}:$port$path"
  done
}

# The same requests through the proxies' TCP listeners: what moving the bytes costs, before any HTTP.
floor() {
  local proxy
  for proxy in $(in_turn); do
    measure tcp-64 "$proxy" "$proxy" wrk wrk -t1 -c64 -d"${seconds}s" --latency "http://${address[$proxy]}:$tcp_port/"
  done
}

# handshakes CASE new|reuse: TLS 1.3 connections of one request each, eight clients at a time.
handshakes() {
  local name=$1 kind=$2 proxy
  for proxy in $(in_turn); do measure "$name" "$proxy" "$proxy" "s_time-$kind" eight_clients "$proxy" "$kind"; done
}
# s_time can ask for a path only; the headers of the request go in with it, and its own version ends in the last of them.
eight_clients() {
  local proxy=$1 kind=$2 request clients=() client
  request=$'/ HTTP/1.1\r\nHost: bench.test\r\nConnection: close\r\nCookie: '$(cookie "$proxy")$'\r\nX-Rest:'
  for client in 1 2 3 4 5 6 7 8; do
    openssl s_time -connect "${address[$proxy]}:$https_port" -tls1_3 "-$kind" -time "$seconds" -www "$request" >"s_time.$client" 2>&1 &
    clients+=($!)
  done
  for client in "${clients[@]}"; do wait "$client" || { cat s_time.*; return 1; }; done
  cat s_time.[1-8]
}

# HTTP/2 over TLS: 8 connections with 100 streams each.
http2() {
  local proxy
  for proxy in $(in_turn); do
    measure h2 "$proxy" "$proxy" h2load h2load -c8 -m100 -D "$seconds" --log-file=requests.log \
      -H "Cookie: $(cookie "$proxy")" "https://${address[$proxy]}:$https_port/"
  done
}

# Bodies of 1 GiB through the TCP listeners, one connection each. HAProxy takes part with splice and without.
relay() {
  local proxy
  for proxy in $(in_turn); do
    measure relay "$proxy" "$proxy" curl gibibytes "http://${address[$proxy]}:$tcp_port/1g"
    [ "$proxy" != haproxy ] || measure relay haproxy-splice haproxy curl gibibytes "http://${address[haproxy]}:$splice_port/1g"
  done
}
gibibytes() {
  local until=$((SECONDS + seconds))
  while :; do
    curl -s -o /dev/null -w '%{http_code} %{size_download}\n' "$1" || return 1
    [ $SECONDS -lt $until ] || return 0
  done
}

# What a proxy adds to the slowest hundredth at half of what HAProxy can do just then. The users pause between their requests
# (think.lua), so the rate is about the same for all; what the load and the origin take by themselves is measured in each round
# and subtracted.
latency() {
  local users proxy url label headers
  wrk -t1 -c64 -d1s -H "Cookie: $(cookie haproxy)" "http://${address[haproxy]}:$http_port/" >calibrate.out
  # A user makes about a hundred requests a second.
  users=$(awk '/Requests\/sec/ { print int($2 / 200) + 1 }' calibrate.out)
  for proxy in origin $(in_turn); do
    url=http://$origin:9001/ label="no proxy" headers=()
    [ "$proxy" = origin ] || { url=http://${address[$proxy]}:$http_port/ label=$proxy headers=(-H "Cookie: $(cookie "$proxy")"); }
    measure latency "$label" "$proxy" wrk \
      wrk -t1 -c"$users" -d"${seconds}s" --latency -s "$here/think.lua" "${headers[@]}" "$url"
  done
}

# Memory: what a fresh proxy's resident size grows by. Once a run, as it hardly differs from time to time.
grows() {
  local name=$1 proxy
  shift
  for proxy in $(in_turn); do
    restart "$proxy"
    # shellcheck disable=SC2046 # A word a process.
    python3 "$here/memory.py" "$@" --case "$name" --proxy "$proxy" --address "${address[$proxy]}" --cookie "$(cookie "$proxy")" \
      --processes $(processes "$proxy") >>"$rows"
    alive "$proxy"
    restart "$proxy"
  done
}

# Cases of one measurement a run.
once() { case $1 in idle | idle-tls | body) true ;; *) false ;; esac; }

run_case() {
  case $1 in
    small-1) web small-1 http / 1 ;;
    small-64) web small-64 http / 64 ;;
    tcp-64) floor ;;
    small-512) web small-512 http / 512 ;;
    16k) web 16k http /16k 64 ;;
    close) web close http / 64 "Connection: close" ;;
    https) web https https / 64 ;;
    full) handshakes full new ;;
    resumed) handshakes resumed reuse ;;
    h2) http2 ;;
    relay) relay ;;
    latency) latency ;;
    idle) grows idle idle --port "$http_port" --connections "$connections" ;;
    idle-tls) grows idle-tls idle --tls --port "$https_port" --connections "$connections" ;;
    body) grows body body --port "$http_port" --file www/body --uploaded www/up/body ;;
  esac
}
