//! A group that goes on from a state that another log had.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use openraft::alias::{SnapshotMetaOf, VoteOf};
use openraft::vote::leader_id_std::LeaderId;
use openraft::{EmptyNode, Membership, StoredMembership};
use tokio::sync::oneshot;
use weir_storage::{Done, EntryId, Wal};
use weir_stream::Group;
use weir_types::GroupId;

use crate::codec::encode_vote;
use crate::config::{TypeConfig, log_id};
use crate::local::State;
use crate::snapshot::{self, Carries};

/// Has a group begin with `state`, which is that of the entry `last`, in a log that has nothing of it. Its only voter is
/// `node_id`. It is durable then. The log's writer runs on this thread.
///
/// # Errors
/// Whatever the disk says. The log is of no use then.
pub async fn install(wal: &Wal, group: GroupId, node_id: u64, last: EntryId, state: Group) -> io::Result<()> {
    assert!(wal.last(group).is_none(), "the log has nothing of the group");
    let nodes = BTreeMap::from([(node_id, EmptyNode {})]);
    let membership = Membership::new(vec![BTreeSet::from([node_id])], nodes).map_err(io::Error::other)?;
    let last_membership = StoredMembership::new(Some(log_id(last)), membership);
    let meta = SnapshotMetaOf::<TypeConfig> { last_log_id: Some(log_id(last)), last_membership };
    snapshot::write(wal, group, &State::new(state), meta, Carries::Rest, || false).await?;
    // Nothing of a leader of before may come to be part of the group: the next one's term is a later one.
    let leader_id = LeaderId { term: last.term + 1, voted_for: node_id };
    let vote = VoteOf::<TypeConfig> { leader_id, committed: false };
    let (done, written) = durable();
    wal.save_vote(group, &encode_vote(&vote), done);
    written.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))?;
    let (done, written) = durable();
    wal.purge(group, last, done);
    written.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
}

/// A callback, and what waits for it.
fn durable() -> (Done, oneshot::Receiver<io::Result<()>>) {
    let (sender, written) = oneshot::channel();
    (Box::new(move |result| drop(sender.send(result))), written)
}
