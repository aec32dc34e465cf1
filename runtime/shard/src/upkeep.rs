//! What keeps a group small, beside its requests: snapshots, and the way of its bytes from the log to the cold tier, there
//! from chunk to chunk, and out of it.
//!
//! - [`keeper`]: snapshots, and the log before them.
//! - [`flusher`]: old bytes from the log to chunks.
//! - [`merger`]: from many chunks to one, and out of those that are mostly garbage.
//! - [`copier`]: snapshots to the store, so that chunks stay as long as a stored one names them.
//! - [`trimmer`]: gives up what buckets keep no longer.
//! - [`forks`]: what forks and their sources owe each other.
//! - [`sweeper`]: chunks that nothing names.
//! - [`maker`]: makes a chunk of bytes, and has apply take it in.
//! - [`archivist`]: a copy of all that to another store, when somebody asks.
//! - [`checker`]: whether chunks are what was written, when somebody asks.
//! - [`rebuilder`]: those that are not, once more from the log. [`entries`]: the log, read back.

mod archivist;
mod checker;
mod copier;
mod entries;
mod flusher;
mod forks;
mod keeper;
mod maker;
mod merger;
mod rebuilder;
mod sweeper;
mod trimmer;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use weir_cold::{ChunkName, Cold};

use crate::core::Core;
use crate::message::{BackupNews, CheckNews};
use crate::upkeep::copier::Anchor;
use crate::upkeep::maker::Maker;
use crate::upkeep::sweeper::Garbage;
use crate::write::job::LocalGroup;

/// Begins the tasks of a group. They run for the shard's life.
pub(crate) fn begin(core: &Rc<Core>, group: &Rc<LocalGroup>) {
    let anchor = Rc::new(Anchor::default());
    core.spawn(keeper::run(core.clone(), group.clone(), anchor.clone()));
    core.spawn(trimmer::run(core.clone(), group.clone()));
    core.spawn(forks::run(core.clone(), group.clone()));
    if let Some(cold) = &core.cold {
        begin_cold(core, group, cold, anchor);
    }
}

fn begin_cold(core: &Rc<Core>, group: &Rc<LocalGroup>, cold: &Cold, anchor: Rc<Anchor>) {
    let nonce = core.entropy.u64() as u32;
    let garbage = Garbage::default();
    let maker = Rc::new(Maker::new(core.clone(), group.clone(), cold.clone(), nonce, garbage.clone()));
    core.spawn(flusher::run(core.clone(), group.clone(), maker.clone()));
    core.spawn(merger::run(core.clone(), group.clone(), cold.clone(), maker));
    core.spawn(rebuilder::run(core.clone(), group.clone(), cold.clone()));
    core.spawn(copier::run(core.clone(), group.clone(), cold.clone(), anchor.clone()));
    core.spawn(sweeper::run(core.clone(), group.clone(), cold.clone(), nonce, garbage, anchor));
}

/// Begins to verify the chunks of all groups of this shard, and to repair what is damaged if it `repairs`; `turn` is given back at the end.
pub(crate) fn begin_check(
    core: &Rc<Core>,
    repairs: bool,
    news: mpsc::Sender<CheckNews>,
    turn: Arc<OwnedSemaphorePermit>,
) {
    in_turn(core, checker::run(core.clone(), repairs, news), turn);
}

/// Begins to copy all groups of this shard to `to`, where `there` is already; `turn` is given back at the end.
pub(crate) fn begin_backup(
    core: &Rc<Core>,
    to: Cold,
    there: Arc<BTreeMap<ChunkName, u64>>,
    news: mpsc::Sender<BackupNews>,
    turn: Arc<OwnedSemaphorePermit>,
) {
    in_turn(core, archivist::run(core.clone(), to, there, news), turn);
}

/// Gives a turn back when the work is done that it is for.
fn in_turn(core: &Core, work: impl Future<Output = ()> + 'static, turn: Arc<OwnedSemaphorePermit>) {
    core.spawn_request(async move {
        work.await;
        drop(turn);
    });
}
