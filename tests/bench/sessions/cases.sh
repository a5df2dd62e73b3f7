# shellcheck shell=bash disable=SC2154 # Names that sessions.sh gives.
# The cases of the sessions' benchmark. Sourced by ../sessions.sh, in an empty folder that everything is written to. Each prints
# its figures: name, figure, unit, separated by tabs.

# Where everything beside the nodes listens: HAProxies are numbered from 1 too.
origin=$net.0.1:9000
proxy() { echo "$net.2.$1"; }
peers_port=1024

say() { printf '%s\t%s\t%s\n' "$1" "$2" "$3"; }

resident_bytes() { awk '/^VmRSS/ { print $2 * 1024 }' "/proc/$1/status"; }

# In a network of its own where the system lets a user have one.
in_own_net() {
  if unshare -rn true 2>/dev/null; then
    unshare -rn sh -c 'ip link set lo up && exec "$0" "$@"' "$@"
  else
    "$@"
  fi
}

begin() {
  case $1 in
    micro) "$bench" micro --pins "$pins" ;;
    region)
      local rest=0
      unshare -rn true 2>/dev/null && rest=40
      mkdir region
      in_own_net "$bench" region --pins "$pins" --rest $rest --data "$folder/region" ;;
    restart)
      [ -d region ] || { mkdir region; "$bench" region --pins "$pins" --data "$folder/region" >/dev/null; }
      "$bench" restart --data "$folder/region" ;;
    death) mkdir death; "$bench" death --pins "$pins" --data "$folder/death" ;;
    latency) start_origin 2000; start_mesh; latency; stop_nodes; stop origin ;;
    meridian-new) start_origin 0; start_mesh; meridian_new; stop_nodes; stop origin ;;
    meridian-kill) start_origin 0; start_mesh; meridian_kill; stop_nodes; stop origin ;;
    haproxy-new) start_origin 0; start_haproxies; haproxy_new; stop h1 h2 h3 origin ;;
    haproxy-kill) start_origin 0; start_haproxies; haproxy_kill; stop h2 h3 origin ;;
  esac
}

start_origin() {
  run origin "$bench" origin "$origin" --think-micros "$1"
  until_true curl -sf "http://$origin/"
}

# Three nodes of one region; the host `sticky` begins sessions, the host `plain` does not.
start_mesh() {
  local number
  start_nodes <<CONF
[listener.http]
port = $http_port
protocol = "http"
[service.sticky]
hosts = ["sticky"]
split = { web = 1 }
sticky.cookie = { name = "meridian", ttl = "8h" }
[service.plain]
hosts = ["plain"]
split = { web = 1 }
[pool.web]
backend = [{ address = "$origin" }]
CONF
  until_true mesh_is_whole
  for number in 1 2 3; do until_true curl -sf -H 'host: plain' "http://$(node "$number"):$http_port/"; done
  # Probes settle, connections between the nodes stand.
  sleep 3
}

mesh_is_whole() {
  local number
  for number in 1 2 3; do
    [ "$(status "$number" 'sum(member["state"] == "alive" for member in status["members"])')" = 3 ] || return 1
  done
}

# What a node says, by a Python expression over its status.
status() {
  curl -sf "http://$(node "$1"):$admin_port/v1/status" | python3 -c "import json, sys; status = json.load(sys.stdin); print($2)"
}

held() { status "$1" 'status["sessions"]["held_here"]'; }
holds() { [ "$(held "$1")" -ge "$2" ]; }

latency() { "$bench" compare "$(node 1):$http_port" sticky plain; }

# New sessions at one of three until the other two have them: how fast, and what they take. $1 whom to ask, $2 the process whose
# memory is looked at, $3 what tells whether one of the other two has so many, $4 and $5 what the figures are called.
new_sessions() {
  local before begun
  before=$(resident_bytes "${pid[$2]}")
  begun=$(date +%s%N)
  "$bench" flood "$1:$http_port" sticky --sessions "$new" --answered answered >rows.flood
  until_true "$3" 2 "$new"
  until_true "$3" 3 "$new"
  say "$4" "$((new * 1000000000 / ($(date +%s%N) - begun)))" "/s"
  say "$5" "$((($(resident_bytes "${pid[$2]}") - before) / new))" "bytes"
}

# New sessions at one of three, which is killed right after an answer: whoever was answered must be known to the others. $1
# whom to ask, $2 the process.
killed_after_answers() {
  "$bench" flood "$1:$http_port" sticky --kill "${pid[$2]}" 20000 --answered answered >rows.flood
  wait "${pid[$2]}" 2>/dev/null || true
  unset "pid[$2]"
}

meridian_new() {
  new_sessions "$(node 1)" m2 holds \
    "Meridian: new sessions over HTTP, held by all three" "Meridian: memory of a node by each of them"
}

meridian_kill() {
  local answered known
  killed_after_answers "$(node 1)" m1
  answered=$(wc -l <answered)
  known=$(python3 -c "print(max($(held 2), $(held 3)))")
  say "Meridian: sessions answered before SIGKILL" "$answered" ""
  say "Meridian: of them lost" "$((answered > known ? answered - known : 0))" ""
}

# Three HAProxies whose stick tables are peers of each other.
start_haproxies() {
  local number
  for number in 1 2 3; do
    cat >"h$number.cfg" <<CONF
global
  nbthread 1
  stats socket $folder/h$number.sock level admin
defaults
  mode http
  timeout connect 5s
  timeout client 75s
  timeout server 60s
peers mesh
  peer h1 $(proxy 1):$peers_port
  peer h2 $(proxy 2):$peers_port
  peer h3 $(proxy 3):$peers_port
listen web
  bind $(proxy "$number"):$http_port
  http-reuse always
  stick-table type string len 32 size 2m expire 8h peers mesh
  stick on req.hdr(x-sid)
  server one $origin
CONF
    run "h$number" haproxy -L "h$number" -db -f "h$number.cfg"
  done
  for number in 1 2 3; do until_true curl -sf "http://$(proxy "$number"):$http_port/"; done
  # Peers connect to each other within seconds.
  sleep 5
}

entries() { python3 "$here/stick_table.py" used "h$1.sock"; }
has_entries() { [ "$(entries "$1")" -ge "$2" ]; }

haproxy_new() {
  new_sessions "$(proxy 1)" h2 has_entries \
    "HAProxy: new entries over HTTP, held by all three" "HAProxy: memory of a peer by each of them"
}

haproxy_kill() {
  killed_after_answers "$(proxy 1)" h1
  sleep 2
  say "HAProxy: entries answered before SIGKILL" "$(wc -l <answered)" ""
  say "HAProxy: of them lost" "$(python3 "$here/stick_table.py" missing answered h2.sock h3.sock)" ""
}
