//! Our own bytes: what is written reads back, and nothing else is believed.

use std::num::NonZeroU64;

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use weir_stream::subscription::{
    Ack, Delivery, EncodedAcks, EncodedConfig, EncodedNames, EncodedWatches, HookSeed, SubscriptionConfig,
    SubscriptionStep, Turn,
};
use weir_stream::{
    Ancestor, Batch, BatchBuilder, Binding, BucketStep, BucketTold, ChunkId, CodecError, Command, EncodedBindings,
    EncodedFork, EncodedFounders, EncodedParts, Expiry, Fork, ForkPoint, Group, Limits, NewFork, NodeStep, Outcome,
    Pack, Part, Pattern, ProducerRef, Records, Retention, Split, Upload, frame_bytes_max, packs,
};
use weir_types::limits::FORMAT_LEVEL;
use weir_types::{Digest, Incarnation, Lineage, Lineages, Offset, Role, StreamKey};

const LIMITS: Limits = Limits { producers_max: 7 };

/// A command's fields, owned.
#[derive(Clone, Debug)]
struct Fields {
    kind: u8,
    key: StreamKey,
    text: String,
    number: u64,
    epoch: u64,
    bindings: Vec<u8>,
    parts: Vec<u8>,
    fork: Vec<u8>,
    acks: Vec<u8>,
    names: Vec<u8>,
    founders: Vec<u8>,
    config: Vec<u8>,
    flag: bool,
    expiry: Expiry,
    producer: Option<(String, u64, u64)>,
    seq: Option<String>,
    if_match: Option<Offset>,
    body: Vec<u8>,
    split: Split,
}

