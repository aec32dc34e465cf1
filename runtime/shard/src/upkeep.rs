//! What keeps a group small, beside its requests: snapshots, and the way of its bytes from the log to the cold tier, there
//! from chunk to chunk, and out of it.
//!
//! - [`keeper`]: snapshots, and the log before them.
//! - [`flusher`]: old bytes from the log to chunks.
//! - [`merger`]: from many chunks to one, and out of those that are mostly garbage.
//! - [`trimmer`]: gives up what buckets keep no longer.
//! - [`sweeper`]: chunks that nothing names.
//! - [`maker`]: makes a chunk of bytes, and has apply take it in.

mod flusher;
mod keeper;
mod maker;
mod merger;
mod sweeper;
mod trimmer;

use std::rc::Rc;

use weir_cold::Cold;

use crate::core::Core;
use crate::upkeep::maker::Maker;
use crate::upkeep::sweeper::Garbage;
use crate::write::job::LocalGroup;

/// Begins the tasks of a group. They run for the shard's life.
pub(crate) fn begin(core: &Rc<Core>, group: &Rc<LocalGroup>) {
    core.spawn(keeper::run(core.clone(), group.clone()));
    core.spawn(trimmer::run(core.clone(), group.clone()));
    if let Some(cold) = &core.cold {
        begin_cold(core, group, cold);
    }
}

fn begin_cold(core: &Rc<Core>, group: &Rc<LocalGroup>, cold: &Cold) {
    let nonce = core.entropy.u64() as u32;
    let garbage = Garbage::default();
    let maker = Rc::new(Maker::new(core.clone(), group.clone(), cold.clone(), nonce, garbage.clone()));
    core.spawn(flusher::run(core.clone(), group.clone(), maker.clone()));
    core.spawn(merger::run(core.clone(), group.clone(), cold.clone(), maker));
    core.spawn(sweeper::run(core.clone(), group.clone(), cold.clone(), nonce, garbage));
}
