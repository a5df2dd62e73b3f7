# shellcheck shell=bash disable=SC2154 # Names that discovery.sh gives.
# The cases of discovery's benchmark. Sourced by ../discovery.sh, in an empty folder that everything is written to. Each prints its
# figures: name, figure, unit, separated by tabs.

begin() {
  case $1 in
    file) cost "by a file" file "discover.file = { path = \"$folder/list.json\" }" ;;
    lease) cost "by leases" lease 'lease = { ttl = "60s" }' ;;
    checked)
      cost "by a file, each checked every 10 s" file \
        "health.tcp = { interval = \"10s\" }"$'\n'"discover.file = { path = \"$folder/list.json\" }" --listen ;;
    first) world first "health.http = { path = \"/healthz\" }"$'\n'"discover.file = { path = \"$folder/list.json\" }" --rounds "$rounds" ;;
    clean)
      world clean "health.http = { path = \"/healthz\" }"$'\n'"discover.file = { path = \"$folder/list.json\" }" \
        --backends 200 --changes "$changes" --seconds "$seconds" ;;
  esac
}

# $1 what the figures are called, $2 how backends are named, $3 the pool; more for world.py.
cost() { world "$2" "$3" --title "$1" --backends "$backends" --changes "$changes" --seconds "$seconds" "${@:4}"; }

# A mesh of three nodes with the pool $2, in which world.py plays $1.
world() {
  local play=$1 pool=$2
  shift 2
  echo '[]' >list.json
  start_nodes <<CONF
[listener.http]
port = $http_port
protocol = "http"
[service.web]
split = { web = 1 }
[pool.web]
drain = "2s"
$pool
CONF
  python3 "$here/world.py" "$play" --list "$folder/list.json" --nodes "$(node 1),$(node 2),$(node 3)" --http "$http_port" \
    --admin "$admin_port" --pids "${pid[m1]},${pid[m2]},${pid[m3]}" "$@"
  stop_nodes
}