impl Fields {
    fn command(&self) -> Command<'_> {
        let key = (&self.key).into();
        let incarnation = Incarnation(self.number);
        let name = self.key.bucket();
        let word = self.text.get(..8).unwrap_or("word");
        let records = Records::new(&self.body, &self.split);
        match self.kind {
            0 => Command::Create {
                key,
                incarnation,
                content_type: &self.text,
                expiry: self.expiry,
                closed: self.flag,
                only_new: self.number % 2 == 1,
                bindings_epoch: self.epoch,
                fork: (self.epoch % 2 == 1).then_some(EncodedFork::of(&self.fork)),
                records,
            },
            1..=3 => Command::Append {
                key,
                incarnation,
                close: self.flag,
                producer: self.producer.as_ref().map(|(id, epoch, seq)| ProducerRef { id, epoch: *epoch, seq: *seq }),
                seq: self.seq.as_deref(),
                if_match: self.if_match,
                bindings_epoch: self.epoch,
                records,
            },
            4 => Command::Delete { key, incarnation, if_match: self.if_match },
            5 => Command::Expire { key, incarnation },
            6 if self.flag => {
                let told = BucketTold::Watch { after: self.number, number: 1, watches: EncodedWatches::NONE };
                Command::Bucket { name, epoch: self.epoch, told }
            }
            6 => Command::Bucket { name, epoch: self.epoch, told: BucketTold::Gone },
            7..=9 => Command::Bucket {
                name,
                epoch: self.epoch,
                told: BucketTold::There {
                    created_ms: self.number,
                    fenced: self.flag,
                    retention: self.retention(),
                    bindings: EncodedBindings::of(&self.bindings),
                    watches: EncodedWatches::NONE,
                },
            },
            10 => Command::MetaForm { groups: (self.number as u16).max(1) },
            11 => Command::MetaBucket { name, step: BucketStep::Create },
            12 => Command::MetaBucket { name, step: BucketStep::Delete },
            13 => Command::MetaBucket { name, step: BucketStep::Keep },
            14 => Command::MetaBucket { name, step: BucketStep::Drop },
            15 => Command::MetaBucket { name, step: BucketStep::Forget },
            16 => {
                let roles: &[Role] = if self.flag { &Role::ALL } else { &[Role::Summary] };
                let upload = Upload { digest: Digest([self.number as u8; 32]), bytes: self.number, roles };
                Command::MetaModulePut { bucket: name, name: word, upload }
            }
            17 => Command::MetaModuleReady { bucket: name, name: word, digest: Digest([self.number as u8; 32]) },
            18 => {
                let digest = Digest([self.number as u8; 32]);
                Command::MetaModuleFailed { bucket: name, name: word, digest, reason: &self.text }
            }
            19 => Command::MetaModuleDelete { bucket: name, name: word },
            20 => Command::MetaBindingPut { bucket: name, binding: EncodedBindings::of(&self.bindings) },
            21 => Command::Flush {
                chunk: ChunkId { term: self.epoch, number: self.number as u32, nonce: 5 },
                bytes: self.number,
                crc: self.epoch as u32,
                times: (self.number, self.epoch),
                parts: EncodedParts::of(&self.parts),
            },
            22 => Command::Trim { key, incarnation, before: self.epoch, force: self.flag },
            24 => Command::Pin {
                key,
                incarnation,
                fork: key,
                fork_incarnation: Incarnation(self.epoch),
                upto: self.epoch,
                until_ms: self.number >> 1,
            },
            25 => Command::PinSettle { key, incarnation, fork: Incarnation(self.epoch) },
            26 => Command::Unpin { key, incarnation, fork: Incarnation(self.epoch), keeps_pin: self.flag },
            27 => Command::ForkDecide { key, incarnation, until_ms: self.epoch >> 1 },
            28 => Command::ForkReleased { incarnation, keeps_pin: self.flag },
            29 => Command::Ack {
                bucket: name,
                number: self.number,
                until_ms: self.epoch,
                acks: EncodedAcks::of(&self.acks),
            },
            30..=41 => Command::MetaSubscription { bucket: name, id: "sub-1", step: self.step() },
            42 => Command::MetaHookKey { seed: HookSeed([self.number as u8; 32]), after_ms: self.epoch },
            43 => {
                let disk = u128::from(self.number) << 64 | 1;
                let steps = [
                    NodeStep::Add { address: &self.text },
                    NodeStep::Met { disk },
                    NodeStep::Drain,
                    NodeStep::Undrain,
                    NodeStep::Remove,
                    NodeStep::Gone,
                ];
                Command::MetaNode { node: self.epoch.max(1), step: steps[(self.number % 6) as usize] }
            }
            45 => Command::MetaLevel { level: FORMAT_LEVEL },
            44 => Command::MetaFounders { founders: EncodedFounders::of(&self.founders) },
            23 => Command::MetaRetention { bucket: name, retention: self.retention() },
            _ => Command::MetaBindingDelete { bucket: name, name: word },
        }
    }

    fn step(&self) -> SubscriptionStep<'_> {
        let turn = Turn { number: self.number, generation: self.epoch, wake: self.number };
        let names = EncodedNames::of(&self.names);
        match self.kind {
            30 => SubscriptionStep::Put { config: EncodedConfig::of(&self.config), root: &self.text },
            31 => SubscriptionStep::Delete,
            32 => SubscriptionStep::Link { names },
            33 => SubscriptionStep::Unlink { names },
            34 => SubscriptionStep::Wake { number: self.number, wake: self.epoch, worker: None },
            35 => SubscriptionStep::Wake { number: self.number, wake: self.epoch, worker: Some(&self.text) },
            36 => SubscriptionStep::Claim { turn, worker: &self.text },
            37 => SubscriptionStep::Extend(turn),
            38 => SubscriptionStep::Delivered(turn),
            39 => SubscriptionStep::Failed { turn, retry_ms: self.number % 1000 },
            _ => SubscriptionStep::End(turn),
        }
    }

    fn retention(&self) -> Retention {
        Retention { age_s: NonZeroU64::new(self.epoch), bytes: NonZeroU64::new(self.number % 3) }
    }

    fn has_payload(&self) -> bool {
        self.kind <= 3
    }

    /// The payload and the record ends that should be stored.
    fn stored(&self) -> (Vec<u8>, Vec<u32>) {
        let (mut payload, mut ends) = (Vec::new(), Vec::new());
        match &self.split {
            _ if !self.has_payload() => {}
            Split::Whole if self.body.is_empty() => {}
            Split::Whole => {
                payload.extend_from_slice(&self.body);
                ends.push(payload.len() as u32);
            }
            Split::Json(messages) => {
                for message in messages {
                    payload.extend_from_slice(&self.body[message.start as usize..message.end as usize]);
                    payload.push(b',');
                    ends.push(payload.len() as u32);
                }
            }
        }
        (payload, ends)
    }
}

