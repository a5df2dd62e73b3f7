#!/bin/sh
# Builds the image `meridian` from this repository: deploy/image.sh [TAG]
#
# Nothing is pulled, and nothing but Rust and a C compiler is needed. The program is linked statically (glibc's own resolver
# included), so the image is that one file and a folder for its data; it holds no certificates, since nothing in it needs the public
# authorities: the mesh, Kubernetes and backends with TLS each name their own. MERIDIAN_BINARY names a program that is already
# built, which is taken as it is; when it is linked dynamically its libraries go along (the tests do that with a debug build).
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
tag=${1:-meridian}
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT

binary=${MERIDIAN_BINARY:-}
if [ -z "$binary" ]; then
  target=$(rustc -vV | sed -n 's/^host: //p')
  RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --manifest-path "$top/Cargo.toml" --release --locked -p node --target "$target"
  binary="$top/target/$target/release/meridian"
  if readelf -d "$binary" | grep -q NEEDED; then
    echo "$binary is not linked statically: is libc6-dev installed?" >&2
    exit 1
  fi
fi

mkdir -p "$context/root/bin" "$context/root/var/lib/meridian" "$context/root/tmp" "$context/root/etc"
cp "$binary" "$context/root/bin/meridian"
# What else belongs into the image, for tests: programs as words.
for program in ${MERIDIAN_MORE:-}; do
  cp "$program" "$context/root/bin/"
done
for program in "$context"/root/bin/*; do
  # A static program has no libraries to list.
  ldd "$program" 2>/dev/null | sed -n 's|.*[ \t]\(/[^ ]*\) (0x.*|\1|p' | while read -r library; do
    mkdir -p "$context/root$(dirname "$library")"
    cp -L "$library" "$context/root$library"
  done
done
# glibc asks these before it resolves a name.
printf 'hosts: files dns\n' > "$context/root/etc/nsswitch.conf"
cp "$top/deploy/Dockerfile" "$context/Dockerfile"
docker build -q -t "$tag" "$context"
# It starts.
docker run --rm --network none "$tag" --version
