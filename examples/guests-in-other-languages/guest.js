// A validator and a summary in one file. Orders have an `item` and a positive `qty`; the summary counts them by item.
//
// Built by `npx componentize-js`, once per world: see README.md.

const decode = new TextDecoder();
const encode = new TextEncoder();

/** The records of a batch, parsed. */
function records(batch) {
  let start = 0;
  return Array.from(batch.ends, (end) => {
    const record = JSON.parse(decode.decode(batch.data.subarray(start, end)));
    start = end;
    return record;
  });
}

/** The binding's configuration: `{"most": 100}` is the largest `qty` that is accepted. */
let most = Infinity;

function configure(bucket, config) {
  const given = JSON.parse(config);
  if (given === null) return;
  if (typeof given.most !== "number") throw "the configuration is {\"most\": NUMBER}";
  most = given.most;
}

export const validator = {
  configure,
  validate(context, input) {
    const orders = records(input);
    const index = orders.findIndex((order) => !(order.qty > 0 && order.qty <= most));
    if (index < 0) return { tag: "accept" };
    const message = `qty is ${orders[index].qty}`;
    return { tag: "reject", val: { index, code: "qty-invalid", message } };
  },
};

/** What is thrown as a string is an answer; any other exception ends the instance, and its text is in the server's log. */
class Fold {
  constructor(counts = new Map()) {
    this.counts = counts;
  }
  apply(input) {
    for (const order of records(input)) {
      this.counts.set(order.item, (this.counts.get(order.item) ?? 0) + order.qty);
    }
  }
  query(path, params) {
    if (path !== "/") throw `there is no view ${path}`;
    return { contentType: "application/json", body: this.snapshot() };
  }
  /** Sorted, so that equal states are equal bytes. */
  snapshot() {
    return encode.encode(JSON.stringify(Object.fromEntries([...this.counts].sort())));
  }
  static restore(snapshot) {
    return new Fold(new Map(Object.entries(JSON.parse(decode.decode(snapshot)))));
  }
}

export const summary = { configure, Fold };
