#!/usr/bin/env bash
# A node whose old bytes are in an S3 bucket, all on this machine: an S3 server from PyPI, and Weir.
# Usage: run.sh   Needs python3 with venv, curl, and `cargo build --release`. WEIR names another binary, MOTO the S3 server's folder.
set -euo pipefail

cd "$(dirname "$0")/../.."
. examples/s3/moto.sh
WEIR=${WEIR:-${CARGO_TARGET_DIR:-target}/release/weir}
HOME_DIR=$(mktemp -d)
S3=http://127.0.0.1:${S3_PORT:-4941}
URL=http://127.0.0.1:${PORT:-4942}
ADMIN=http://127.0.0.1:${ADMIN_PORT:-4943}
WEIR_PID=

clean_up() {
    local pid
    for pid in $WEIR_PID $MOTO_PID; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$HOME_DIR"
}
trap clean_up EXIT

fail() {
    printf 's3: %s\n' "$1" >&2
    [[ ! -s $HOME_DIR/log ]] || tail -n 20 "$HOME_DIR/log" >&2
    exit 1
}

is_ready() { [[ $(curl -s -o /dev/null -w '%{http_code}' "$ADMIN/readyz") == 200 ]]; }
metric() { curl -sS "$ADMIN/metrics" | awk -v name="$1" '$1 ~ "^" name "({|$)" { sum += $2 } END { printf "%d", sum }'; }
is_cold() { (($(metric weir_hot_bytes) == 0 && $(metric weir_cold_bytes) > 0)); }
# No snapshot of the state has been stored for a while: the newest one there has everything.
is_stored() {
    local before
    before=$(metric weir_cold_snapshots_total)
    sleep 3
    ((before > 0 && before == $(metric weir_cold_snapshots_total)))
}

# The credentials are for the S3 server only; its own check none.
export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret
# In place of cold.flush_age_ms = 600_000, so that there is something to see.
export WEIR_COLD_URL=s3://weir/example WEIR_COLD_ENDPOINT=$S3 WEIR_COLD_ALLOW_HTTP=true WEIR_COLD_FLUSH_AGE_MS=1000

start_weir() {
    "$WEIR" serve --listen "${URL#http://}" --admin-listen "${ADMIN#http://}" --data-dir "$1" >>"$HOME_DIR/log" 2>&1 &
    WEIR_PID=$!
    until_so 'the server is ready' is_ready
}

[[ -x $WEIR ]] || fail "there is no $WEIR; make it with: cargo build --release"
start_s3 "$S3"

say "A node at $URL"
start_weir "$HOME_DIR/first"
curl -sS -o /dev/null -X PUT "$URL/demo/log" -H 'Content-Type: text/plain'
for number in $(seq 100); do
    curl -sS -o /dev/null "$URL/demo/log" -H 'Content-Type: text/plain' -d "line $number"$'\n'
done
curl -sS "$URL/demo/log" >"$HOME_DIR/written"

say 'Its bytes go to the bucket'
until_so 'all bytes are in the bucket' is_cold
until_so 'and a snapshot of the state' is_stored
curl -sS "$S3/weir?list-type=2" | grep -o '<Key>[^<]*</Key>'

say 'Every chunk there is what was written'
"$WEIR" cold check --admin "$ADMIN"

say 'The node is lost, with its disk'
kill -9 "$WEIR_PID"
wait "$WEIR_PID" 2>/dev/null || true
rm -rf "$HOME_DIR/first"

say 'A new one out of the bucket'
"$WEIR" recover --from "$WEIR_COLD_URL" --data-dir "$HOME_DIR/second" --take-over
start_weir "$HOME_DIR/second"
curl -sS "$URL/demo/log" >"$HOME_DIR/recovered"
cmp "$HOME_DIR/written" "$HOME_DIR/recovered" || fail 'the stream is not what was written'
tail -n 1 "$HOME_DIR/recovered"

printf '\ns3: the stream is there again, all of it\n'
