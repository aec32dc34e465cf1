"""PyPI's durable-streams: a writer that goes on while the server is killed and started again, and two followers.

The test reads stdout: the words `kill` and `start`, each answered by a line on stdin once it is done, and at the end
the report, all as of the scripts for node (`weir.mjs`).
"""

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from durable_streams import DurableStream, DurableStreamError, SeqConflictError, stream

# Longer than the script takes; one that hangs is a failure.
WITHIN_S = 120
NAME = "python"
BEFORE = 50
AFTER = 150

url = f"{os.environ['WEIR_URL']}/v1/stream/{NAME}"
written = []


def order(word):
    print(word, flush=True)
    input()


def may_come_again(error):
    """Whether the server is not there, or not yet; then waits a little."""
    is_passing = isinstance(error, httpx.TransportError) or getattr(error, "status", None) == 503
    if is_passing:
        time.sleep(0.02)
    return is_passing


def write(handle, record):
    """Appends `record`, once: when an answer was lost, the sequence number tells whether it had been stored."""
    seq = f"{len(written):08}"
    written.append(record)
    was_lost = False
    while True:
        try:
            handle.append(record, seq=seq)
            return
        except SeqConflictError:
            if not was_lost:
                raise
            return
        except (httpx.TransportError, DurableStreamError) as error:
            if not may_come_again(error):
                raise
            was_lost = True


def follow(live):
    """All records up to the last, coming again from where it was whenever a response ends or breaks."""
    read, offset = [], "-1"
    while True:
        try:
            with stream(url, offset=offset, live=live) as response:
                for event in response.iter_events():
                    read += event.data
                    offset = event.next_offset
                    # This version knows of no closed streams, and would ask for more.
                    if read and read[-1].get("last"):
                        return read
        except (httpx.TransportError, DurableStreamError) as error:
            if not may_come_again(error):
                raise


def catch_up(offset):
    with stream(url, offset=offset, live=False) as response:
        return response.read_json(), response.offset


def main():
    handle = DurableStream.create(url, content_type="application/json")
    with ThreadPoolExecutor() as threads:
        followers = {live: threads.submit(follow, live) for live in ("long-poll", "sse")}
        for number in range(BEFORE):
            write(handle, {"number": number})
        before, offset = catch_up("-1")
        # It writes on all the time, so the server dies with an append on its way, or between two.
        restart = threads.submit(lambda: [order("kill"), order("start")])
        while len(written) < AFTER or not restart.done():
            write(handle, {"number": len(written)})
        restart.result()
        # Nor can it close one, but for the header.
        closing = DurableStream(url, content_type="application/json", headers={"Stream-Closed": "true"})
        write(closing, {"number": len(written), "last": True})
        after, _ = catch_up(offset)
        reads = {live: follower.result() for live, follower in followers.items()}
    reads["catch-up, resumed"] = before + after
    print(json.dumps({"name": NAME, "written": written, "reads": reads}), flush=True)


def give_up():
    print(f"the script has not come to an end within {WITHIN_S} s", file=sys.stderr, flush=True)
    os._exit(1)


watch = threading.Timer(WITHIN_S, give_up)
watch.daemon = True
watch.start()
main()
