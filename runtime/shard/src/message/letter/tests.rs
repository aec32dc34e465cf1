use std::num::NonZeroU64;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use weir_hooks::PublicKey;
use weir_stream::subscription::{Delivery, Link, Subscription, SubscriptionConfig, Turn, Wake};
use weir_stream::{
    Ancestor, Appended, Binding, BucketView, Expiry, Facts, NodeEntry, NodeState, NodeTable, Pattern, ProducerState,
    Refusal, Retention, Revision,
};
use weir_types::{BucketName, Digest, Lineage, Lineages, ModuleName, Offset, ReadFrom, Role, ShardId, StreamKey};
use weir_wasm::GuestBatch;

use super::*;
use crate::message::answer::{
    Answer, ListedStream, Listing, ModuleState, ModuleSummary, Page, Pinned, RecordBatch, SummaryView,
};
use crate::message::body::Body;
use crate::message::error::ShardError;
use crate::message::limit::Limit;
use crate::message::members::{
    Announcement, Following, GroupChange, GroupStanding, GroupStep, MembersAnswer, MembersRequest, NodeChange,
    NodesView,
};
use crate::message::request::{
    AppendRequest, BindingRequest, BucketNews, CreateCondition, CreateRequest, FoldStateRequest, ForkRequest, IfMatch,
    InheritedRequest, ListCursor, ListQuery, PinRequest, Producer, SummaryQuery, TrimRequest,
};
use crate::message::subscription::{
    AckRequest, ClaimedWake, LinkedStream, LinksAsk, LinksRequest, SubscriptionAnswer, SubscriptionAsk,
};

const CALL: CallId = CallId { place: 300, generation: u32::MAX };
const TO: Addressee = Addressee { shard: ShardId(3), life: 1 << 63 };

fn group_step(change: GroupChange) -> Request {
    let voters = vec![[1, 2].into(), [1, 3].into()];
    let step = GroupStep { group: GroupId(2), term: 7, voters, learners: [3].into(), change };
    Request::Members(MembersRequest::Step(Box::new(step)))
}

fn key() -> StreamKey {
    StreamKey::parse("bucket/a/stream").expect("a key")
}

fn offset(position: u64) -> Offset {
    Offset { position, lineage: Lineage::from_bits(77) }
}

fn body() -> Body {
    let mut body = Body::from(Bytes::from_static(b"[1,"));
    body.push(Bytes::from_static(b"2]"));
    body
}

fn facts() -> Facts {
    Facts {
        incarnation: Incarnation(u64::MAX),
        earliest: offset(3),
        next: offset(9),
        lineages: Lineages::new(Some([offset(4), offset(6)].into()), Lineage::from_bits(7)),
        content_type: "application/json".into(),
        closed: true,
        expiry: Expiry::Idle { ttl_s: 60 },
        created_ms: 1 << 41,
    }
}

fn binding() -> Binding {
    Binding {
        name: "check".into(),
        streams: Pattern::new("orders/**").expect("a pattern"),
        module: "builtin:stats".into(),
        digest: Digest([7; 32]),
        role: Role::Validator,
        config: "null".into(),
        epoch: 4,
    }
}

fn revision() -> Revision {
    Revision { number: 2, digest: Digest([1; 32]), bytes: 9, roles: vec![Role::Summary], created_ms: 5, ready: true }
}

fn module() -> ModuleSummary {
    let state = ModuleState::Failed("too large".into());
    ModuleSummary { name: "stats".into(), state, newest: revision(), revisions: vec![revision()] }
}

fn view() -> BucketView {
    let retention = Retention { age_s: NonZeroU64::new(5), bytes: None };
    BucketView { epoch: 1, created_ms: 2, streams: 3, fenced: true, retention }
}

fn inherited() -> InheritedRequest {
    InheritedRequest { key: key(), incarnation: Incarnation(7), range: 4..9, bytes_max: 1 << 20 }
}

fn standing() -> GroupStanding {
    let (voters, learners) = (vec![[1, 2, 3].into(), [1, 2, 4].into()], [4].into());
    let others = vec![Following { node: 2, lag_entries: 1, lag_bytes: 2, heard_ms: Some(3) }];
    GroupStanding { group: 2, leader: 1, term: 9, last_index: 77, voters, learners, others }
}

