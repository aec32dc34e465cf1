#!/usr/bin/env bash
# Three nodes of one cluster on this machine, and an S3 server from PyPI for their old bytes. A node is killed while a tail goes on.
# Usage: run.sh   Needs python3 with venv, curl, and `cargo build --release`. WEIR names another binary, MOTO the S3 server's folder.
set -euo pipefail

cd "$(dirname "$0")/../.."
. examples/s3/moto.sh
WEIR=${WEIR:-${CARGO_TARGET_DIR:-target}/release/weir}
HOME_DIR=$(mktemp -d)
PORT=${PORT:-4950}
S3=http://127.0.0.1:$PORT
TAIL_PID=
PIDS=()

clean_up() {
    local pid
    for pid in $TAIL_PID "${PIDS[@]}" $MOTO_PID; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$HOME_DIR"
}
trap clean_up EXIT

fail() {
    printf 'cluster: %s\n' "$1" >&2
    tail -n 8 "$HOME_DIR"/*.log >&2
    exit 1
}

# Node n listens on three ports: for clients, operators and the other nodes.
url() { printf 'http://127.0.0.1:%d' $((PORT + 10 * $1)); }
admin() { printf 'http://127.0.0.1:%d' $((PORT + 10 * $1 + 1)); }
peer() { printf '127.0.0.1:%d' $((PORT + 10 * $1 + 2)); }

is_ready() { [[ $(curl -s -o /dev/null -w '%{http_code}' "$(admin "$1")/readyz") == 200 ]]; }
# append NODE TEXT: as a producer, so that it can be sent again whatever has happened to the first time.
append() {
    curl -s --fail-with-body --max-time 20 -o /dev/null "$(url "$1")/demo/log" -H 'Content-Type: text/plain' \
        -H 'Producer-Id: example' -H 'Producer-Epoch: 0' -H "Producer-Seq: $NUMBER" -d "$2"$'\n'
}
has_line() { grep -q "^data: *$1\$" "$HOME_DIR/tail"; }

export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret WEIR_CLUSTER_SECRET="what only these nodes know"
# In place of cold.flush_age_ms = 600_000, so that there is something to see.
export WEIR_COLD_URL=s3://weir/example WEIR_COLD_ENDPOINT=$S3 WEIR_COLD_ALLOW_HTTP=true WEIR_COLD_FLUSH_AGE_MS=1000

start_node() {
    local node=$1 others=() other
    for other in 1 2 3; do ((other == node)) || others+=(--peer "$other=$(peer "$other")"); done
    "$WEIR" serve --node-id "$node" --cluster-id example --cluster-listen "$(peer "$node")" "${others[@]}" \
        --listen "$(url "$node" | cut -c8-)" --admin-listen "$(admin "$node" | cut -c8-)" \
        --data-dir "$HOME_DIR/node-$node" >>"$HOME_DIR/$node.log" 2>&1 &
    PIDS[node]=$!
}

[[ -x $WEIR ]] || fail "there is no $WEIR; make it with: cargo build --release"
start_s3 "$S3"

say 'Three nodes'
for node in 1 2 3; do start_node $node; done
for node in 1 2 3; do until_so "node $node is ready" is_ready $node; done
"$WEIR" cluster status --admin "$(admin 1)"

say 'A tail through node 1, of a stream that is written through node 2'
curl -sS -o /dev/null -X PUT "$(url 2)/demo/log" -H 'Content-Type: text/plain'
curl -sN "$(url 1)/demo/log?offset=-1&live=sse" >"$HOME_DIR/tail" &
TAIL_PID=$!
for NUMBER in 0 1 2; do until_so 'a line is written' append 2 "line $NUMBER"; done
until_so 'the tail has them' has_line 'line 2'

say 'Node 3 is killed; the others go on'
kill -9 "${PIDS[3]}"
wait "${PIDS[3]}" 2>/dev/null || true
for NUMBER in 3 4 5; do until_so 'a line is written' append 2 "line $NUMBER"; done
until_so 'the tail has them' has_line 'line 5'
"$WEIR" cluster status --admin "$(admin 1)" || true

say 'It comes back and catches up; another one is killed'
start_node 3
until_so 'node 3 is ready' is_ready 3
kill -9 "${PIDS[2]}"
wait "${PIDS[2]}" 2>/dev/null || true
for NUMBER in 6 7 8; do until_so 'a line is written' append 3 "line $NUMBER"; done
until_so 'the tail has them' has_line 'line 8'
grep '^data: *line' "$HOME_DIR/tail"
[[ $(grep -c '^data: *line' "$HOME_DIR/tail") == 9 ]] || fail 'a line is missing, or there twice'

printf '\ncluster: nobody who reads has noticed\n'
