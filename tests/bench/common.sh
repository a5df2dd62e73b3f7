# What all benchmarks begin with: their options' checks, the programs they need, one at a time, and the binary that is measured.
# Sourced from the root of the repository, with `from` the folder in which the user stands. shellcheck shell=bash

# The comment at the head of FILE, which is its help.
usage_of() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$1"; }

# Ends with a message when an option's VALUE is no whole number above 0.
whole_number() { [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || { echo "$1 takes a whole number above 0" >&2; exit 2; }; }

# A file that the user named from where they stand, as an absolute path.
named_file() { (cd "$from" && realpath -- "$1"); }

# Ends with PACKAGES when one of the programs is missing.
need() {
  local packages=$1 program
  shift
  for program in "$@"; do
    command -v "$program" >/dev/null || { echo "needs $program: apt-get install $packages" >&2; exit 1; }
  done
}

# Ends when another benchmark runs.
alone() {
  exec 9>"${TMPDIR:-/tmp}/meridian-bench.lock"
  flock -n 9 || { echo "another benchmark runs on this machine; two at once measure each other" >&2; exit 1; }
}

# Prints the path of program NAME of PACKAGE: FILE when that is given, else what a release build makes.
binary() {
  local name=$1 package=$2 file=${3:-}
  if [ -z "$file" ]; then
    cargo build --release --locked --quiet -p "$package" >&2
    echo "$PWD/target/release/$name"
    return
  fi
  file=$(named_file "$file")
  [ -x "$file" ] || { echo "$file is no program" >&2; exit 1; }
  echo "$file"
}

# Ends with a message when NAME is none of the cases, which are the other arguments.
known_case() {
  local name=$1
  shift
  printf '%s\n' "$@" | grep -xF -- "$name" >/dev/null || { echo "no case \"$name\"; see --list" >&2; exit 2; }
}

# Measures each of `cases` with `begin NAME`, whose output are figures, in an empty folder; keeps them in the file `out` as well, and
# prints the table that `here`/table.py makes of them. Then `outcome` is what to exit with: 0 unless a limit is exceeded or a case left a
# file `broken`. `busy` is the machine's load of before.
tabulate() {
  local name
  busy=$(cut -d' ' -f1-3 /proc/loadavg)
  for name in "${cases[@]}"; do
    echo "$name" >&2
    # Not in a condition: what fails in it ends the benchmark.
    begin "$name" >rows
    tee -a "$out" <rows >>figures
  done
  outcome=0
  python3 "$here/table.py" figures || outcome=1
  [ ! -e broken ] || outcome=1
  echo
}
