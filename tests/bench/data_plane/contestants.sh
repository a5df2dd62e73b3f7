# shellcheck shell=bash disable=SC2034,SC2154 # Names that the other files of this benchmark give or use.
# The contestants of the data plane's benchmark: one origin, and Meridian, HAProxy and nginx in front of it, each with one
# worker and with the same features on. Sourced by ../http.sh, in an empty folder that everything is written to.
#
#   load (core 1) ── proxy (core 0) ── origin (core 1, nginx, two addresses)
#
# The same for all: connections kept on both sides, X-Forwarded-For, a cookie that binds a user to a backend (made by the proxy
# on the first answer and only then), least connections, an active health check where the program has one, request counters
# on, access log off, one P-256 certificate, TLS 1.3 resumption by stateless tickets, no body kept on disk.

origin=127.60.0.1
declare -A address=([meridian]=127.60.0.2 [haproxy]=127.60.0.3 [nginx]=127.60.0.4)
declare -A pid=()
proxies=(meridian haproxy nginx)
http_port=8080 https_port=8443 tcp_port=8081 splice_port=8082

# What the origin serves: bodies (/, /16k, /1g, /body), what it was asked (/port, /from, /host), and a place for uploads (/up/).
write_origin() {
  local body_gib=$1 small
  small=$(printf '0123456789abcdef%.0s' 1 2 3 4)
  mkdir www www/up
  # Started by root, nginx's worker is another user.
  chmod 777 www/up
  head -c 16384 /dev/zero | tr '\0' x >www/16k
  truncate -s 1G www/1g
  truncate -s "${body_gib}G" www/body
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=bench.test \
    -addext subjectAltName=DNS:bench.test -keyout key.pem -out cert.pem 2>/dev/null
  cat cert.pem key.pem >both.pem
  cat >origin.conf <<CONF
worker_processes 1; daemon off; pid origin.pid; error_log origin.err;
events { worker_connections 16384; }
http {
  access_log off; keepalive_requests 100000000; keepalive_timeout 3600s; sendfile on; client_max_body_size 0;
  client_body_temp_path $folder/origin-tmp;
  server {
    listen $origin:9001 backlog=4096; listen $origin:9002 backlog=4096; root $folder/www;
    location = / { return 200 "$small"; }
    location = /healthz { return 200 "ok"; }
    location = /port { return 200 "\$server_port"; }
    location = /from { return 200 "\$http_x_forwarded_for"; }
    location = /host { return 200 "\$http_host"; }
    location /up/ { dav_methods PUT; }
  }
}
CONF
}

