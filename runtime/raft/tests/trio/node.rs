//! A node with a replica, which can lose its power and come back.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use weir_raft::{Observer, ProposeError, Replica, ReplicaOptions, Role, State};
use weir_storage::{Claim, EntryBody, FRAME_HEADER_BYTES, FaultyDisk, Room, Wal, WalConfig, WriteMode};
use weir_stream::{Extent, Group, Outcome, Pack, Piece};
use weir_types::GroupId;
use weir_types::limits::SLOTS;

use crate::history::History;
use crate::links::Links;

/// What the cache counts depends on where buffers come to lie in memory, so nothing may ever leave it.
const CONFIG: WalConfig =
    WalConfig { segment_bytes: 8 << 20, budget_bytes: 64 << 20, cache_bytes: 1 << 30, write: WriteMode::Simulated };

pub(crate) struct Node {
    pub(crate) id: u64,
    seed: u64,
    founders: BTreeSet<u64>,
    links: Rc<Links>,
    history: History,
    disk: RefCell<FaultyDisk>,
    up: RefCell<Option<Up>>,
}

#[derive(Clone)]
struct Up {
    wal: Wal,
    replica: Replica,
    state: State,
}

/// Tells the history what is applied.
struct Witness {
    node: u64,
    history: History,
    /// Whether it has begun: a snapshot then comes from another node.
    has_begun: Rc<Cell<bool>>,
}

impl Observer for Witness {
    fn restored(&mut self, group: &Group) {
        self.history.restore(self.node, group.applied(), self.has_begun.get());
    }

    fn applied(&mut self, index: u64, batch: &Bytes, outcomes: &[Outcome]) {
        self.history.apply(self.node, index, batch, outcomes);
    }
}

impl Node {
    pub(crate) fn new(id: u64, seed: u64, founders: &BTreeSet<u64>, links: &Rc<Links>, history: &History) -> Node {
        let disk = FaultyDisk::new(128 << 20, seed << 2 | id);
        Wal::form(&disk, id).expect("an empty disk");
        let (links, history) = (links.clone(), history.clone());
        Node { id, seed, founders: founders.clone(), links, history, disk: RefCell::new(disk), up: RefCell::default() }
    }

    pub(crate) async fn start(&self) {
        assert!(!self.is_up(), "it is up already");
        let disk = self.disk.borrow().clone();
        let salt = std::cell::Cell::new(disk.operations() << 8);
        let wal = Wal::open(Arc::new(disk), CONFIG, Box::new(move || salt.replace(salt.get() + 1)));
        let wal = wal.expect("a power cut damages nothing");
        tokio::task::spawn_local(wal.clone().run());
        self.history.restart(self.id);
        let state = State::new(Group::new());
        let peers = Rc::new(self.links.ends(self.id));
        let options = ReplicaOptions {
            node_id: self.id,
            group: GroupId::META,
            founders: self.founders.clone(),
            peers: Some(peers),
            seed: self.seed << 2 | self.id,
        };
        let has_begun = Rc::new(Cell::new(false));
        let witness = Witness { node: self.id, history: self.history.clone(), has_begun: has_begun.clone() };
        let replica = Replica::start(options, wal.clone(), state.clone(), Box::new(witness)).await.expect("it starts");
        has_begun.set(true);
        self.links.up(self.id, replica.clone());
        *self.up.borrow_mut() = Some(Up { wal, replica, state });
    }

    /// Cuts its power: what was not synced is gone.
    pub(crate) async fn crash(&self) {
        let Up { replica, .. } = self.up.take().expect("it is up");
        self.links.down(self.id);
        let disk = self.disk.borrow().clone();
        disk.cut_power_at(disk.operations());
        *self.disk.borrow_mut() = disk.crash();
        replica.shutdown().await;
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.borrow().is_some()
    }

    pub(crate) fn role(&self) -> Option<Role> {
        self.up.borrow().as_ref().map(|up| up.replica.role())
    }

    pub(crate) fn replica(&self) -> Replica {
        self.up().replica
    }

    fn up(&self) -> Up {
        self.up.borrow().clone().expect("it is up")
    }

