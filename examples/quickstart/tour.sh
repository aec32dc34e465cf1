#!/usr/bin/env bash
# The README's tour: runs its commands against a server and checks every answer.
# Usage: tour.sh [BASE_URL]   (default http://127.0.0.1:4437)
set -euo pipefail

WEIR=${1:-http://127.0.0.1:4437}
WEIR=${WEIR%/}
cd "$(dirname "$0")/../.."
WASM=${CARGO_TARGET_DIR:-target}/guests/wasm32-unknown-unknown/release/stats.wasm
ANSWER=$(mktemp)
LIVE=$(mktemp)
LIVE_PID=
SUMMARY=$(mktemp)
SUMMARY_PID=

# What the README leaves to the reader's patience: no progress meter, and an end to waiting.
curl() { command curl -sS --max-time 30 "$@"; }

clean_up() {
    local pid
    for pid in $LIVE_PID $SUMMARY_PID; do kill "$pid" 2>/dev/null || true; done
    rm -f "$ANSWER" "$LIVE" "$SUMMARY"
}
trap clean_up EXIT

fail() {
    printf 'tour: %s\n' "$1" >&2
    exit 1
}

# step WHAT PATTERN...  < COMMAND: runs the command in this shell, whose variables it may set; every pattern must match a line of its answer.
step() {
    local what=$1 command answer pattern
    shift
    command=$(cat)
    printf '\n# %s\n$ %s\n' "$what" "$command"
    eval "$command" >"$ANSWER" || fail "$what: the command failed"
    answer=$(tr -d '\r' <"$ANSWER")
    printf '%s\n' "$answer"
    for pattern in "$@"; do
        grep -Eiq -- "$pattern" <<<"$answer" || fail "$what: the answer has no line that matches: $pattern"
    done
}

# follow WHAT FILE  < COMMAND: runs the command in the background, its answer goes to the file.
follow() {
    local command
    command=$(cat)
    printf '\n# %s\n$ %s &\n' "$1" "$command"
    (eval "exec $command") >"$2" &
}

# live_has FILE PATTERN: waits until the live tail in that file has shown a line that matches.
live_has() {
    local deadline=$((SECONDS + 10))
    until grep -Eq -- "$2" "$1"; do
        ((SECONDS < deadline)) || fail "a live tail has not shown: $2; it has shown: $(cat "$1")"
        sleep 0.05
    done
}

# ended PID FILE: waits until the live tail in that file has ended cleanly, and shows it.
ended() {
    wait "$1" || fail "a live tail did not end cleanly; it has shown: $(cat "$2")"
    printf '\n# What the live tail has shown\n'
    cat "$2"
}

[[ -e $WASM ]] || fail "there is no $WASM; make it with: cargo build --release"
# Also removes what an earlier tour, stopped half-way, has left: with its bucket go its bindings and modules.
curl -o /dev/null -X DELETE "$WEIR/tour/orders" || fail "no server answers at $WEIR; start one with: cargo run --release -- serve"
curl -o /dev/null -X DELETE "$WEIR/tour/draft"
curl -o /dev/null -X DELETE "$WEIR/tour/wakes"
curl -o /dev/null -X DELETE "$WEIR/tour"

step 'Create a bucket' '^HTTP/1.1 20[01] ' <<'COMMAND'
curl -i -X PUT "$WEIR/tour"
COMMAND

step 'Create a stream of JSON messages in it' '^HTTP/1.1 201 ' '^stream-next-offset: ' <<'COMMAND'
curl -i -X PUT "$WEIR/tour/orders" -H 'Content-Type: application/json'
COMMAND

step 'Append one message' '^HTTP/1.1 204 ' '^stream-next-offset: ' <<'COMMAND'
curl -i "$WEIR/tour/orders" -H 'Content-Type: application/json' -d '{"id":1}'
COMMAND

step 'Append two at once' '^HTTP/1.1 204 ' <<'COMMAND'
curl -i "$WEIR/tour/orders" -H 'Content-Type: application/json' -d '[{"id":2},{"id":3}]'
COMMAND

step 'Read them all' '^HTTP/1.1 200 ' '^content-type: application/json' '^stream-up-to-date: true' \
    '^\[\{"id":1\},\{"id":2\},\{"id":3\}\]$' <<'COMMAND'
curl -i "$WEIR/tour/orders?offset=-1"
COMMAND

follow 'Tail it from the beginning' "$LIVE" <<'COMMAND'
curl -sN "$WEIR/tour/orders?offset=-1&live=sse"
COMMAND
LIVE_PID=$!
live_has "$LIVE" '"id":3'

step 'Ask for the tail' <<'COMMAND'
TAIL=$(curl -sI "$WEIR/tour/orders" | tr -d '\r' | awk 'tolower($1) == "stream-next-offset:" { print $2 }')
COMMAND
[[ -n $TAIL ]] || fail 'HEAD gave no Stream-Next-Offset'

step 'Append if nobody else has since' '^HTTP/1.1 204 ' <<'COMMAND'
curl -i "$WEIR/tour/orders" -H 'Content-Type: application/json' -H "If-Match: \"$TAIL\"" -d '{"id":4}'
COMMAND

step 'The same tail again is refused: it has moved' '^HTTP/1.1 412 ' '^stream-next-offset: ' <<'COMMAND'
curl -i "$WEIR/tour/orders" -H 'Content-Type: application/json' -H "If-Match: \"$TAIL\"" -d '{"id":5}'
COMMAND

live_has "$LIVE" '"id":4'

step 'Wait for what comes after that' '^HTTP/1.1 200 ' '^\[\{"id":4\}\]$' <<'COMMAND'
curl -i "$WEIR/tour/orders?offset=$TAIL&live=long-poll"
COMMAND

step 'List the streams' '^HTTP/1.1 200 ' '"name":"orders"' <<'COMMAND'
curl -i "$WEIR/tour/-/streams?prefix=ord"
COMMAND

step 'Create a stream that ends by itself' '^HTTP/1.1 201 ' '^stream-ttl: 60' <<'COMMAND'
curl -i -X PUT "$WEIR/tour/draft" -H 'Content-Type: text/plain' -H 'Stream-TTL: 60'
COMMAND

for status in 200 204; do
    step 'Send a numbered request, and again' "^HTTP/1.1 $status " '^producer-seq: 0' <<'COMMAND'
curl -i "$WEIR/tour/draft" -H 'Content-Type: text/plain' -H 'Producer-Id: me' -H 'Producer-Epoch: 0' -H 'Producer-Seq: 0' -d 'once'
COMMAND
done
[[ $(curl "$WEIR/tour/draft") == once ]] || fail 'a request that was sent twice is applied once'

step 'Create a stream for wakes' '^HTTP/1.1 201 ' <<'COMMAND'
curl -i -X PUT "$WEIR/tour/wakes" -H 'Content-Type: application/json'
COMMAND

step 'Have somebody woken when a stream has something new' '^HTTP/1.1 201 ' '"status":"active"' <<'COMMAND'
curl -i -X PUT "$WEIR/tour/__ds/subscriptions/mailer" -d '{"type":"pull-wake","pattern":"dr*","wake_stream":"wakes"}'
COMMAND

step 'Append something new' '^HTTP/1.1 204 ' <<'COMMAND'
curl -i "$WEIR/tour/draft" -H 'Content-Type: text/plain' -d 'more'
COMMAND

step 'Wait for the wake' '^HTTP/1.1 200 ' '"subscription_id":"mailer"' '"stream":"draft"' <<'COMMAND'
curl -i "$WEIR/tour/wakes?offset=-1&live=long-poll"
COMMAND

step 'Claim what is to be done' '^HTTP/1.1 200 ' '"path":"draft"' '"has_pending":true' <<'COMMAND'
curl -i "$WEIR/tour/__ds/subscriptions/mailer/claim" -d '{"worker":"me"}'
COMMAND

step 'Bind a validator' '^HTTP/1.1 201 ' <<'COMMAND'
curl -i -X PUT "$WEIR/tour/-/bindings/checked" -d '{"streams":"orders/**","module":"builtin:json-schema","role":"validator","config":{"required":["id"]}}'
COMMAND

step 'What the schema does not allow is refused' '^HTTP/1.1 422 ' '"code":"record_rejected"' '"binding":"checked","index":1' <<'COMMAND'
curl -i "$WEIR/tour/orders" -H 'Content-Type: application/json' -d '[{"id":5},{"name":"tea"}]'
COMMAND

step 'Upload a module' '^HTTP/1.1 201 ' '"status":"ready"' <<'COMMAND'
curl -i -T "$WASM" "$WEIR/tour/-/modules/stats"
COMMAND

step 'Bind it as a summary' '^HTTP/1.1 201 ' <<'COMMAND'
curl -i -X PUT "$WEIR/tour/-/bindings/totals" -d '{"streams":"orders/**","module":"stats","role":"summary"}'
COMMAND

step 'Ask what the stream comes to' '^HTTP/1.1 200 ' '^stream-next-offset: ' '"count":4.*"id":\{"count":4,"min":1.0,"max":4.0,' <<'COMMAND'
curl -i "$WEIR/tour/orders?summary=totals"
COMMAND

follow 'Follow the summary' "$SUMMARY" <<'COMMAND'
curl -sN "$WEIR/tour/orders?summary=totals&live=sse"
COMMAND
SUMMARY_PID=$!
live_has "$SUMMARY" '"count":4'

step 'Append once more' '^HTTP/1.1 204 ' <<'COMMAND'
curl -i "$WEIR/tour/orders" -H 'Content-Type: application/json' -d '{"id":6}'
COMMAND

live_has "$SUMMARY" '"count":5.*"max":6.0'

step 'Close it' '^HTTP/1.1 204 ' '^stream-closed: true' <<'COMMAND'
curl -i -X POST "$WEIR/tour/orders" -H 'Stream-Closed: true'
COMMAND

step 'A closed stream takes no more' '^HTTP/1.1 409 ' '^stream-closed: true' <<'COMMAND'
curl -i "$WEIR/tour/orders" -H 'Content-Type: application/json' -d '{"id":7}'
COMMAND

ended "$LIVE_PID" "$LIVE"
LIVE_PID=
live_has "$LIVE" '"streamClosed":true'
if grep -q '"id":5' "$LIVE"; then fail 'the live tail has shown a refused append'; fi

ended "$SUMMARY_PID" "$SUMMARY"
SUMMARY_PID=
live_has "$SUMMARY" '"streamClosed":true'

step 'Remove the validator' '^HTTP/1.1 204 ' <<'COMMAND'
curl -i -X DELETE "$WEIR/tour/-/bindings/checked"
COMMAND

step 'Remove the summary' '^HTTP/1.1 204 ' <<'COMMAND'
curl -i -X DELETE "$WEIR/tour/-/bindings/totals"
COMMAND

step 'Remove the module' '^HTTP/1.1 204 ' <<'COMMAND'
curl -i -X DELETE "$WEIR/tour/-/modules/stats"
COMMAND

step 'Remove the stream' '^HTTP/1.1 204 ' <<'COMMAND'
curl -i -X DELETE "$WEIR/tour/orders"
COMMAND

step 'Remove the other stream' '^HTTP/1.1 204 ' <<'COMMAND'
curl -i -X DELETE "$WEIR/tour/draft"
COMMAND

step 'Remove the stream of wakes' '^HTTP/1.1 204 ' <<'COMMAND'
curl -i -X DELETE "$WEIR/tour/wakes"
COMMAND

step 'Remove the bucket' '^HTTP/1.1 204 ' <<'COMMAND'
curl -i -X DELETE "$WEIR/tour"
COMMAND

printf '\ntour: every answer is as promised\n'