fn fields() -> impl Strategy<Value = Fields> {
    let key = ("[a-z0-9][a-z0-9_-]{0,20}", "[a-zé]{1,20}(/[a-z]{1,5}){0,3}");
    let key = key.prop_filter_map("reserved", |(bucket, name)| StreamKey::new(&bucket, &name).ok());
    let expiry = prop_oneof![
        Just(Expiry::Never),
        any::<u64>().prop_map(|ttl_s| Expiry::Idle { ttl_s }),
        any::<u64>().prop_map(|at_ms| Expiry::At { at_ms }),
    ];
    let offset = (any::<u64>(), any::<u64>())
        .prop_map(|(position, bits)| Offset { position, lineage: Lineage::from_bits(bits) });
    let body = vec(any::<u8>(), 0..40).prop_flat_map(|body| {
        let cuts = vec(0..=body.len() as u32, 0..8);
        (Just(body), any::<bool>(), cuts)
    });
    let rest = (expiry, proptest::option::of(("\\PC{1,60}", any::<u64>(), any::<u64>())));
    let more = (proptest::option::of("\\PC{0,60}"), proptest::option::of(offset), body);
    let numbers = (any::<u64>(), prop_oneof![Just(0), any::<u64>()]);
    (0..46u8, key, "[ -~]{0,255}", numbers, any::<bool>(), rest, more).prop_map(
        |(kind, key, text, (number, epoch), flag, (expiry, producer), (seq, if_match, (body, json, mut cuts)))| {
            cuts.sort_unstable();
            let split =
                if json { Split::Json(cuts.windows(2).map(|cut| cut[0]..cut[1]).collect()) } else { Split::Whole };
            let bindings = bindings(if kind == 20 { 1 } else { number % 4 }, &text);
            let part = |n: u64| Part {
                key: (&key).into(),
                incarnation: Incarnation(number),
                range: n..n + 1 + (number >> 1),
                at: epoch as u32,
            };
            let parts = Part::encode(&(0..number % 3).map(part).collect::<Vec<_>>());
            let fork = fork(&key, number, epoch).encode();
            let name = || Box::<str>::from(key.name());
            let ack = |n| Ack { name: name(), incarnation: Incarnation(n), position: epoch };
            let acks = EncodedAcks::encode(&(0..number % 3).map(ack).collect::<Vec<_>>());
            let all = [name(), "other".into()].into_iter().collect();
            let names = EncodedNames::encode(&all);
            let address = |n: u64| (n, Box::<str>::from(text.as_str()));
            let founders = EncodedFounders::encode(&(1..=1 + number % 3).map(address).collect());
            let delivery = match flag {
                true => Delivery::Webhook { url: "https://a.example/hook".into() },
                false => Delivery::PullWake { wake_stream: name() },
            };
            let pattern = (number % 2 == 0).then(|| Pattern::new("orders/**").expect("a pattern"));
            let (lease_ms, description) = (1000 + number % 1000, Some(text.as_str().into()));
            let config = SubscriptionConfig { delivery, pattern, streams: all, lease_ms, description }.encode();
            Fields {
                kind,
                key,
                text,
                number,
                epoch,
                bindings,
                parts,
                fork,
                acks,
                names,
                founders,
                config,
                flag,
                expiry,
                producer,
                seq,
                if_match,
                body,
                split,
            }
        },
    )
}

