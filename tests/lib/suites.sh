# The suites: one function each. A suite fails by its exit status; it counts its own tests with `count` if it can tell
# them apart. Sourced by tests/run.
#
# They build with the same words (`--workspace`), so that one set of features is compiled once for all of them.

suite unit "unit, property and model tests of every crate"
suite_unit() {
  # The simulation has a suite of its own; here a few of its seeds are enough.
  SEEDS=25 cargo_tests --workspace
}

suite lint "clippy without warnings, rustfmt"
suite_lint() {
  cargo fmt --all --check || return
  cargo clippy --workspace --all-targets -- -D warnings
}

suite docs "rustdoc without warnings, links in documents"
suite_docs() {
  RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps || return
  cargo_tests --workspace --test texts
}

suite licences "every dependency has a licence that deny.toml allows"
suite_licences() {
  cargo_tests --workspace --test licences || return
  if command -v cargo-deny >/dev/null; then
    cargo deny --offline check licenses bans sources
  fi
}

suite reasons "the operator's table of reasons against the code"
suite_reasons() {
  cargo_tests --workspace --test reasons
}

suite simulate "1,000 seeds of a simulated world, streams compared byte for byte"
suite_simulate() {
  echo "SEED=N tests/run simulate repeats one seed and tells its story"
  SEEDS=${SEEDS:-1000} cargo_tests --workspace --test simulation -- --nocapture
}

suite lab "hedgerow lab: good sessions succeed, floods are refused, strangers hold no memory"
suite_lab() {
  need python3:python3
  local answer=$LOGS/lab.json
  build || return
  "$(target)/debug/hedgerow" lab --seconds 3 --seed 7 --json >"$answer" || return
  tail -n 1 "$answer"
  tail -n 1 "$answer" | python3 tests/lib/lab_answer.py
}

suite bpf "the BPF programs compile to the objects that the port crate embeds, and answer millions of SYNs as the core does"
suite_bpf() {
  TUPLES=${TUPLES:-2000000} cargo_tests -p hedgerow-port --lib af_xdp || return
  need clang:clang
  local built
  case $(clang --version) in
    "Debian clang version 14."*) ;;
    *) skip "the objects are those of Debian clang 14, and here is $(clang --version | head -n 1)" ;;
  esac
  built=$(mktemp -d)
  dataplane/port/bpf/build "$built" && cmp "$built/xdp.o" dataplane/port/bpf/xdp.o &&
    cmp "$built/lanes.o" dataplane/port/bpf/lanes.o
  local status=$?
  rm -r "$built"
  [ "$status" = 0 ] || echo "dataplane/port/bpf/build writes the embedded objects anew"
  return "$status"
}

suite kernel-peer "the Linux kernel as opponent over veth (AF_PACKET, AF_XDP, ordinary sockets) and TAP: bulk, loss, resets, stalls, tiny segments"
suite_kernel_peer() {
  need nft:nftables dnsmasq:dnsmasq-base
  system kernel-peer
}

suite schema "the checked-in schema of messages against the installed chia-blockchain"
suite_schema() {
  need_nodes
  "$PYTHON" policy/schema/generate.py --check
}

suite bodies "ten million bodies, valid and changed, judged as the node's own types judge them" long
suite_bodies() {
  CASES=${CASES:-10000000} SEED=${SEED:-$RANDOM} cargo_tests -p hedgerow-tests --test bodies -- --nocapture
}

suite node-bodies "bodies of every type and a peer's haste, judged by us and by the node's own Python"
suite_node_bodies() {
  need_nodes
  system node-bodies
}

suite tls "foreign clients: odd TLS handshakes, certificates of all kinds, raw HTTP and WebSocket; OpenSSL, Python, Node.js, rustls"
suite_tls() {
  need openssl:openssl
  need_foreign
  system tls
}

suite node-sync "a real full node syncs through the appliance from a real node behind it; everybody else is refused"
suite_node_sync() {
  need nft:nftables
  need_nodes
  system node-sync
}

suite node-attack "the same under floods, transparent and IPv6; a bare node for comparison"
suite_node_attack() {
  need nft:nftables
  need_nodes
  system node-attack
}

suite architectures "the examples as they boot, with real nodes: drained, killed and attacked while peers and application stay served"
suite_architectures() {
  need nft:nftables
  need_nodes
  system architectures
}

suite hour "an hour of real nodes and a wallet, a slow line and a storm of peaks: no session is closed by policy; MINUTES=N is shorter" long
suite_hour() {
  need nft:nftables
  need_nodes
  system hour
}

suite port-asan "the port crate's tests under AddressSanitizer"
suite_port_asan() {
  cargo +nightly --version >/dev/null 2>&1 || skip "needs a nightly toolchain (rustup toolchain install nightly)"
  CARGO_TARGET_DIR=$(target)/asan
  export CARGO_TARGET_DIR RUSTUP_TOOLCHAIN=nightly RUSTFLAGS=-Zsanitizer=address
  cargo_tests -p hedgerow-port --lib --tests --target "$(host)"
}

suite port-valgrind "the port crate's tests under valgrind"
suite_port_valgrind() {
  need valgrind:valgrind
  local runner
  runner=CARGO_TARGET_$(host | tr 'a-z-' 'A-Z_')_RUNNER
  # Tests of kernel ports run themselves again in a namespace, hence the children. The test that counts allocations
  # is left out: valgrind slows the harness into its counts.
  export "$runner=valgrind --quiet --trace-children=yes --trace-children-skip=*/ip,*/ethtool --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite"
  cargo_tests -p hedgerow-port --lib --test kernel --test xdp
}

suite image "the static program boots in QEMU and prints its version"
suite_image() {
  need qemu-system-x86_64:qemu-system-x86 cpio:cpio
  images/build || return
  images/boot-test
}

suite virtio "the image serves on virtio devices with AF_XDP, with kernels as peers"
suite_virtio() {
  need qemu-system-x86_64:qemu-system-x86 cpio:cpio
  images/build || return
  HEDGEROW_TEST_IMAGE=$(target)/image system kernel-peer virtio
}
