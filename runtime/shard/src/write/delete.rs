//! Deletes.

use std::rc::Rc;

use weir_stream::{Command, KeyRef, Refusal, Reply};
use weir_types::StreamKey;

use crate::core::{Core, Shard};
use crate::message::{Answer, IfMatch, Request, Response, ShardError};

impl Shard {
    /// Deletes a stream and all its records.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] when there is none, [`Refusal::TailMoved`] when `if_match` is not true of it.
    pub async fn delete(&self, key: StreamKey, if_match: Option<IfMatch>) -> Result<(), ShardError> {
        self.ask(Request::Delete(key, if_match)).await.map(|_| ())
    }
}

impl Core {
    pub(crate) async fn delete(self: &Rc<Self>, key: StreamKey, if_match: Option<IfMatch>) -> Response {
        let group = self.local_group(&key);
        let (incarnation, if_match) = {
            let state = group.leading()?;
            let stream = self.live_stream(&group, &state, &key)?;
            (stream.incarnation(), if_match.and_then(|if_match| if_match.demanded(|| Some(stream.tail()))))
        };
        match group.command(&Command::Delete { key: KeyRef::from(&key), incarnation, if_match }).await? {
            Reply::Done => {
                self.guests.folds.forget(incarnation);
                Ok(Answer::Done)
            }
            Reply::Refused(refusal @ (Refusal::NotFound | Refusal::TailMoved { .. })) => Err(refusal.into()),
            other => unreachable!("a delete is not answered with {other:?}"),
        }
    }
}
