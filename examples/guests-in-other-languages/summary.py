"""A summary: how many of each `item` were ordered.

Built by `componentize-py`: see README.md. An `Err` is an answer; any other exception ends the instance, and its text is in
the server's log.
"""

import json

import wit_world
from componentize_py_types import Err
from wit_world.exports import summary


def records(batch):
    """The records of a batch, parsed."""
    start = 0
    for end in batch.ends:
        yield json.loads(batch.data[start:end])
        start = end


class Summary(wit_world.exports.Summary):
    def configure(self, bucket, config):
        pass


class Fold(summary.Fold):
    def __init__(self):
        self.counts = {}

    def apply(self, input):
        for order in records(input):
            self.counts[order["item"]] = self.counts.get(order["item"], 0) + order["qty"]

    def query(self, path, params):
        if path != "/":
            raise Err(f"there is no view {path}")
        return summary.View("application/json", self.snapshot())

    def snapshot(self):
        # Sorted, so that equal states are equal bytes.
        return json.dumps(self.counts, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def restore(cls, snapshot):
        fold = cls()
        fold.counts = json.loads(snapshot)
        return fold