# A map chooses the backend by cookie, and another sets the cookie where none came: with an `if` around `proxy_pass` it would be
# set on every answer, and always to the same backend.
write_nginx() {
  local stream=/usr/lib/nginx/modules/ngx_stream_module.so load=
  [ -e $stream ] && load="load_module $stream;"
  cat >nginx.conf <<CONF
$load
worker_processes 1; daemon off; pid nginx.pid; error_log nginx.err; worker_rlimit_nofile $(ulimit -n);
events { worker_connections 16384; }
http {
  access_log off; keepalive_requests 100000000; keepalive_timeout 3600s;
  proxy_temp_path $folder/nginx-tmp; client_body_temp_path $folder/nginx-tmp; client_max_body_size 0;
  proxy_request_buffering off; proxy_max_temp_file_size 0;
  map \$cookie_route \$group { default any; one one; two two; }
  map "\$cookie_route|\$upstream_addr" \$route {
    default ""; "|$origin:9001" "route=one; Path=/; HttpOnly"; "|$origin:9002" "route=two; Path=/; HttpOnly"; }
  upstream any { least_conn; server $origin:9001; server $origin:9002; keepalive 512; }
  upstream one { server $origin:9001; server $origin:9002 backup; keepalive 512; }
  upstream two { server $origin:9002; server $origin:9001 backup; keepalive 512; }
  server {
    listen ${address[nginx]}:$http_port backlog=4096; listen ${address[nginx]}:$https_port ssl http2 backlog=4096;
    ssl_certificate $folder/cert.pem; ssl_certificate_key $folder/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
    location / {
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host \$http_host;
      proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
      add_header Set-Cookie \$route; proxy_pass http://\$group; } }
}
stream {
  upstream tcp { least_conn; server $origin:9001; server $origin:9002; }
  server { listen ${address[nginx]}:$tcp_port backlog=4096; proxy_pass tcp; }
}
CONF
}

write_haproxy() {
  cat >haproxy.cfg <<CONF
global
  nbthread 1
  maxconn 12000
  maxpipes 64
  no strict-limits
  tune.pipesize 1048576
defaults
  timeout connect 5s
  timeout client 75s
  timeout server 60s
  balance leastconn
frontend web
  mode http
  bind ${address[haproxy]}:$http_port backlog 4096
  bind ${address[haproxy]}:$https_port backlog 4096 ssl crt $folder/both.pem alpn h2,http/1.1
  default_backend web
backend web
  mode http
  option forwardfor
  option httpchk GET /healthz
  http-reuse always
  cookie SRV insert indirect nocache httponly
  server s1 $origin:9001 cookie s1 check
  server s2 $origin:9002 cookie s2 check
listen tcp
  mode tcp
  bind ${address[haproxy]}:$tcp_port backlog 4096
  server s1 $origin:9001 check
  server s2 $origin:9002 check
listen splice
  mode tcp
  option splice-request
  option splice-response
  bind ${address[haproxy]}:$splice_port backlog 4096
  server s1 $origin:9001 check
  server s2 $origin:9002 check
CONF
}

write_meridian() {
  cat >node.toml <<CONF
[node]
name = "bench"
data = "$folder/data"
[mesh]
listen = "${address[meridian]}:7946"
[proxy]
listen = ["${address[meridian]}"]
workers = 1
[admin]
listen = "${address[meridian]}:7900"
[dns]
listen = []
[log]
level = "warn"
access = "off"
CONF
  cat >services.toml <<CONF
[listener.http]
port = $http_port
protocol = "http"
[listener.https]
port = $https_port
protocol = "https"
certificate = [{ cert = "$folder/cert.pem", key = "$folder/key.pem" }]
[listener.tcp]
port = $tcp_port
protocol = "tcp"
service = "tcp"
[service.web]
split = { web = 1 }
sticky.cookie = { name = "meridian", ttl = "8h" }
[service.tcp]
split = { tcp = 1 }
[pool.web]
balance = "weighted-least-connections"
health.http = { path = "/healthz" }
backend = [{ address = "$origin:9001" }, { address = "$origin:9002" }]
[pool.tcp]
balance = "weighted-least-connections"
health.tcp = { interval = "2s" }
backend = [{ address = "$origin:9001" }, { address = "$origin:9002" }]
CONF
}

write_configurations() { write_origin "$1"; write_nginx; write_haproxy; write_meridian; }

start_origin() {
  nginx -p "$folder" -c origin.conf 2>>origin.err & pid[origin]=$!
  await origin "http://$origin:9001/"
}

# Starts one proxy afresh and returns when it serves on each of its ports.
start() {
  case $1 in
    meridian) taskset -c 0 "$meridian" start -c node.toml --apply services.toml >>meridian.log 2>&1 & ;;
    haproxy) taskset -c 0 haproxy -f haproxy.cfg -db >>haproxy.log 2>&1 & ;;
    nginx) taskset -c 0 nginx -p "$folder" -c nginx.conf 2>>nginx.err & ;;
  esac
  pid[$1]=$!
  await "$1" "http://${address[$1]}:$http_port/"
  await "$1" "https://${address[$1]}:$https_port/"
  await "$1" "http://${address[$1]}:$tcp_port/"
}

stop() {
  local name
  for name in "$@"; do
    [ -n "${pid[$name]:-}" ] || continue
    kill "${pid[$name]}" 2>/dev/null || true
    wait "${pid[$name]}" 2>/dev/null || true
    unset "pid[$name]"
  done
}

