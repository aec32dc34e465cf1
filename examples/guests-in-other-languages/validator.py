"""A validator: orders have an `item` and a positive `qty`.

Built by `componentize-py`: see README.md. The configuration `{"most": 100}` is the largest `qty` that is accepted.
"""

import json

import wit_world
from componentize_py_types import Err
from wit_world.exports import validator

MOST = float("inf")


def records(batch):
    """The records of a batch, parsed."""
    start = 0
    for end in batch.ends:
        yield json.loads(batch.data[start:end])
        start = end


class Validator(wit_world.exports.Validator):
    def configure(self, bucket, config):
        global MOST
        given = json.loads(config)
        if given is None:
            return
        if not isinstance(given.get("most"), int):
            raise Err('the configuration is {"most": NUMBER}')
        MOST = given["most"]

    def validate(self, context, input):
        for index, order in enumerate(records(input)):
            if not 0 < order["qty"] <= MOST:
                rejection = validator.Rejection(index, "qty-invalid", f"qty is {order['qty']}")
                return validator.Verdict_Reject(rejection)
        return validator.Verdict_Accept()