/// A fork of a stream of that name.
fn fork(key: &StreamKey, number: u64, epoch: u64) -> NewFork {
    let ancestor =
        |n: u64| Ancestor { key: key.as_str().into(), incarnation: Incarnation(n), upto: (n + 1) * (1 + (epoch >> 3)) };
    let ancestors: Vec<Ancestor> = (0..number % 4).map(ancestor).collect();
    let begin = ancestors.last().map_or(0, |last| last.upto);
    let fork = Fork {
        source: key.as_str().into(),
        source_incarnation: Incarnation(number),
        point: [ForkPoint::Tail, ForkPoint::Start, ForkPoint::At][(number % 3) as usize],
        anchor: epoch,
        sub_offset: number,
        inherits_expiry: number.is_multiple_of(2),
        begin,
        ancestors,
        lineages: Lineages::new(None, Lineage::from_bits(number)).inherited_by(0, begin),
    };
    NewFork { fork, base: 0, until_ms: epoch >> 1 }
}

/// So many bindings, encoded.
fn bindings(count: u64, config: &str) -> Vec<u8> {
    let binding = |n: u64| Binding {
        name: format!("binding-{n}").into(),
        streams: Pattern::new("orders/**").expect("a pattern"),
        module: "builtin:stats".into(),
        digest: Digest([n as u8; 32]),
        role: Role::ALL[n as usize % 2],
        config: config.into(),
        epoch: n,
    };
    let bindings: Vec<Binding> = (0..count).map(binding).collect();
    Binding::encode(bindings.iter())
}

fn build(all: &[Fields], before: usize, time_ms: u64) -> BytesMut {
    let mut builder = BatchBuilder::new(BytesMut::zeroed(before));
    for fields in all {
        let bytes = builder.bytes();
        builder.push(&fields.command());
        assert_eq!(builder.bytes() - bytes, BatchBuilder::frame_bytes(&fields.command()));
    }
    assert_eq!(builder.commands(), all.len());
    let bytes = builder.bytes();
    let buf = builder.finish(time_ms, LIMITS);
    assert_eq!(buf.len(), before + bytes);
    buf
}

proptest! {
    #[test]
    fn what_is_written_reads_back(all in vec(fields(), 0..6), before in 0..80usize, time_ms: u64) {
        let buf = build(&all, before, time_ms);
        prop_assert!(buf[..before].iter().all(|byte| *byte == 0), "what was there before is left alone");
        let bytes = &buf[before..];
        let batch = Batch::read(bytes).expect("our own bytes");
        prop_assert_eq!((batch.time_ms, batch.limits), (time_ms, LIMITS));

        let mut again = BatchBuilder::new(BytesMut::new());
        let mut frames = Vec::new();
        for item in batch.commands() {
            let (frame, command) = item.expect("our own bytes");
            again.push(&command);
            let stored = match command {
                Command::Create { records, .. } | Command::Append { records, .. } => records.packs(),
                _ => &[],
            };
            frames.push((frame, stored, format!("{command:?}")));
        }
        prop_assert_eq!(&again.finish(time_ms, LIMITS)[..], bytes);
        prop_assert_eq!(frames.len(), all.len());
        for (fields, (frame, stored, debug)) in all.iter().zip(frames) {
            prop_assert_eq!(format!("{:?}", fields.command()), debug);
            let frame = &bytes[frame.pos as usize..][..frame.len as usize];
            prop_assert!(frame.ends_with(stored), "packs are the frame's last bytes");
            let (payload, ends) = fields.stored();
            prop_assert_eq!(packs(stored).count(), usize::from(!payload.is_empty()), "these are small");
            for bytes in packs(stored) {
                let bytes = bytes.expect("our own bytes");
                let pack = Pack::check(bytes).expect("our own bytes");
                prop_assert_eq!(&bytes[pack.payload()], &payload[..]);
                prop_assert_eq!(pack.count(), ends.len());
                prop_assert_eq!(pack.record_ends().collect::<Vec<_>>(), ends.clone());
            }
        }
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(pack) = Pack::read(&bytes) {
            let _ = pack.record_ends().count();
            let _ = pack.cut(3, 10);
        }
        let _ = Pack::check(&bytes);
        let _ = packs(&bytes).count();
        let _ = read_all(&bytes);
    }

    /// Checksums are not looked at by apply, so this reaches every check behind them.
    #[test]
    fn damaged_batches_never_panic(
        all in vec(fields(), 1..5),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = build(&all, 0, 1).to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = read_all(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(read_all(&bytes).is_err(), "a batch cut short is noticed");
    }
}

/// Decodes a batch, and applies it too where that is possible.
fn read_all(bytes: &[u8]) -> Result<(), CodecError> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut group = Group::new();
    let applied = group.apply(1, 1, bytes, &mut outcomes);
    let decoded = Batch::read(bytes).and_then(|batch| batch.commands().try_for_each(|item| item.map(|_| ())));
    assert_eq!(applied, decoded, "apply fails where decoding does");
    decoded
}

