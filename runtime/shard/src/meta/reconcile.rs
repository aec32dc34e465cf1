//! The reconciler: brings every group to what group 0 has decided, at the start and after what has failed.
//!
//! Nothing depends on its haste: a group that has not heard of a change refuses what it must ([`weir_stream::Refusal`]), and
//! takes news in any order.

use std::rc::Rc;
use std::time::Duration;

use weir_raft::Role;
use weir_stream::{BucketState, BucketView, Command};
use weir_types::GroupId;

use crate::core::{Core, Shard};
use crate::group::ShardOpenError;
use crate::message::{Answer, Request, ShardError};

/// How long a bucket that could not be settled rests.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

impl Shard {
    /// Notes how many groups the node has if it is new, checks it if it is not, and finishes what a crash left half done.
    /// Called once, on the shard that owns the meta group, when all shards serve and before any client is served.
    ///
    /// # Errors
    /// [`ShardOpenError::Form`] when the number is another one, or cannot be written.
    pub async fn form(&self) -> Result<(), ShardOpenError> {
        let core = &self.0;
        core.form().await?;
        core.settle_all().await.map_err(|error| ShardOpenError::Form(error.to_string()))?;
        core.restore_modules().await;
        core.spawn(run(Rc::clone(core)));
        Ok(())
    }
}

/// Does what [`Shard::form`] does, and settles what was left, for as long as this node leads group 0 in this term.
pub(crate) async fn lead(core: Rc<Core>, term: u64) {
    let is_leading = || core.group(GroupId::META).replica.role() == Role::Leading { term };
    while is_leading() {
        match begin(&core).await {
            Ok(()) => {
                core.compile_pending();
                break;
            }
            Err(error) => tracing::warn!(%error, "what was left of changes of buckets is not settled yet"),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
    tokio::select! {
        () = run(core.clone()) => {}
        () = async {
            while is_leading() {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        } => {}
    }
}

async fn begin(core: &Rc<Core>) -> Result<(), String> {
    core.form().await.map_err(|error| error.to_string())?;
    core.settle_all().await.map_err(|error| error.to_string())
}

/// Settles what was left. Runs for the shard's life.
async fn run(core: Rc<Core>) {
    loop {
        for name in core.unsettled.take().await {
            if let Err(error) = core.finish(&name).await {
                tracing::warn!(bucket = &*name, %error, "a change of a bucket has not reached every group yet");
                core.unsettled.add(&name);
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

impl Core {
    /// Notes how many groups there are, or checks that.
    async fn form(self: &Rc<Self>) -> Result<(), ShardOpenError> {
        let formed = self.meta().groups().is_some();
        if !formed {
            let form = Command::MetaForm { groups: self.topology.groups };
            let noted = self.group(GroupId::META).command(&form).await;
            noted.map_err(|error| ShardOpenError::Form(error.to_string()))?;
        }
        let groups = self.meta().groups();
        if groups != Some(self.topology.groups) {
            let ours = self.topology.groups;
            return Err(ShardOpenError::Form(format!("it is for {groups:?} groups, the node has {ours}")));
        }
        Ok(())
    }

    /// Settles every bucket of which some group has not heard the last.
    async fn settle_all(self: &Rc<Self>) -> Result<(), ShardError> {
        self.unsettled.forget_all_told();
        let buckets: Vec<_> = {
            let meta = self.meta();
            meta.buckets().map(|(name, bucket)| (Box::<str>::from(name), bucket.state, bucket.epoch)).collect()
        };
        for (name, state, epoch) in buckets {
            if state != BucketState::Active || !self.is_told(&name, epoch).await? {
                tracing::warn!(bucket = &*name, "finishing a change that was not finished");
                match self.finish(&name).await {
                    // Without room for it, or with a disk that takes long to make some, what is there is served all the same,
                    // and the change is finished later.
                    Err(ShardError::Limit(_) | ShardError::Unavailable | ShardError::Unknown) => {
                        self.unsettled.add(&name)
                    }
                    finished => finished?,
                }
            }
        }
        Ok(())
    }

    /// Whether every group has the bucket as of `epoch`.
    async fn is_told(self: &Rc<Self>, name: &str, epoch: u64) -> Result<bool, ShardError> {
        for group in self.topology.groups() {
            let request = Request::BucketDescribe { group, name: name.into() };
            match self.request(request).await {
                Ok(Answer::Bucket(BucketView { epoch: told, .. })) if told == epoch => {}
                Ok(_) | Err(ShardError::Refused(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.unsettled.note_told(name, epoch);
        Ok(true)
    }
}
