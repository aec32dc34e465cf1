//! Deletes.

use std::rc::Rc;

use weir_stream::{Command, KeyRef, Refusal, Reply, Stream};
use weir_types::StreamKey;

use crate::core::{Core, Shard};
use crate::message::{Answer, Request, Response, ShardError};

impl Shard {
    /// Deletes a stream and all its records.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] when there is none.
    pub async fn delete(&self, key: StreamKey) -> Result<(), ShardError> {
        self.call(self.owner_of(&key), Request::Delete(key)).await.map(|_| ())
    }
}

impl Core {
    pub(crate) async fn delete(self: &Rc<Self>, key: StreamKey) -> Response {
        let group = self.local_group(&key);
        let incarnation = self.live_stream(&group, &group.state.borrow(), &key).map(Stream::incarnation)?;
        match group.command(&Command::Delete { key: KeyRef::from(&key), incarnation }).await? {
            Reply::Done => {
                self.guests.folds.forget(incarnation);
                Ok(Answer::Done)
            }
            Reply::Refused(Refusal::NotFound) => Err(Refusal::NotFound.into()),
            other => unreachable!("a delete is not answered with {other:?}"),
        }
    }
}