fn node_table() -> NodeTable {
    let entry = NodeEntry { address: "a:1".into(), disk: 1 << 127, state: NodeState::Leaving };
    NodeTable { epoch: 3, level: 1, nodes: [(4, entry)].into() }
}

/// Every request.
fn requests() -> Vec<Request> {
    let bucket = || BucketName::new("bucket").expect("a bucket");
    let name = || ModuleName::new("stats").expect("a name");
    let news = |bindings| {
        let (name, retention) = ("bucket".into(), Retention::default());
        Arc::new(BucketNews {
            name,
            epoch: 3,
            created_ms: 4,
            fenced: false,
            retention,
            bindings,
            watches: vec![0],
            only: None,
        })
    };
    let encoded = Bytes::from(Binding::encode([&binding()].into_iter()));
    vec![
        Request::Append(
            key(),
            AppendRequest {
                content_type: Some("text/plain".into()),
                close: true,
                producer: Some(Producer { id: "p".into(), epoch: 1, seq: 2 }),
                seq: Some("s".into()),
                if_match: Some(IfMatch::Tails(vec![offset(1), offset(2)])),
                body: body(),
            },
        ),
        Request::Create(
            key(),
            CreateRequest {
                content_type: "text/plain".into(),
                expiry: Expiry::At { at_ms: 7 },
                closed: false,
                body: Body::default(),
                condition: Some(CreateCondition::Matches(IfMatch::Exists)),
            },
        ),
        Request::Fork(
            key(),
            Box::new(ForkRequest {
                source: key(),
                from: ReadFrom::At(offset(4)),
                sub_offset: 2,
                content_type: Some("text/plain".into()),
                expiry: Some(Expiry::Never),
                closed: true,
                body: body(),
                condition: Some(CreateCondition::Absent),
            }),
        ),
        Request::Pin(
            key(),
            Box::new(PinRequest {
                fork: key(),
                fork_incarnation: Incarnation(8),
                from: ReadFrom::Now,
                sub_offset: 0,
                content_type: None,
                until_ms: 1 << 41,
            }),
        ),
        Request::Unpin { key: key(), incarnation: Incarnation(7), fork: Incarnation(8), keeps_pin: true },
        Request::ForkDecide { key: key(), incarnation: Incarnation(8), until_ms: 1 << 41 },
        Request::ReadInherited(inherited(), true),
        Request::InheritedRecords(inherited(), 9),
        Request::FoldState(Box::new(FoldStateRequest {
            key: key(),
            incarnation: Incarnation(7),
            digest: Digest([4; 32]),
            config: "{}".into(),
            range: 0..9,
        })),
        Request::Delete(key(), None),
        Request::Trim(key(), TrimRequest { before: ReadFrom::At(offset(4)), force: true }),
        Request::Head(key()),
        Request::Read { key: key(), from: ReadFrom::Start, bytes_max: 1 << 20, is_live: true },
        Request::Watch { key: key(), number: 12 },
        Request::List {
            group: GroupId(2),
            query: Arc::new(ListQuery {
                bucket: "bucket".into(),
                prefix: "a".into(),
                after: Some(ListCursor(9)),
                limit: 10,
            }),
        },
        Request::Buckets { after: "b".into(), limit: 3 },
        Request::BucketCreate("bucket".into(), Some(Retention::default())),
        Request::BucketDelete("bucket".into()),
        Request::BucketDescribe { group: GroupId(1), name: "bucket".into() },
        Request::BucketTell { group: GroupId(1), news: news(Some(encoded)) },
        Request::BucketTell { group: GroupId(1), news: news(None) },
        Request::ModulePut {
            bucket: bucket(),
            name: name(),
            roles: vec![Role::Validator],
            wasm: Bytes::from_static(b"\0asm"),
        },
        Request::ModuleDelete { bucket: bucket(), name: name() },
        Request::Modules(bucket()),
        Request::ModuleKeep { digest: Digest([7; 32]), wasm: Bytes::from_static(b"\0asm") },
        Request::ModuleBytes(Digest([7; 32])),
        Request::ModuleLoad { bucket: "bucket".into(), digest: Digest([7; 32]) },
        Request::BindingPut(
            bucket(),
            Box::new(BindingRequest {
                name: name(),
                streams: Pattern::new("*").expect("a pattern"),
                module: "stats".into(),
                role: Role::Summary,
                config: "{}".into(),
            }),
        ),
        Request::BindingDelete { bucket: bucket(), name: name() },
        Request::Bindings(bucket()),
        Request::Members(MembersRequest::Standing(GroupId(2))),
        Request::Members(MembersRequest::Transfer { group: GroupId(2), node: 3 }),
        group_step(GroupChange::Transfer { node: 3 }),
        group_step(GroupChange::AddLearner { node: 3 }),
        group_step(GroupChange::RemoveLearner { node: 3 }),
        group_step(GroupChange::Voters([1, 3].into())),
        Request::Members(MembersRequest::Nodes),
        Request::Members(MembersRequest::Keeps { index: 1 << 40 }),
        Request::Members(MembersRequest::Change { node: 4, change: NodeChange::Add { address: "a:1".into() } }),
        Request::Members(MembersRequest::Change { node: 4, change: NodeChange::Remove }),
        Request::Members(MembersRequest::Hear(Box::new(Announcement {
            group: GroupId(0),
            leader: 1,
            term: 9,
            committed: 1 << 40,
            is_member: true,
            nodes: Some(node_table()),
        }))),
        Request::Summary {
            key: key(),
            query: Box::new(SummaryQuery { binding: name(), path: "/".into(), params: vec![("a".into(), "b".into())] }),
        },
        Request::HookKeys,
        Request::PendingNews(vec![("bucket".into(), 7)]),
        subscribe(SubscriptionAsk::Put { config: subscription().config, root: "http://localhost/b".into() }),
        subscribe(SubscriptionAsk::Get),
        subscribe(SubscriptionAsk::Delete),
        subscribe(SubscriptionAsk::Link(["a/b".into()].into(), true)),
        subscribe(SubscriptionAsk::Claim("worker".into())),
        subscribe(SubscriptionAsk::Ack(AckRequest {
            token: "token".into(),
            generation: 3,
            wake: 9,
            acks: vec![("a/b".into(), offset(4))],
            done: true,
        })),
        links(LinksAsk::Pending(4, "a/b".into())),
        links(LinksAsk::All(4)),
        links(LinksAsk::Named(["a/b".into()].into())),
        links(LinksAsk::Ack { acks: vec![("a/b".into(), offset(4))], until_ms: Some(1 << 41) }),
        links(LinksAsk::Now),
    ]
}

