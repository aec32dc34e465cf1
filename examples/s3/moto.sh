# Sourced by examples that need an S3 server: moto, from PyPI, which is installed in $MOTO if it is not there. Whoever sources this
# has `fail`, and stops $MOTO_PID in the end.
MOTO=${MOTO:-${CARGO_TARGET_DIR:-target}/moto}
MOTO_PID=

say() { printf '\n# %s\n' "$1"; }

# until_so WHAT COMMAND...: waits until the command succeeds.
until_so() {
    local what=$1 deadline=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || fail "$what: not within a minute"
        sleep 0.2
    done
}

answers() { curl -sS -o /dev/null "$1"; }

# start_s3 URL: starts the server there, with the bucket weir.
start_s3() {
    if [[ ! -x $MOTO/bin/moto_server ]]; then
        say "Installing the S3 server in $MOTO"
        python3 -m venv "$MOTO"
        "$MOTO/bin/pip" install -q 'moto[server]==5.2.5'
    fi
    say "An S3 server at $1, with the bucket weir"
    "$MOTO/bin/moto_server" -H 127.0.0.1 -p "${1##*:}" >/dev/null 2>&1 &
    MOTO_PID=$!
    until_so 'the S3 server answers' answers "$1"
    curl -sS -o /dev/null -X PUT "$1/weir"
}