    pub(crate) async fn propose(&self, frame: Bytes) -> Result<(), ProposeError> {
        let up = self.up.borrow().clone();
        let Some(Up { wal, replica, .. }) = up else { return Err(ProposeError::NotLeader) };
        let ticket = loop {
            match wal.reserve(frame.len(), Claim::Spare) {
                Ok(ticket) => break ticket,
                // Its power may be cut.
                Err(Room::Full(_)) => return Err(ProposeError::Stopped),
                Err(_) => wal.room_changed().await,
            }
        };
        replica.propose(frame, ticket).await.map(drop)
    }

    /// Takes a snapshot and gives up the log before it, as far as nothing in it is needed.
    ///
    /// # Errors
    /// Its power was cut, or its disk is full.
    pub(crate) async fn keep(&self) -> io::Result<()> {
        self.replica().take_snapshot().await?;
        self.purge().await;
        Ok(())
    }

    /// Takes a snapshot that carries all that it needs, and gives up the log before it, as one that has left its group does.
    ///
    /// # Errors
    /// As above.
    pub(crate) async fn keep_all(&self) -> io::Result<()> {
        self.replica().take_carrying_snapshot().await?;
        self.purge().await;
        Ok(())
    }

    /// Gives up the log before its last snapshot, as far as nothing in it is needed.
    pub(crate) async fn purge(&self) {
        let replica = self.replica();
        if let Some(upto) = replica.purgeable().min(replica.snapshot_index()) {
            replica.purge(upto).await;
        }
    }

    /// How often bindings have changed, as far as it has applied that.
    pub(crate) fn bindings_epoch(&self) -> u64 {
        self.up.borrow().as_ref().map_or(0, |up| up.state.borrow().bindings_epoch())
    }

    /// What it has applied, if it is up. It stays as it is when the node ends.
    pub(crate) fn state(&self) -> Option<State> {
        self.up.borrow().as_ref().map(|up| up.state.clone())
    }

    pub(crate) fn disk(&self) -> FaultyDisk {
        self.disk.borrow().clone()
    }

    /// The first entry that its log has, and the last.
    pub(crate) fn log_range(&self) -> (u64, u64) {
        let wal = self.up().wal;
        (wal.first_index(GroupId::META), wal.last(GroupId::META).map_or(0, |last| last.index))
    }

    /// All streams, each with the position from which on it holds bytes, and these, read back from its log.
    pub(crate) fn streams(&self) -> BTreeMap<String, (u64, Vec<u8>)> {
        let Up { wal, state, .. } = self.up();
        let state = state.borrow();
        let read = |extent: Extent| {
            let entry = wal.entry(GroupId::META, extent.index).expect("what is named is there");
            let frame = match entry.body {
                EntryBody::Cached(frame, _) => frame,
                EntryBody::Stored(place) => wal.reader().read_frame(&place).expect("no damage"),
            };
            let pack = &frame[FRAME_HEADER_BYTES..][extent.pos as usize..][..extent.len as usize];
            pack[Pack::check(pack).expect("no damage").payload()].to_vec()
        };
        let bytes_of = |stream: &weir_stream::Stream| {
            let begin = stream.pieces_from(0).next().map_or(stream.tail().position, |piece| piece.start());
            let pieces = stream.pieces_from(0).map(|piece| match piece {
                Piece::Hot(extent) => read(extent),
                Piece::Cold { .. } => panic!("there is no cold tier"),
            });
            (begin, pieces.flatten().collect::<Vec<u8>>())
        };
        let streams = (0..SLOTS).flat_map(|slot| state.slot(slot));
        streams.map(|stream| (stream.key().to_string(), bytes_of(stream))).collect()
    }

    /// Whether something that its snapshot carries cannot be read.
    pub(crate) fn lacks_carried(&self) -> bool {
        let wal = self.up().wal;
        let carried = wal.carried(GroupId::META).expect("it carries something");
        let mut entries = carried.indices().map(|index| wal.entry(GroupId::META, index).expect("it is among them"));
        entries.any(|entry| wal.reader().body(&entry).is_err())
    }

    /// What its log takes of the budget, in bytes.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.up().wal.stats().used_bytes
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.replica().standing().applied_index
    }

    /// The state as a snapshot has it.
    pub(crate) fn state_bytes(&self) -> Vec<u8> {
        let up = self.up();
        let mut state = up.state.borrow_mut();
        state.freeze(64 << 10);
        let mut bytes = Vec::new();
        while let Some(piece) = state.take_frozen() {
            bytes.extend_from_slice(&piece);
        }
        state.end_freeze();
        bytes
    }
}
