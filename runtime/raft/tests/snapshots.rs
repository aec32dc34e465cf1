//! A replica that takes snapshots and gives up its log, on a disk that loses power at any operation of that: it always begins
//! again, with everything acknowledged and nothing else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::{Builder, LocalOptions};
use weir_raft::{Observer, Replica, ReplicaOptions, StartError, State, install, read_snapshot};
use weir_storage::{
    Arena, BLOCK_BYTES, Claim, Disk, EntryBody, EntryId, FRAME_HEADER_BYTES, FaultyDisk, Room, SnapshotReader, Wal,
    WalConfig, WalError, WriteMode,
};
use weir_stream::subscription::EncodedWatches;
use weir_stream::{
    BatchBuilder, BucketTold, Command, EncodedBindings, Expiry, Group, KeyRef, Limits, Outcome, Pack, Piece, Records,
    Retention,
};
use weir_types::limits::SLOTS;
use weir_types::{GroupId, Incarnation, StreamKey};

const SEGMENT_BYTES: u64 = 64 << 10;
const CONFIG: WalConfig = WalConfig {
    segment_bytes: SEGMENT_BYTES,
    budget_bytes: 6 * SEGMENT_BYTES,
    cache_bytes: 0,
    write: WriteMode::Inline,
};
const GROUP: GroupId = GroupId::META;
const STALL_MAX: Duration = Duration::from_secs(30);
const LIMITS: Limits = Limits { producers_max: 8 };
/// So many batches, and a snapshot after each so many of them.
const STEPS: u64 = 60;
const SNAPSHOT_EVERY: u64 = 10;
const FILE: &str = "group-00000.snapshot";

struct Nobody;

impl Observer for Nobody {
    fn restored(&mut self, _group: &Group) {}

    fn applied(&mut self, _index: u64, _batch: &Bytes, _outcomes: &[Outcome]) {}
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().build_local(LocalOptions::default());
    runtime.expect("a runtime").block_on(test)
}

fn formed(seed: u64) -> FaultyDisk {
    let disk = FaultyDisk::new(16 << 20, seed);
    Wal::form(&disk, 1).expect("an empty disk");
    disk
}

/// A replica that serves, and what it stands on.
struct World {
    wal: Wal,
    replica: Replica,
    state: State,
}

impl World {
    async fn begin(disk: &FaultyDisk) -> Result<World, StartError> {
        let salt = std::cell::Cell::new(disk.operations() << 8);
        let wal = Wal::open(Arc::new(disk.clone()), CONFIG, Box::new(move || salt.replace(salt.get() + 1)));
        let wal = match wal {
            Err(error) if !disk.has_power() => {
                return Err(StartError::Stopped { group: GROUP, reason: error.to_string() });
            }
            wal => wal.expect("a power cut damages nothing"),
        };
        tokio::task::spawn_local(wal.clone().run());
        let state = State::new(Group::new());
        let options = ReplicaOptions::alone(7, GROUP);
        let replica = Replica::start(options, wal.clone(), state.clone(), Box::new(Nobody)).await?;
        replica.serving(STALL_MAX).await?;
        Ok(World { wal, replica, state })
    }

    /// Proposes the `step`th batch; says whether it was acknowledged.
    async fn propose(&self, step: u64) -> bool {
        let frame = frame(step);
        let ticket = loop {
            match self.wal.reserve(frame.len(), Claim::Spare) {
                Ok(ticket) => break ticket,
                Err(_) if self.wal.failed() => return false,
                Err(Room::Full(cause)) => panic!("the log is full: {cause}"),
                Err(_) => drop(tokio::time::timeout(Duration::from_millis(5), self.wal.room_changed()).await),
            }
        };
        self.replica.propose(frame, ticket).await.is_ok()
    }

