//! What a replica answers to those of its group on other nodes.

use std::io;
use std::rc::Rc;

use openraft::EntryPayload;
use openraft::alias::EntryOf;
use openraft::entry::RaftEntry;
use openraft::raft::AppendEntriesResponse;
use send_wrapper::SendWrapper;
use tokio::time::Instant;
use weir_cluster::Message;
use weir_storage::Claim;

use crate::config::{Batch, TypeConfig, entry_id};
use crate::parcel::{PARCEL, decode_parcel, encode_receipt};
use crate::replica::Replica;
use crate::wire;

/// Why a message has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// No version of weir says this, or not here.
    #[error("a peer has sent what cannot be understood")]
    Malformed(#[from] io::Error),
    /// It has begun just now, and may have promised a leader not to elect another.
    #[error("the replica has begun just now, and votes a little later")]
    Resting,
    /// It comes again when there is room.
    #[error("the log has no room for what the leader sends")]
    NoRoom,
    /// This replica does nothing any more.
    #[error("the replica has stopped")]
    Stopped,
}

impl Replica {
    /// Answers what another replica of the group asks. What is asked on one lane takes effect in the order in which these futures
    /// are first polled. Entries are answered when they are durable.
    ///
    /// # Errors
    /// [`AnswerError`]; the peer then gets no answer.
    pub async fn answer(&self, message: Message) -> Result<Message, AnswerError> {
        let Message { kind, head, bodies } = message;
        if !matches!(kind, wire::APPEND | PARCEL) && !bodies.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "only entries and snapshots have bodies").into());
        }
        match kind {
            wire::VOTE | wire::PRE_VOTE => {
                if self.is_resting() {
                    return Err(AnswerError::Resting);
                }
                let request = wire::decode_vote_request(head)?;
                let response = match kind {
                    wire::VOTE => self.raft.vote(request).await,
                    _ => self.raft.pre_vote(request).await,
                };
                Ok(wire::encode_vote_response(kind, &response.map_err(|_| AnswerError::Stopped)?))
            }
            wire::APPEND => {
                let arrived = Instant::now();
                let mut request = wire::decode_append(head, bodies)?;
                self.admit(&mut request.entries)?;
                let response = self.raft.append_entries(request).await.map_err(|_| AnswerError::Stopped)?;
                if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                    self.progress.borrow_mut().heard = Some(arrived);
                }
                Ok(wire::encode_append_response(&response))
            }
            wire::TRANSFER => {
                let response = self.raft.handle_transfer_leader(wire::decode_transfer(head)?).await;
                Ok(wire::encode_transfer_response(&response.map_err(|_| AnswerError::Stopped)?))
            }
            PARCEL => {
                if self.is_stopped() {
                    return Err(AnswerError::Stopped);
                }
                Ok(encode_receipt(self.receive(decode_parcel(head, bodies)?).await))
            }
            wire::READ_INDEX => Ok(wire::encode_read_index(self.read_index().await)),
            kind => Err(io::Error::new(io::ErrorKind::InvalidData, format!("no message is of kind {kind}")).into()),
        }
    }

    /// Finds room for the batches that the log does not have. The leader had room for them, and decides for all: a log that is
    /// fuller here lends its reserve, but not the last of it, which is for what gives it room again.
    fn admit(&self, entries: &mut [EntryOf<TypeConfig>]) -> Result<(), AnswerError> {
        for entry in entries {
            let id = entry_id(&entry.log_id());
            let is_new = id.index >= self.wal.first_index(self.group)
                && self.wal.entry(self.group, id.index).is_none_or(|entry| entry.id != id);
            if let EntryPayload::Normal(Batch::Loaded { frame, ticket, .. }) = &mut entry.payload
                && is_new
            {
                let promised = self.wal.reserve(frame.len(), Claim::Reserve).map_err(|_| AnswerError::NoRoom)?;
                *ticket = Some(SendWrapper::new(Rc::new(promised)));
            }
        }
        Ok(())
    }
}