fn bucket_name() -> BucketName {
    BucketName::new("bucket").expect("a name")
}

fn subscribe(ask: SubscriptionAsk) -> Request {
    Request::Subscription(bucket_name(), "sub-1".into(), Box::new(ask))
}

fn links(ask: LinksAsk) -> Request {
    Request::Links(GroupId(1), Box::new(LinksRequest { bucket: bucket_name(), number: 5, ask }))
}

fn subscription() -> Subscription {
    Subscription {
        number: 5,
        config: SubscriptionConfig {
            delivery: Delivery::Webhook { url: "https://worker.example/".into() },
            pattern: Some(Pattern::new("orders/**").expect("a pattern")),
            streams: ["a/b".into()].into(),
            lease_ms: 1000,
            description: Some("text".into()),
        },
        root: "http://localhost/b".into(),
        created_ms: 1 << 41,
        explicit: ["a/b".into()].into(),
        generation: 3,
        wake: Some(Wake { id: 9, lease_until_ms: Some(1 << 41), worker: Some("w".into()), is_delivered: true }),
        failures: 1,
        next_attempt_ms: 1 << 41,
    }
}

fn linked() -> LinkedStream {
    let (name, incarnation) = ("a/b".into(), Incarnation(7));
    LinkedStream { name, link: Link::Glob, incarnation, acked: Some(offset(4)), tail: Some(offset(9)) }
}

