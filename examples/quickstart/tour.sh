#!/usr/bin/env bash
# The README's tour: runs its commands against a server and checks every answer.
# Usage: tour.sh [BASE_URL]   (default http://127.0.0.1:4437)
set -euo pipefail

WEIR=${1:-http://127.0.0.1:4437}
WEIR=${WEIR%/}
ANSWER=$(mktemp)
LIVE=$(mktemp)
LIVE_PID=

# What the README leaves to the reader's patience: no progress meter, and an end to waiting.
curl() { command curl -sS --max-time 30 "$@"; }

clean_up() {
    if [[ -n $LIVE_PID ]]; then kill "$LIVE_PID" 2>/dev/null || true; fi
    rm -f "$ANSWER" "$LIVE"
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

# live_has PATTERN: waits until the live tail has shown a line that matches.
live_has() {
    local deadline=$((SECONDS + 10))
    until grep -Eq -- "$1" "$LIVE"; do
        ((SECONDS < deadline)) || fail "the live tail has not shown: $1; it has shown: $(cat "$LIVE")"
        sleep 0.05
    done
}

# Also removes what an earlier tour, stopped half-way, has left.
curl -o /dev/null -X DELETE "$WEIR/tour/orders" || fail "no server answers at $WEIR; start one with: cargo run --release -- serve"

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

LIVE_COMMAND='curl -sN "$WEIR/tour/orders?offset=-1&live=sse"'
printf '\n# Tail it from the beginning\n$ %s &\n' "$LIVE_COMMAND"
(eval "exec $LIVE_COMMAND") >"$LIVE" &
LIVE_PID=$!
live_has '"id":3'

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

live_has '"id":4'

step 'Close it' '^HTTP/1.1 204 ' '^stream-closed: true' <<'COMMAND'
curl -i -X POST "$WEIR/tour/orders" -H 'Stream-Closed: true'
COMMAND

step 'A closed stream takes no more' '^HTTP/1.1 409 ' '^stream-closed: true' <<'COMMAND'
curl -i "$WEIR/tour/orders" -H 'Content-Type: application/json' -d '{"id":6}'
COMMAND

wait "$LIVE_PID" || fail 'the live tail did not end cleanly'
LIVE_PID=
printf '\n# What the live tail has shown\n'
cat "$LIVE"
live_has '"streamClosed":true'
if grep -q '"id":5' "$LIVE"; then fail 'the live tail has shown a refused append'; fi

step 'Remove the stream' '^HTTP/1.1 204 ' <<'COMMAND'
curl -i -X DELETE "$WEIR/tour/orders"
COMMAND

step 'Remove the bucket' '^HTTP/1.1 204 ' <<'COMMAND'
curl -i -X DELETE "$WEIR/tour"
COMMAND

printf '\ntour: every answer is as promised\n'
