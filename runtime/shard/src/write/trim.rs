//! Trims: a stream's oldest records are given up.

use std::rc::Rc;

use weir_stream::{Command, Facts, KeyRef, Refusal, Reply};
use weir_types::StreamKey;

use crate::core::{Core, Shard};
use crate::message::{Answer, Request, Response, ShardError, TrimRequest};

impl Shard {
    /// Gives up a stream's records before an offset. Not a use of the stream: a sliding TTL goes on. What was trimmed before is
    /// a success.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::OffsetGone`], [`Refusal::OffsetInvalid`]; [`Refusal::TrimSummarized`] without `force`;
    /// what reading at the offset says.
    pub async fn trim(&self, key: StreamKey, request: TrimRequest) -> Result<Facts, ShardError> {
        match self.ask(Request::Trim(key, request)).await? {
            Answer::Facts(facts) => Ok(facts),
            _ => unreachable!("a trim is answered with the stream"),
        }
    }
}

impl Core {
    pub(crate) async fn trim(self: &Rc<Self>, key: StreamKey, TrimRequest { before, force }: TrimRequest) -> Response {
        let group = self.local_group(&key);
        let facts = self.head(&key)?;
        let before = match facts.check_offset(before) {
            // Whether a record began there, nobody can tell any more.
            Err(Refusal::OffsetTrimmed { earliest }) => earliest.position,
            checked => checked?,
        };
        if before > facts.earliest.position && before < facts.next.position {
            match self.check_boundary(&group, &key, facts.offset(before)).await {
                // Another trim was faster.
                Err(ShardError::Refused(Refusal::OffsetTrimmed { .. })) => {}
                checked => checked?,
            }
        }
        let incarnation = facts.incarnation;
        match group.command(&Command::Trim { key: KeyRef::from(&key), incarnation, before, force }).await? {
            Reply::Trimmed(facts) => Ok(Answer::Facts(facts)),
            Reply::Refused(refusal @ (Refusal::NotFound | Refusal::TrimSummarized)) => Err(refusal.into()),
            other => unreachable!("a trim is not answered with {other:?}"),
        }
    }
}