/// Every answer.
fn answers() -> Vec<Answer> {
    let appended = Appended {
        next: offset(9),
        closed: true,
        producer: Some(ProducerState { epoch: 1, seq: 2 }),
        duplicate: false,
    };
    vec![
        Answer::Appended(appended),
        Answer::Created { facts: facts(), existed: true },
        Answer::Facts(facts()),
        Answer::Watching { facts: facts(), number: 5 },
        Answer::Page(Box::new(Page {
            incarnation: Incarnation(1),
            content_type: "text/plain".into(),
            start: offset(4),
            next: offset(9),
            chunks: vec![Bytes::from_static(b"abc"), Bytes::from_static(b"de")],
            up_to_date: true,
            closed: false,
            expiry: Expiry::Never,
            earliest: offset(0),
        })),
        Answer::Records(Box::new(RecordBatch {
            records: Some(GuestBatch {
                first_offset: 4,
                ends: vec![3, 5],
                times: vec![1 << 41],
                data: Bytes::from_static(b"abcde"),
            }),
            end: 9,
            separator_bytes: 1,
        })),
        Answer::Records(Box::new(RecordBatch { records: None, end: 9, separator_bytes: 0 })),
        Answer::Pinned(Box::new(Pinned {
            source: facts(),
            anchor: 4,
            begin: 4,
            ancestors: vec![Ancestor { key: "bucket/a/stream".into(), incarnation: Incarnation(7), upto: 4 }],
            prefix: Bytes::from_static(b"ab"),
        })),
        Answer::FoldState { position: 4, state: Some(Bytes::from_static(b"state")) },
        Answer::FoldState { position: 0, state: None },
        Answer::ForkDecided { is_there: true },
        Answer::Listed(Listing {
            streams: vec![ListedStream { name: "a".into(), facts: facts() }],
            next: Some(ListCursor(3)),
        }),
        Answer::Bucket(view()),
        Answer::Buckets(vec![("bucket".into(), 7)]),
        Answer::BucketStreams(3),
        Answer::BucketCreated { existed: true },
        Answer::Module { module: Box::new(module()), existed: false },
        Answer::Modules(vec![module()]),
        Answer::ModuleBytes(Bytes::from_static(b"\0asm")),
        Answer::Binding { binding: Arc::new(binding()), existed: true },
        Answer::Bindings(vec![Arc::new(binding())]),
        Answer::View(Box::new(SummaryView {
            incarnation: Incarnation(1),
            epoch: 2,
            from: offset(0),
            next: offset(5),
            lineages: facts().lineages,
            content_type: "text/plain".into(),
            body: Bytes::from_static(b"view"),
            closed: false,
            failed: Some("it trapped".into()),
        })),
        Answer::HookKeys(vec![PublicKey { kid: "ds_a".into(), x: "b".into() }]),
        Answer::Links(vec![linked(), LinkedStream::absent("b")]),
        Answer::Subscription(Box::new(SubscriptionAnswer::Subscription(Box::new(subscription()), true, None))),
        Answer::Subscription(Box::new(SubscriptionAnswer::Acked { next_wake: true })),
        Answer::Subscription(Box::new(SubscriptionAnswer::Claimed(Box::new(ClaimedWake {
            turn: Turn { number: 5, generation: 3, wake: 9 },
            token: "token".into(),
            streams: vec![linked()],
            lease_ms: 1000,
        })))),
        Answer::Members(MembersAnswer::Standing(Box::new(standing()))),
        Answer::Members(MembersAnswer::Refused("no".into())),
        Answer::Members(MembersAnswer::Nodes(Box::new(NodesView {
            table: node_table(),
            heard_ms: vec![(1, 0)],
            levels: vec![(1, 1)],
            waits: vec!["for it".into()],
            is_settled: true,
        }))),
        Answer::Done,
        Answer::Now(1 << 41),
    ]
}

/// Some errors: those with something in them.
fn errors() -> Vec<ShardError> {
    let reason: Arc<str> = "reason".into();
    vec![
        ShardError::Refused(Refusal::ContentTypeMismatch { sent: "a/b".into(), expected: "c/d".into() }),
        ShardError::Refused(Refusal::TailMoved { tail: offset(2) }),
        ShardError::Refused(Refusal::JsonInvalid { reason: "no".into() }),
        ShardError::Limit(Limit::Reads),
        ShardError::Unavailable,
        ShardError::Unknown,
        ShardError::RecordRejected { binding: "b".into(), index: 2, code: "c".into(), message: "m".into() },
        ShardError::ModuleTrapped(reason.clone()),
        ShardError::ModuleInvalid("no".into()),
        ShardError::ModuleFailed { name: "n".into(), reason: "r".into() },
        ShardError::SummaryFailed { at: offset(3), reason: reason.clone() },
        ShardError::Corrupt(reason),
    ]
}

