# The suites: one function each. A suite fails by its exit status; it counts its own tests with `count` if it can tell
# them apart. Sourced by tests/run.

suite unit "unit, property and model tests of every crate"
suite_unit() {
  cargo test --workspace --no-run || return
  cargo_tests --workspace
}

suite lint "clippy without warnings, rustfmt"
suite_lint() {
  cargo fmt --all --check || return
  cargo clippy --workspace --all-targets -- -D warnings
}

suite docs "rustdoc without warnings"
suite_docs() {
  RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
}

# cargo_tests ARGUMENT...: cargo test, counting what it says about its tests.
cargo_tests() {
  local log=$LOGS/cargo-tests status
  cargo test --no-fail-fast "$@" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  count passed "$(awk '/^test result:/ { n += $4 } END { print n + 0 }' "$log")" "$name"
  count failed "$(awk '/^test result:/ { n += $6 } END { print n + 0 }' "$log")" "$name: $(grep -h '^test .* FAILED$' "$log" |
    awk '{ printf "%s ", $2 }')"
  count skipped "$(awk '/^test result:/ { n += $8 } END { print n + 0 }' "$log")" "$name: ignored by its source"
  return "$status"
}