    /// Gives up the log as far as that may be, and waits until that has happened.
    async fn purge(&self) {
        let Some(upto) = self.replica.purgeable().min(self.replica.snapshot_index()) else { return };
        self.replica.purge(upto).await;
        while self.wal.purged(GROUP).is_none_or(|purged| purged.index < upto) && !self.wal.failed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The bytes of a stream, read back from the log.
    fn read(&self, key: &StreamKey) -> Vec<u8> {
        let state = self.state.borrow();
        let mut bytes = Vec::new();
        for piece in state.stream(key).expect("it is there").pieces_from(0) {
            let Piece::Hot(extent) = piece else { panic!("there is no cold tier") };
            let entry = self.wal.entry(GROUP, extent.index).expect("what is named is not purged");
            let frame = match entry.body {
                EntryBody::Cached(frame, _) => frame,
                EntryBody::Stored(place) => self.wal.reader().read_frame(&place).expect("no damage"),
            };
            let pack = &frame[FRAME_HEADER_BYTES..][extent.pos as usize..][..extent.len as usize];
            bytes.extend_from_slice(&pack[Pack::check(pack).expect("no damage").payload()]);
        }
        bytes
    }
}

fn key(n: u64) -> StreamKey {
    StreamKey::new("b", &format!("s{n}")).expect("a valid key")
}

/// The `step`th batch: a stream comes every eight steps, grows by a kilobyte at a time, and goes when two have followed.
fn frame(step: u64) -> Bytes {
    let (stream, body) = (step / 8, [step as u8; 1000]);
    let (new, gone) = (key(stream), key(stream.saturating_sub(2)));
    let (incarnation, records) = (Incarnation(stream + 1), Records::whole(&body));
    let told = BucketTold::There {
        created_ms: 0,
        fenced: false,
        retention: Retention::default(),
        bindings: EncodedBindings::of(&[0, 0]),
        watches: EncodedWatches::NONE,
    };
    let create = Command::Create {
        key: KeyRef::from(&new),
        incarnation,
        content_type: "text/plain",
        expiry: Expiry::Never,
        closed: false,
        only_new: true,
        bindings_epoch: 0,
        fork: None,
        records,
    };
    let append = Command::Append {
        key: KeyRef::from(&new),
        incarnation,
        close: false,
        producer: None,
        seq: None,
        if_match: None,
        bindings_epoch: 0,
        records,
    };
    let delete =
        Command::Delete { key: KeyRef::from(&gone), incarnation: Incarnation(stream - stream.min(1)), if_match: None };
    let mut builder = BatchBuilder::new(Arena::new(4 << 10).into_buf());
    match step % 8 {
        0 if step == 0 => {
            builder.push(&Command::Bucket { name: "b", epoch: 1, told });
            builder.push(&create);
        }
        0 => builder.push(&create),
        7 => builder.push(&delete),
        _ => builder.push(&append),
    }
    Arena::seal(builder.finish(1, LIMITS))
}

/// What can be seen of a group.
fn view(group: &Group) -> String {
    let mut streams: Vec<String> = (0..SLOTS)
        .flat_map(|slot| group.slot(slot))
        .map(|stream| format!("{} {:?} {:?}", stream.key(), stream.facts(), stream.pieces_from(0).collect::<Vec<_>>()))
        .collect();
    streams.sort();
    format!("{streams:#?} {:?} {:?}", group.applied(), group.bucket("b"))
}

/// What was proposed, and at which index each became an entry.
#[derive(Default)]
struct History {
    indices: Vec<u64>,
    acknowledged: usize,
}

/// Proposes, takes snapshots and purges, until `steps` are done or the power is cut.
async fn live(world: &World, history: &mut History, steps: u64) {
    for step in history.indices.len() as u64..steps {
        history.indices.push(world.replica.standing().last_index + 1);
        if !world.propose(step).await {
            return;
        }
        history.acknowledged = history.indices.len();
        if step % SNAPSHOT_EVERY == SNAPSHOT_EVERY - 1 {
            // Every third one carries what it needs of the log.
            let taken = match step / SNAPSHOT_EVERY % 3 {
                2 => world.replica.take_carrying_snapshot().await,
                _ => world.replica.take_snapshot().await,
            };
            if taken.is_err() {
                return;
            }
            world.purge().await;
        }
    }
}

/// The state is what the proposals up to some entry have made, and all that were acknowledged are among them.
fn check(world: &World, history: &mut History) {
    let applied = world.state.borrow().applied();
    let survived = history.indices.iter().filter(|index| Some(**index) <= applied).count();
    assert!(survived >= history.acknowledged, "{survived} of {} acknowledged", history.acknowledged);
    let (mut model, mut outcomes) = (Group::new(), Vec::new());
    for (step, index) in (0..).zip(&history.indices[..survived]) {
        let frame = frame(step);
        let body_bytes = frame.len() - FRAME_HEADER_BYTES;
        model.apply(1, *index, &frame[FRAME_HEADER_BYTES..][..body_bytes], &mut outcomes).expect("our own bytes");
    }
    assert_eq!(view(&world.state.borrow()), view(&model));
    assert_eq!(world.state.borrow().hot_floor(), model.hot_floor());
    let keys: Vec<String> = (0..SLOTS).flat_map(|slot| model.slot(slot)).map(|s| s.key().to_string()).collect();
    for key in keys {
        let key = StreamKey::parse(&key).expect("a valid key");
        let expected: u64 = model.stream(&key).expect("listed").tail().position;
        assert_eq!(world.read(&key).len() as u64, expected);
    }
    history.indices.truncate(survived);
    history.acknowledged = survived;
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing() {
    let (mut cuts, mut unfinished) = (0, 0);
    for operation in 1.. {
        let mut disk = formed(operation);
        disk.cut_power_at(disk.operations() + operation);
        let mut history = History::default();
        run(async {
            if let Ok(world) = World::begin(&disk).await {
                live(&world, &mut history, STEPS).await;
            }
        });
        if disk.has_power() {
            break;
        }
        cuts += 1;
        disk = disk.crash();
        unfinished += usize::from(disk.list().expect("it can be listed").contains(&format!("{FILE}.partial")));
        // And again while it begins, or soon after.
        disk.cut_power_at(disk.operations() + 1 + operation % 9);
        run(async {
            if let Ok(world) = World::begin(&disk).await {
                check(&world, &mut history);
                live(&world, &mut history, STEPS).await;
            }
        });
        disk = disk.crash();
        run(async {
            let world = World::begin(&disk).await.expect("it begins after a power cut");
            check(&world, &mut history);
            live(&world, &mut history, STEPS).await;
            assert_eq!(history.acknowledged, STEPS as usize, "it goes on");
            check(&world, &mut history);
        });
    }
    assert!(cuts > 100 && unfinished > 5, "{cuts} power cuts, {unfinished} snapshots that were not whole");
}

#[test]
fn a_restart_applies_what_lies_behind_the_snapshot() {
    let mut disk = formed(1);
    let mut history = History::default();
    run(async {
        let world = World::begin(&disk).await.expect("it begins");
        live(&world, &mut history, STEPS).await;
        assert!(world.wal.purged(GROUP).is_some(), "a part of the log is gone");
        check(&world, &mut history);
    });
    for steps in [STEPS + 7, STEPS + 200, STEPS + 201] {
        disk = disk.crash();
        run(async {
            let world = World::begin(&disk).await.expect("it begins");
            assert!(
                world.replica.bytes_since_snapshot() < 2 * SNAPSHOT_EVERY * BLOCK_BYTES as u64,
                "the rest is in the snapshot"
            );
            check(&world, &mut history);
            // Many times what the log may hold.
            live(&world, &mut history, steps).await;
            assert!(world.wal.stats().used_bytes <= CONFIG.budget_bytes);
            check(&world, &mut history);
        });
    }
}

#[test]
fn a_log_without_the_snapshot_that_it_needs_is_no_log() {
    let disk = formed(1);
    run(async {
        let world = World::begin(&disk).await.expect("it begins");
        live(&world, &mut History::default(), STEPS).await;
    });
    let refusal_of = |disk: &FaultyDisk| match run(World::begin(disk)).map(drop).expect_err("it is refused") {
        StartError::Snapshot { source, .. } => source,
        StartError::Stopped { reason, .. } => panic!("{reason}"),
    };
    let refusal = |change: &dyn Fn(&FaultyDisk)| {
        let disk = disk.crash();
        change(&disk);
        refusal_of(&disk)
    };
    let error = refusal(&|disk| disk.remove(FILE).expect("it is there"));
    assert!(error.to_string().contains("the snapshot is missing"), "{error}");
    let error = refusal(&|disk| disk.flip_bit(FILE, 200, 3).expect("it is there"));
    assert!(matches!(error, WalError::Corrupt { .. }), "{error}");
    // One that was taken before the log was purged.
    let older = {
        let disk = formed(1);
        run(async {
            let world = World::begin(&disk).await.expect("it begins");
            live(&world, &mut History::default(), SNAPSHOT_EVERY).await;
        });
        disk.read(FILE).expect("it is there")
    };
    let error = refusal(&|disk| disk.write_atomic(FILE, &older).expect("there is space"));
    assert!(error.to_string().contains("the log begins behind entry"), "{error}");
    // A log that has lost its end, behind its mark.
    let disk = formed(1);
    let mut early = None;
    run(async {
        let world = World::begin(&disk).await.expect("it begins");
        let mut history = History::default();
        live(&world, &mut history, SNAPSHOT_EVERY + 3).await;
        early = Some(disk.copy());
        live(&world, &mut history, SNAPSHOT_EVERY + 6).await;
        world.replica.take_snapshot().await.expect("there is space");
    });
    let early = early.expect("it was copied");
    early.write_atomic(FILE, &disk.read(FILE).expect("it is there")).expect("there is space");
    let error = refusal_of(&early);
    assert!(error.to_string().contains("its end is lost"), "{error}");
}

#[test]
fn a_state_as_of_an_entry_that_cannot_be_is_refused() {
    let (disk, other) = (formed(1), formed(2));
    run(async {
        let world = World::begin(&disk).await.expect("it begins");
        live(&world, &mut History::default(), SNAPSHOT_EVERY).await;
    });
    let wal = Wal::open(Arc::new(other.clone()), CONFIG, Box::new(|| 77)).expect("it was formed");
    let read = |term, index| {
        // The same state, behind another header, with checksums that are right.
        let file = Bytes::from(disk.read(FILE).expect("it is there"));
        let mut reader = SnapshotReader::of_bytes(GROUP, file).expect("it is a snapshot");
        let mut writer = wal.snapshots().begin(GROUP, EntryId { term, index }).expect("there is space");
        while let Some(section) = reader.section().expect("it is whole") {
            writer.section(&section).expect("there is space");
        }
        writer.finish().expect("there is space");
        let file = Bytes::from(other.read(FILE).expect("it is there"));
        read_snapshot(SnapshotReader::of_bytes(GROUP, file).expect("it is a snapshot")).map(|(last, _)| last)
    };
    assert_eq!(read(5, 1000).expect("entries without commands may follow"), EntryId { term: 5, index: 1000 });
    for (term, index) in [(5, 0), (5, u64::MAX), (u64::MAX, 1000), (u64::MAX - 1, u64::MAX - 1)] {
        let error = read(term, index).expect_err("there is no such entry");
        assert!(matches!(error, WalError::Corrupt { .. }), "{error}");
    }
}

#[test]
fn a_snapshot_that_the_disk_refuses_is_taken_later() {
    let disk = formed(1);
    run(async {
        let world = World::begin(&disk).await.expect("it begins");
        let mut history = History::default();
        live(&world, &mut history, SNAPSHOT_EVERY).await;
        let before = world.replica.snapshot_index();
        live(&world, &mut history, SNAPSHOT_EVERY + 3).await;
        disk.set_full(true);
        let error = world.replica.take_snapshot().await.expect_err("the disk is full");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(world.replica.snapshot_index(), before);
        disk.set_full(false);
        world.replica.take_snapshot().await.expect("there is space again");
        assert!(world.replica.snapshot_index() > before);
        live(&world, &mut history, STEPS).await;
        check(&world, &mut history);
    });
}

#[test]
fn a_state_goes_on_in_the_log_of_another_node() {
    let (first, second) = (formed(1), FaultyDisk::new(16 << 20, 2));
    Wal::form(&second, 2).expect("an empty disk");
    let expected = run(async {
        let world = World::begin(&first).await.expect("it begins");
        live(&world, &mut History::default(), SNAPSHOT_EVERY).await;
        view(&world.state.borrow())
    });
    let file = Bytes::from(first.read(FILE).expect("it is there"));
    let (last, expected) = run(async {
        let reader = SnapshotReader::of_bytes(GROUP, file.clone()).expect("it is a snapshot");
        let (last, mut state) = read_snapshot(reader).expect("it is whole");
        assert_eq!(view(&state), expected);
        // Its log is elsewhere.
        assert!(state.forget_log(|| 9, |_| ()).is_empty(), "there are no forks");
        let expected = view(&state);
        let wal = Wal::open(Arc::new(second.clone()), CONFIG, Box::new(|| 77)).expect("it was formed");
        tokio::task::spawn_local(wal.clone().run());
        install(&wal, GROUP, 7, last, state).await.expect("there is space");
        wal.stop();
        wal.stopped().await;
        (last, expected)
    });
    for round in 0..2 {
        run(async {
            let world = World::begin(&second).await.expect("it goes on");
            if round == 0 {
                assert_eq!(view(&world.state.borrow()), expected);
            }
            let standing = world.replica.standing();
            assert!(standing.term > last.term && standing.applied_index > last.index, "{standing:?}");
            // A new stream, for those that are there have other tails than these steps know of.
            assert!(world.propose(80 + 8 * round).await);
            let key = key(10 + round);
            assert_eq!(world.read(&key).len(), 1000);
            world.replica.take_snapshot().await.expect("there is space");
        });
    }
    let other = GroupId(3);
    assert!(matches!(SnapshotReader::of_bytes(other, file), Err(WalError::Foreign { .. })));
}