fn advance(closed: bool, removed: bool) -> Letter {
    let payloads: Vec<Bytes> = if removed { Vec::new() } else { vec![Bytes::from_static(b"xyz")] };
    let (start, end) = if removed { (0, 0) } else { (4, 7) };
    let at = tokio::time::Instant::now();
    let advance = Advance { incarnation: Incarnation(9), at, start, end, payloads: payloads.into(), closed, removed };
    Letter::Advanced { to: TO, advance }
}

fn letters() -> VecDeque<Letter> {
    let respond = |response| Letter::Response { to: TO, call: CALL, response };
    let mut letters: VecDeque<Letter> =
        requests().into_iter().map(|request| Letter::Request { call: CALL, request }).collect();
    letters.extend(answers().into_iter().map(|answer| respond(Ok(answer))));
    letters.extend(errors().into_iter().map(|error| respond(Err(error))));
    letters.extend([advance(true, false), advance(false, true)]);
    letters.push_back(Letter::Cancel { group: GroupId(2), call: CALL });
    letters.push_back(Letter::Ended { to: TO, incarnation: Incarnation(4) });
    letters.push_back(Letter::Unwatch { to: TO, incarnation: Incarnation(4), answered: 8 });
    letters
}

fn encode_all(mut letters: VecDeque<Letter>) -> (usize, Vec<Bytes>) {
    let (sent, bodies) = encode(&mut letters, |_| panic!("none is too long"));
    assert!(letters.is_empty(), "they fit one message");
    (sent.len(), bodies)
}

#[test]
fn every_letter_reads_back_as_written() {
    for letter in letters() {
        let written = encode_all([letter].into());
        let read = decode(written.0, written.1.clone()).expect("a letter");
        assert_eq!(encode_all(read.into()), written);
    }
    let written = encode_all(letters());
    let read = decode(written.0, written.1.clone()).expect("letters");
    assert_eq!(encode_all(read.into()), written);
}

#[test]
fn bodies_are_not_copied() {
    let wasm = Bytes::from(vec![7; 1000]);
    let request = Request::ModulePut {
        bucket: BucketName::new("b").expect("a bucket"),
        name: ModuleName::new("m").expect("a name"),
        roles: Vec::new(),
        wasm: wasm.clone(),
    };
    let (_, bodies) = encode_all([Letter::Request { call: CALL, request }].into());
    assert_eq!((bodies[1].as_ptr(), bodies[1].len()), (wasm.as_ptr(), wasm.len()));
    assert!(bodies[0].len() < 100);
}

#[test]
fn a_message_takes_what_fits_and_the_rest_comes_next() {
    let request = |bytes: usize| {
        let body = Body::from(Bytes::from(vec![b'x'; bytes]));
        Letter::Request { call: CALL, request: Request::Append(key(), AppendRequest { body, ..Default::default() }) }
    };
    let mut letters: VecDeque<Letter> = (0..5).map(|_| request(600 << 10)).collect();
    let sent = |letters: &mut VecDeque<Letter>| encode(letters, |_| None).0.len();
    assert_eq!([(); 4].map(|()| sent(&mut letters)), [2, 2, 1, 0]);
    letters.extend((0..2 * LETTERS_MAX).map(|_| request(1)));
    assert_eq!([(); 3].map(|()| sent(&mut letters)), [LETTERS_MAX, LETTERS_MAX, 0]);
}

#[test]
fn what_is_too_long_is_refused_and_its_refusal_sent() {
    let name: Box<str> = "n".repeat(1000).into();
    let buckets = Answer::Buckets((0..10_000).map(|_| (name.clone(), 1)).collect());
    let mut letters: VecDeque<Letter> = [Letter::Response { to: TO, call: CALL, response: Ok(buckets) }].into();
    let refused = |letter| match letter {
        Letter::Response { to, call, .. } => {
            Some(Letter::Response { to, call, response: Err(ShardError::Unavailable) })
        }
        _ => None,
    };
    let (sent, bodies) = encode(&mut letters, refused);
    let read = decode(sent.len(), bodies).expect("a letter");
    assert!(matches!(&read[..], [Letter::Response { response: Err(ShardError::Unavailable), .. }]));
}

