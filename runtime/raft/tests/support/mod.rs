//! What tests of replicas have in common.

use weir_stream::{BatchBuilder, Command, KeyRef, Records};
use weir_types::{Incarnation, StreamKey};

/// Adds an append of `body` to the first life of a stream, checked under the bindings as of `bindings_epoch`.
pub(crate) fn push_append(builder: &mut BatchBuilder, name: &str, bindings_epoch: u64, body: &[u8]) {
    builder.push(&Command::Append {
        key: KeyRef::from(&StreamKey::new("b", name).expect("a valid key")),
        incarnation: Incarnation(1),
        close: false,
        producer: None,
        seq: None,
        if_match: None,
        bindings_epoch,
        records: Records::whole(body),
    });
}
