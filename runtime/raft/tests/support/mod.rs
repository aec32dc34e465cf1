//! What tests of replicas have in common.

use weir_stream::{BatchBuilder, Command, KeyRef, Records};
use weir_types::{Incarnation, StreamKey};

/// Adds an append of `body` to the first life of a stream.
pub(crate) fn push_append(builder: &mut BatchBuilder, name: &str, body: &[u8]) {
    builder.push(&Command::Append {
        key: KeyRef::from(&StreamKey::new("b", name).expect("a valid key")),
        incarnation: Incarnation(1),
        close: false,
        producer: None,
        seq: None,
        if_match: None,
        bindings_epoch: 0,
        records: Records::whole(body),
    });
}