#[test]
fn what_this_node_would_not_send_is_not_taken() {
    let response = |answer| Letter::Response { to: TO, call: CALL, response: Ok(answer) };
    let page = |bytes: &'static [u8]| {
        let mut answers = answers();
        let Answer::Page(mut page) = answers.remove(4) else { panic!("it is a page") };
        page.chunks = vec![Bytes::from_static(bytes)];
        response(Answer::Page(page))
    };
    let facts = |content_type: &str| response(Answer::Facts(Facts { content_type: content_type.into(), ..facts() }));
    let out_of_order = || Lineages::new(Some([offset(6), offset(4)].into()), Lineage::from_bits(7));
    let forked = Facts { lineages: out_of_order(), ..self::facts() };
    let view = answers().into_iter().find_map(|answer| match answer {
        Answer::View(view) => Some(SummaryView { lineages: out_of_order(), ..*view }),
        _ => None,
    });
    let request = |request| Letter::Request { call: CALL, request };
    let members = |standing: GroupStanding| response(Answer::Members(MembersAnswer::Standing(Box::new(standing))));
    let producer = Some(Producer { id: "".into(), epoch: 0, seq: 0 });
    let append = AppendRequest { producer, body: body(), ..AppendRequest::default() };
    let wrong = [
        page(b"four"),
        facts("text/plain\r\nSet-Cookie: a"),
        facts(&"x".repeat(256)),
        response(Answer::Facts(forked)),
        response(Answer::View(Box::new(view.expect("there is one")))),
        request(Request::Append(key(), append)),
        request(Request::Append(key(), AppendRequest::default())),
        request(Request::BucketDelete("No Bucket".into())),
        request(group_step(GroupChange::AddLearner { node: 0 })),
        request(group_step(GroupChange::Voters([].into()))),
        request(links(LinksAsk::All(1025))),
        request(links(LinksAsk::Pending(0, "".into()))),
        request(links(LinksAsk::Pending(4, "/".into()))),
        members(GroupStanding { voters: Vec::new(), ..standing() }),
        members(GroupStanding { voters: vec![[].into()], ..standing() }),
        members(GroupStanding { leader: 0, ..standing() }),
        advance_of(5, 4, &[]),
        advance_of(4, 9, &[b"xyz"]),
        advance_of(4, 4, &[b""]),
    ];
    for (at, letter) in wrong.into_iter().enumerate() {
        let (count, bodies) = encode_all([letter].into());
        assert!(decode(count, bodies).is_err(), "number {at}");
    }
    let (count, bodies) = encode_all([page(b"fiver")].into());
    assert!(decode(count, bodies.clone()).is_ok(), "this page is whole");
    assert!(decode(count + 1, bodies.clone()).is_err(), "there is no other letter");
    assert!(decode(count, bodies[..1].to_vec()).is_err(), "a part is missing");
    assert!(decode(count, [&bodies[..], &bodies[1..]].concat()).is_err(), "a part is too many");
    assert!(decode(0, bodies).is_err() && decode(0, Vec::new()).is_ok(), "nothing is nothing");
}

fn advance_of(start: u64, end: u64, payloads: &[&'static [u8]]) -> Letter {
    let payloads = payloads.iter().copied().map(Bytes::from_static).collect();
    let at = tokio::time::Instant::now();
    let advance = Advance { incarnation: Incarnation(9), at, start, end, payloads, closed: false, removed: false };
    Letter::Advanced { to: TO, advance }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_letters_or_some_that_read_back(
        count in 0..40usize,
        text in vec(any::<u8>(), 0..300),
        parts in vec(vec(any::<u8>(), 0..20), 0..6),
    ) {
        let bodies = [text].into_iter().chain(parts).map(Bytes::from).collect();
        if let Ok(read) = decode(count, bodies) {
            let (count, bodies) = encode_all(read.into());
            prop_assert!(decode(count, bodies).is_ok());
        }
    }

    #[test]
    fn damaged_letters_are_refused_or_read_and_never_end_the_process(
        which in any::<prop::sample::Index>(),
        flips in vec((any::<prop::sample::Index>(), 0..8u8), 0..4),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut letters = letters();
        let letter = letters.swap_remove_back(which.index(letters.len())).expect("there is one");
        let (count, mut bodies) = encode_all([letter].into());
        let mut text = bodies[0].to_vec();
        for (at, bit) in flips {
            let at = at.index(text.len());
            text[at] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            text.truncate(cut.index(text.len()));
        }
        bodies[0] = text.into();
        if let Ok(read) = decode(count, bodies) {
            let (count, bodies) = encode_all(read.into());
            prop_assert!(decode(count, bodies).is_ok());
        }
    }
}
