# A mesh of three nodes of one region on loopback, for benchmarks of real processes. Sourced after common.sh, in an empty folder that
# everything is written to; needs `meridian`, the binary, `folder`, that folder, and `net`, the first two numbers of the addresses.
# shellcheck shell=bash disable=SC2154

http_port=8080 mesh_port=7946 admin_port=7900
# What runs in the background, by name.
declare -A pid=()

# Where node NUMBER, from 1, listens.
node() { echo "$net.1.$1"; }

# Runs in the background under a name.
run() {
  local name=$1; shift
  "$@" >"$name.log" 2>&1 9>&- &
  pid[$name]=$!
}

# Ends what runs under these names, by SIGNAL where that stands first, as in -KILL.
stop() {
  local name signal=-TERM
  case ${1:-} in -*) signal=$1; shift ;; esac
  for name in "$@"; do
    [ -n "${pid[$name]:-}" ] || continue
    kill "$signal" "${pid[$name]}" 2>/dev/null || true
    wait "${pid[$name]}" 2>/dev/null || true
    unset "pid[$name]"
  done
}

# Waits at most a minute until a command succeeds.
until_true() {
  local tries
  for tries in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  echo "after a minute still not: $*" >&2
  return 1
}

# Starts the three as m1, m2 and m3 with the services on standard input.
start_nodes() {
  local number flags
  cat >services.toml
  for number in 1 2 3; do
    mkdir -p "mesh/$number"
    cat >"mesh/$number.toml" <<CONF
[node]
name = "eu-$number"
region = "eu"
data = "$folder/mesh/$number"
[mesh]
listen = "$(node "$number"):$mesh_port"
seeds = [$([ "$number" = 1 ] || echo "\"$(node 1):$mesh_port\"")]
key_file = "$folder/mesh/key"
[proxy]
listen = ["$(node "$number")"]
[dns]
listen = []
[admin]
listen = "$(node "$number"):$admin_port"
[log]
access = "off"
CONF
    flags=()
    if [ "$number" = 1 ]; then
      "$meridian" key new mesh/key >/dev/null 2>&1
      flags=(--apply services.toml)
    fi
    run "m$number" "$meridian" start -c "mesh/$number.toml" "${flags[@]}"
    until_true curl -sf "http://$(node "$number"):$admin_port/livez"
  done
}

stop_nodes() {
  stop -KILL m1 m2 m3
  rm -rf mesh
}