#[test]
fn a_huge_record_count_is_refused_without_allocating() {
    let key = StreamKey::new("b", "s").expect("a valid name");
    let split = Split::Whole;
    let append = Command::Append {
        key: (&key).into(),
        incarnation: Incarnation(1),
        close: false,
        producer: None,
        seq: None,
        if_match: None,
        bindings_epoch: 0,
        records: Records::new(b"x", &split),
    };
    let mut builder = BatchBuilder::new(BytesMut::new());
    builder.push(&append);
    let mut bytes = builder.finish(1, LIMITS).to_vec();
    let count_at = bytes.len() - 1 - 4;
    bytes[count_at..count_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(read_all(&bytes), Err(CodecError::Truncated("record ends")));
}

#[test]
fn the_largest_frame_is_foreseen() {
    let key = StreamKey::new(&"b".repeat(64), &"n".repeat(1024)).expect("a valid name");
    let long = "x".repeat(255);
    for messages in [0, 1, 2, 1000] {
        let body = format!("[{}]", vec!["1"; messages].join(","));
        let split = Split::json(body.as_bytes()).expect("JSON");
        let append = Command::Append {
            key: (&key).into(),
            incarnation: Incarnation(1),
            close: true,
            producer: Some(ProducerRef { id: &long, epoch: 1, seq: 1 }),
            seq: Some(&long),
            if_match: Some(Offset { position: 1, lineage: Lineage::from_bits(1) }),
            bindings_epoch: u64::MAX,
            records: Records::new(body.as_bytes(), &split),
        };
        assert!(BatchBuilder::frame_bytes(&append) <= frame_bytes_max(body.len()), "{messages}");
    }
}

#[test]
fn a_later_version_is_named() {
    assert_eq!(read_all(&[9; 40]), Err(CodecError::Version(9)));
}

#[test]
fn the_format_is_pinned() {
    // What is in existing logs must read the same forever: a change here needs another version.
    let key = StreamKey::new("b", "s").expect("a valid name");
    let mut builder = BatchBuilder::new(BytesMut::new());
    builder.push(&Command::Append {
        key: (&key).into(),
        incarnation: Incarnation(0x0102_0304_0506_0708),
        close: true,
        producer: Some(ProducerRef { id: "p", epoch: 2, seq: 3 }),
        seq: Some("q"),
        if_match: Some(Offset { position: 4, lineage: Lineage::from_bits(5) }),
        bindings_epoch: 0,
        records: Records::new(b"[1,22]", &Split::Json([1..2, 3..5].into_iter().collect())),
    });
    let bytes = Bytes::from(builder.finish(0x0a0b, LIMITS));
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    expect_test::expect!["020001000b0a000000000000070000004c000000020300622f7308070605040302010f01700200000000000000030000000000000001710400000000000000050000000000000011000000a035d50c020000000200000005000000312c32322c"].assert_eq(&hex);
}