restart() { stop "$1"; start "$1"; }

# Waits until NAME answers 200 at URL; ends the benchmark when it has died or takes more than 20 s.
await() {
  local name=$1 url=$2
  for _ in $(seq 200); do
    kill -0 "${pid[$name]}" 2>/dev/null || break
    curl -skf -o /dev/null --max-time 2 "$url" && return
    sleep 0.1
  done
  echo "$name does not serve $url; the end of what it said:" >&2
  tail -n 5 "$folder"/"$name".{log,err} >&2 2>/dev/null
  exit 1
}

# Ends the benchmark when a proxy has died.
alive() { kill -0 "${pid[$1]}" 2>/dev/null || { echo "$1 ended during the measurement" >&2; exit 1; }; }

# The process of a proxy and its children.
processes() { echo "${pid[$1]}"; cat /proc/"${pid[$1]}"/task/*/children 2>/dev/null || true; }

# The CPU time that a proxy has used, in clock ticks, user and system.
ticks() {
  local total=0 process
  for process in $(processes "$1"); do
    total=$((total + $(awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$process/stat")))
  done
  echo $total
}

# memory NAME VmRSS|VmHWM: KiB, over all its processes.
memory() {
  local total=0 process
  for process in $(processes "$1"); do
    total=$((total + $(awk -v field="$2:" '$1 == field { print $2 }' "/proc/$process/status")))
  done
  echo $total
}

# The peak is counted from here on.
forget_peak() { local process; for process in $(processes "$1"); do echo 5 >"/proc/$process/clear_refs"; done; }

# The cookie that binds a user of the proxy to a backend.
cookie() {
  curl -sk -o /dev/null -D - "http://${address[$1]}:$http_port/" | tr -d '\r' |
    awk -F': ' 'tolower($1) == "set-cookie" { split($2, part, ";"); print part[1]; exit }'
}

# Whether a proxy does what all are said to do; ends the benchmark when not.
check_features() {
  local name=$1 base=http://${address[$1]}:$http_port kept seen
  kept=$(cookie "$name")
  [ -n "$kept" ] || { echo "$name sets no cookie" >&2; exit 1; }
  seen=$(for _ in $(seq 40); do curl -s -b "$kept" "$base/port"; echo; done | sort -u | wc -l)
  [ "$seen" = 1 ] || { echo "$name does not keep a user with a cookie on one backend" >&2; exit 1; }
  seen=$(for _ in $(seq 40); do curl -s "$base/port"; echo; done | sort -u | wc -l)
  [ "$seen" = 2 ] || { echo "$name does not spread new users over both backends" >&2; exit 1; }
  ! curl -s -b "$kept" -D - -o /dev/null "$base/" | grep -qi '^set-cookie' || { echo "$name sets the cookie again on each answer" >&2; exit 1; }
  seen=$(curl -s --interface 127.60.1.9 "$base/from")
  [ "$seen" = 127.60.1.9 ] || { echo "$name sends the backend \"$seen\" as X-Forwarded-For, not the user's address" >&2; exit 1; }
  seen=$(curl -s -H "Host: bench.test" "$base/host")
  [ "$seen" = bench.test ] || { echo "$name sends the backend \"$seen\" as Host, not the one asked for" >&2; exit 1; }
  # The load prefers this suite and this curve: a proxy with another would do other work.
  seen=$(openssl s_client -connect "${address[$name]}:$https_port" -servername bench.test -alpn h2 </dev/null 2>/dev/null |
    sed -n 's/^New, \(.*\), Cipher is /\1 /p; s/^Server Temp Key: \([^,]*\),.*/\1/p; s/^ALPN protocol: //p' | tr '\n' ' ')
  [ "$seen" = "X25519 TLSv1.3 TLS_AES_256_GCM_SHA384 h2 " ] || { echo "$name speaks TLS otherwise than the others: $seen" >&2; exit 1; }
}
