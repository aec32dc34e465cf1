//! Creates: the only verb that may have to create something else first, the stream's bucket.

use std::rc::Rc;

use weir_stream::{Command, Group, KeyRef, Refusal, Reply, Summary};
use weir_types::{GroupId, Incarnation, StreamKey};

use crate::api::{CreateRequest, ShardError};
use crate::append::records;
use crate::mailbox::{Answer, Request, Response};
use crate::shard::{Inner, Shard};

impl Shard {
    /// Creates a stream. The flag says whether it was there already, with the same configuration.
    ///
    /// # Errors
    /// [`Refusal::ConfigConflict`] when a stream with another configuration has the name, [`Refusal::JsonInvalid`] for
    /// a body that is none, [`ShardError::BucketUnknown`] when buckets are not created automatically.
    pub async fn create(&self, key: StreamKey, request: CreateRequest) -> Result<(Summary, bool), ShardError> {
        match self.call(self.owner_of(&key), Request::Create(key, request)).await? {
            Answer::Created { summary, existed } => Ok((summary, existed)),
            _ => unreachable!("a create is answered with the stream"),
        }
    }
}

impl Inner {
    pub(crate) async fn create(self: &Rc<Self>, key: StreamKey, mut request: CreateRequest) -> Response {
        let _counted = self.count_in_flight(request.body.len())?;
        let group = self.local_group(&key);
        if let Some(refusal) = self.storage_refusal(&group, request.body.len()) {
            return Err(refusal);
        }
        if Group::is_json(&request.content_type) {
            request.body.join();
        }
        let split = Group::check_create(&request.content_type, request.body.first())?;
        let create = Command::Create {
            key: KeyRef::from(&key),
            incarnation: self.draw_incarnation(),
            content_type: &request.content_type,
            expiry: request.expiry,
            closed: request.closed,
            records: records(&request.body, &split),
        };
        let mut reply = group.command(&create).await?;
        if reply == Reply::Refused(Refusal::BucketNotFound) {
            if !self.config.buckets_auto_create {
                return Err(ShardError::BucketUnknown);
            }
            self.call(self.topology.owner_of(GroupId::META), Request::BucketCreate(key.bucket().into())).await?;
            reply = group.command(&create).await?;
        }
        match reply {
            Reply::Created(summary) => Ok(Answer::Created { summary, existed: false }),
            Reply::Exists(summary) => Ok(Answer::Created { summary, existed: true }),
            Reply::Refused(refusal) => Err(refusal.into()),
            other => unreachable!("a create is not answered with {other:?}"),
        }
    }

    fn draw_incarnation(&self) -> Incarnation {
        loop {
            // 0 stands for none.
            match self.entropy.u64() {
                0 => {}
                drawn => return Incarnation(drawn),
            }
        }
    }
}
