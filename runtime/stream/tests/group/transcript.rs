//! What each request is answered, as text: a script of requests in, one answer each out.

use std::num::NonZeroU64;

use crate::world::World;
use expect_test::{Expect, expect};
use weir_stream::subscription::EncodedWatches;
use weir_stream::{
    Appended, Binding, BucketStep, BucketTold, Change, Command, EncodedBindings, Expiry, Facts, Group, Look, Pattern,
    ProducerRef, Records, Refusal, Reply, Retention, Split, Upload,
};
use weir_types::{Digest, Incarnation, Lineage, Offset, ReadFrom, Role, StreamKey};

/// Runs a script of requests separated by `|` in bucket `b`, and compares the answers.
///
/// `put /s type=T 'body' close ttl=S until=MS`, `post /s type=T 'body' close producer=ID:EPOCH:SEQ seq=X if=POSITION`
/// (`if=gone` is a token of another life), `delete /s`, `expire /s`, `trim /s before=POSITION force`, `read /s from=POSITION`,
/// `list PREFIX`,
/// `bucket STATE NAME epoch=N`, `meta STEP NAME`, `time MS`, `producers MAX`, `streams`; `module`, `bind`, `unbind` and
/// `bound` are
/// described where they are. The type is `text/plain` where not given; writes are checked under `epoch=N`, 0 if not given.
fn check(script: &str, expected: Expect) {
    let mut run = Run { world: World::new(), time_ms: 1000, lives: 0 };
    let told = BucketTold::There {
        created_ms: 1000,
        fenced: false,
        retention: Retention::default(),
        bindings: EncodedBindings::of(&[0, 0]),
        watches: EncodedWatches::NONE,
    };
    run.world.apply(1000, &Command::Bucket { name: "b", epoch: 1, told });
    let answers: Vec<String> = script.split('|').map(|step| run.step(step.trim())).collect();
    expected.assert_eq(&answers.join(" | "));
    run.world.check_replay();
}

struct Run {
    world: World,
    time_ms: u64,
    lives: u64,
}

/// The words of one step.
struct Words<'a> {
    verb: &'a str,
    name: &'a str,
    rest: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn option(&self, name: &str) -> Option<&'a str> {
        self.rest.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.option(name).map(|text| text.parse().expect("a number"))
    }

    /// The tail that is expected of this life, if one is.
    fn tail(&self, incarnation: Incarnation) -> Option<Offset> {
        self.option("if").map(|text| match text {
            "gone" => Offset { position: 0, lineage: Lineage::from_bits(99) },
            text => Offset { position: text.parse().expect("a number"), lineage: Lineage::of(incarnation) },
        })
    }

    fn body(&self) -> &'a str {
        self.rest.iter().find_map(|word| word.strip_prefix('\'')?.strip_suffix('\'')).unwrap_or("")
    }

    fn has(&self, word: &str) -> bool {
        self.rest.contains(&word)
    }

    fn key(&self) -> StreamKey {
        StreamKey::new("b", self.name.trim_start_matches('/')).expect("a valid name")
    }
}

impl Run {
    fn step(&mut self, step: &str) -> String {
        let mut words = step.split_whitespace();
        let words = Words {
            verb: words.next().expect("a verb"),
            name: words.next().unwrap_or_default(),
            rest: words.collect(),
        };
        match words.verb {
            "put" => self.put(&words),
            "post" => self.post(&words),
            "delete" | "expire" | "trim" => {
                let key = words.key();
                let incarnation = self.world.group.stream(&key).map_or(Incarnation(0), |stream| stream.incarnation());
                let incarnation = if words.has("stale") { Incarnation(99) } else { incarnation };
                let (key, if_match) = ((&key).into(), words.tail(incarnation));
                self.run(&match words.verb {
                    "delete" => Command::Delete { key, incarnation, if_match },
                    "trim" => {
                        let before = words.number("before").expect("a position");
                        Command::Trim { key, incarnation, before, force: words.has("force") }
                    }
                    _ => Command::Expire { key, incarnation },
                })
            }
            "read" => self.read(&words),
            "list" => self.list(&words),
            "bucket" | "meta" => self.bucket(&words),
            "module" => self.module(&words),
            "bind" | "unbind" => self.bind(&words),
            "bound" => self.bound(&words),
            "time" => {
                self.time_ms = words.name.parse().expect("a number");
                "-".to_string()
            }
            "producers" => {
                self.world.producers_max = words.name.parse().expect("a number");
                "-".to_string()
            }
            "streams" => {
                let group = &self.world.group;
                let (indexed, expirable) = (group.index_bytes() > 0, group.has_expirable());
                format!("{} indexed={indexed} expirable={expirable}", group.streams())
            }
            verb => panic!("no verb {verb}"),
        }
    }

    fn run(&mut self, command: &Command<'_>) -> String {
        let outcome = self.world.apply(self.time_ms, command);
        if let Change::Advanced { start, end, closed, .. } = outcome.change {
            assert!(end > start || closed, "an advance without an effect");
        }
        match outcome.change {
            Change::Removed { .. } => format!("{} removed", render(&outcome.reply)),
            _ => render(&outcome.reply),
        }
    }

    fn put(&mut self, words: &Words<'_>) -> String {
        self.lives += 1;
        let content_type = words.option("type").unwrap_or("text/plain");
        let body = words.body().as_bytes();
        let split = match Group::check_create(content_type, body, None) {
            Ok(split) => split,
            Err(refusal) => return refused(&refusal),
        };
        let idle = words.number("ttl").map(|ttl_s| Expiry::Idle { ttl_s });
        let until = words.number("until").map(|at_ms| Expiry::At { at_ms });
        self.run(&Command::Create {
            key: (&words.key()).into(),
            incarnation: Incarnation(self.lives),
            content_type,
            expiry: idle.or(until).unwrap_or(Expiry::Never),
            closed: words.has("close"),
            only_new: words.has("new"),
            bindings_epoch: words.number("epoch").unwrap_or(0),
            fork: None,
            records: Records::new(body, &split),
        })
    }

    fn post(&mut self, words: &Words<'_>) -> String {
        let key = words.key();
        let producer = words.option("producer").map(|text| {
            let mut parts = text.split(':');
            let id = parts.next().expect("an id");
            let mut number = || parts.next().expect("a number").parse().expect("a number");
            ProducerRef { id, epoch: number(), seq: number() }
        });
        let content_type = match words.option("type") {
            Some("none") => None,
            given => Some(given.unwrap_or("text/plain")),
        };
        let body = words.body().as_bytes();
        let close = words.has("close");
        let (incarnation, split) = match self.world.group.check_append(&key, content_type, close, producer, body, None)
        {
            Ok(Look::Propose { incarnation, split }) => (incarnation, split),
            Ok(Look::Answer(appended)) => return format!("early {}", render(&Reply::Appended(appended))),
            Err(refusal) => return format!("early {}", refused(&refusal)),
        };
        let if_match = words.tail(incarnation);
        let records = Records::new(body, &split);
        let incarnation = if words.has("stale") { Incarnation(99) } else { incarnation };
        let seq = words.option("seq");
        let key = (&key).into();
        let bindings_epoch = words.number("epoch").unwrap_or(0);
        self.run(&Command::Append { key, incarnation, close, producer, seq, if_match, bindings_epoch, records })
    }

    fn read(&mut self, words: &Words<'_>) -> String {
        let key = words.key();
        let Some(stream) = self.world.group.stream(&key) else { return "none".to_string() };
        let from = match words.option("from") {
            None => ReadFrom::Start,
            Some("now") => ReadFrom::Now,
            Some("gone") => ReadFrom::At(Offset { position: 0, lineage: Lineage::from_bits(99) }),
            Some(text) => ReadFrom::At(stream.offset(text.parse().expect("a number"))),
        };
        match stream.check_offset(from) {
            Err(refusal) => refused(&refusal),
            Ok(position) => {
                let records = self.world.records(&key, position);
                let texts: Vec<String> = records.iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect();
                format!("[{}]", texts.join(" "))
            }
        }
    }

    fn list(&mut self, words: &Words<'_>) -> String {
        let prefix = words.name.trim_start_matches('/');
        let streams = (0..weir_types::limits::SLOTS).flat_map(|slot| self.world.group.slot(slot));
        let mut names: Vec<&str> = streams.filter_map(|stream| stream.name_in("b")).collect();
        names.retain(|name| name.starts_with(prefix));
        names.sort_unstable();
        names.join(" ")
    }

    fn bucket(&mut self, words: &Words<'_>) -> String {
        let name = words.rest.first().copied().unwrap_or_default();
        let command = match (words.verb, words.name) {
            ("bucket", state) => {
                let there = |fenced| {
                    let bindings = EncodedBindings::of(&[0, 0]);
                    BucketTold::There {
                        created_ms: self.time_ms,
                        fenced,
                        retention: Retention::default(),
                        bindings,
                        watches: EncodedWatches::NONE,
                    }
                };
                let told = match state {
                    "open" => there(false),
                    "fenced" => there(true),
                    "gone" => BucketTold::Gone,
                    _ => panic!("no bucket is {state}"),
                };
                Command::Bucket { name, epoch: words.number("epoch").expect("an epoch"), told }
            }
            ("meta", "form") => Command::MetaForm { groups: name.parse().expect("a number") },
            ("meta", "create") => Command::MetaBucket { name, step: BucketStep::Create },
            ("meta", "delete") => Command::MetaBucket { name, step: BucketStep::Delete },
            ("meta", "keep") => Command::MetaBucket { name, step: BucketStep::Keep },
            ("meta", "drop") => Command::MetaBucket { name, step: BucketStep::Drop },
            ("meta", "forget") => Command::MetaBucket { name, step: BucketStep::Forget },
            ("meta", "retain") => {
                let limit = |name| words.number(name).and_then(NonZeroU64::new);
                let retention = Retention { age_s: limit("age"), bytes: limit("bytes") };
                Command::MetaRetention { bucket: name, retention }
            }
            ("meta", "renew") => Command::MetaBucket { name, step: BucketStep::Renew },
            ("meta", "epoch") => {
                return self.world.group.meta().bucket(name).map_or(0, |bucket| bucket.epoch).to_string();
            }
            (verb, what) => panic!("no {verb} {what}"),
        };
        self.run(&command)
    }
}

/// Modules and bindings, all of bucket `b`. A digest is named by the byte that it consists of.
impl Run {
    /// `module put|ready|failed|delete|show NAME [DIGEST]`
    fn module(&mut self, words: &Words<'_>) -> String {
        let (bucket, name) = ("b", words.rest[0]);
        let digest = || Digest([words.rest[1].parse().expect("a number"); 32]);
        let command = match words.name {
            "put" => {
                let upload = Upload { digest: digest(), bytes: 1, roles: &Role::ALL };
                Command::MetaModulePut { bucket, name, upload }
            }
            "ready" => Command::MetaModuleReady { bucket, name, digest: digest() },
            "failed" => Command::MetaModuleFailed { bucket, name, digest: digest(), reason: "too odd" },
            "delete" => Command::MetaModuleDelete { bucket, name },
            _ => {
                let module = self.world.group.meta().bucket(bucket).and_then(|bucket| bucket.modules.get(name));
                let Some(module) = module else { return "none".to_string() };
                let kept = module.revisions.iter().map(|r| format!("{}{}", r.number, if r.ready { "!" } else { "?" }));
                let failed = module.failed.as_ref().map(|(r, reason)| format!(" {} {reason}", r.number));
                return kept.collect::<Vec<_>>().join(",") + &failed.unwrap_or_default();
            }
        };
        self.run(&command)
    }

    /// `bind NAME MODULE DIGEST PATTERN [summary]`, `unbind NAME`
    fn bind(&mut self, words: &Words<'_>) -> String {
        let [module, digest, pattern, ref role @ ..] = words.rest[..] else {
            return self.run(&Command::MetaBindingDelete { bucket: "b", name: words.name });
        };
        let binding = Binding {
            name: words.name.into(),
            streams: Pattern::new(pattern).expect("a pattern"),
            module: module.into(),
            digest: Digest([digest.parse().expect("a number"); 32]),
            role: if role.is_empty() { Role::Validator } else { Role::Summary },
            config: "null".into(),
            epoch: 0,
        };
        let encoded = Binding::encode([&binding].into_iter());
        self.run(&Command::MetaBindingPut { bucket: "b", binding: EncodedBindings::of(&encoded) })
    }

    /// `bound tell` gives the group what group 0 has; `bound EPOCH` gives it nothing, as of that epoch; `bound NAME` names
    /// the bindings of a stream, and says how often they have changed.
    fn bound(&mut self, words: &Words<'_>) -> String {
        if words.name.starts_with('/') {
            let key = words.key();
            let names: Vec<&str> = self.world.group.bindings(&key, Role::Validator).map(|b| &*b.name).collect();
            return format!("{names:?} epoch={}", self.world.group.bindings_epoch());
        }
        let known = self.world.group.meta().bucket("b");
        let (epoch, encoded) = match (words.name.parse(), known) {
            (Ok(epoch), _) => (epoch, Binding::encode([].into_iter())),
            (Err(_), known) => {
                let bucket = known.expect("the bucket is there");
                (bucket.epoch, Binding::encode(bucket.bindings.values().map(|binding| &**binding)))
            }
        };
        let told = BucketTold::There {
            created_ms: 1000,
            fenced: false,
            retention: Retention::default(),
            bindings: EncodedBindings::of(&encoded),
            watches: EncodedWatches::NONE,
        };
        self.run(&Command::Bucket { name: "b", epoch, told })
    }
}

fn render(reply: &Reply) -> String {
    let facts = |word: &str, facts: &Facts| {
        let closed = if facts.closed { " closed" } else { "" };
        format!("{word} tail={}{closed}", facts.next.position)
    };
    match reply {
        Reply::Created(s) => facts("created", s),
        Reply::Exists(s) => facts("exists", s),
        Reply::Appended(Appended { next, closed, producer, duplicate }) => {
            let word = if *duplicate { "duplicate" } else { "ok" };
            let closed = if *closed { " closed" } else { "" };
            let producer = producer.map(|p| format!(" producer={}:{}", p.epoch, p.seq)).unwrap_or_default();
            format!("{word} tail={}{closed}{producer}", next.position)
        }
        Reply::Done => "done".to_string(),
        Reply::Bucket { streams } => format!("bucket streams={streams}"),
        Reply::MetaBucket { created_ms, existed } => format!("bucket created={created_ms} existed={existed}"),
        Reply::Module { revision, existed } => format!("module revision={revision} existed={existed}"),
        Reply::Binding { epoch, existed } => format!("binding epoch={epoch} existed={existed}"),
        Reply::Trimmed(s) => facts(&format!("trimmed earliest={}", s.earliest.position), s),
        Reply::Flushed { parts } => format!("flushed {parts}"),
        Reply::Pinned(s) => facts(&format!("pinned earliest={}", s.earliest.position), s),
        Reply::Subscription { generation, existed, told: _ } => {
            format!("subscription generation={generation} existed={existed}")
        }
        Reply::ForkDecided { is_there } => format!("decided there={is_there}"),
        Reply::Node { refused } => format!("node refused={refused:?}"),
        Reply::Refused(refusal) => refused(refusal),
    }
}

fn refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Closed { tail } => format!("Closed tail={}", tail.position),
        Refusal::Exists { tail } => format!("Exists tail={}", tail.position),
        Refusal::TailMoved { tail } => format!("TailMoved tail={}", tail.position),
        Refusal::OffsetTrimmed { earliest } => format!("OffsetTrimmed earliest={}", earliest.position),
        Refusal::JsonInvalid { .. } => "JsonInvalid".to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn append_after_close_is_refused() {
    check(
        "put /s | post /s 'a' close | post /s 'b' | post /s 'b' close | post /s close | read /s",
        expect![[
            r#"created tail=0 | ok tail=1 closed | early Closed tail=1 | early Closed tail=1 | ok tail=1 closed | [a]"#
        ]],
    );
}

#[test]
fn closed_comes_before_content_type_and_empty() {
    check(
        "put /s close 'x' | post /s type=a/b 'a' | post /s type=none 'a' | post /s | post /s type=a/b close",
        expect![[
            r#"created tail=1 closed | early Closed tail=1 | early Closed tail=1 | early Closed tail=1 | ok tail=1 closed"#
        ]],
    );
}

#[test]
fn a_close_alone_needs_no_content_type() {
    check(
        "put /s type=application/json | post /s type=text/plain close",
        expect![[r#"created tail=0 | ok tail=0 closed"#]],
    );
}

#[test]
fn creating_again_needs_the_same_configuration() {
    check(
        "put /s ttl=5 'ab' | put /s ttl=5 'ignored' | put /s type=TEXT/Plain;charset=utf-8 ttl=5 | put /s ttl=6 | put /s \
         | put /s ttl=5 type=text/html | put /s ttl=5 close | post /s close | put /s ttl=5 | put /s ttl=5 close | read /s",
        expect![[
            r#"created tail=2 | exists tail=2 | exists tail=2 | ConfigConflict | ConfigConflict | ConfigConflict | ConfigConflict | ok tail=2 closed | ConfigConflict | exists tail=2 closed | [ab]"#
        ]],
    );
}

#[test]
fn a_bucket_decides_whether_streams_are_created() {
    check(
        "put /a | bucket fenced b epoch=2 | put /c | put /a | post /a 'x' | bucket gone b epoch=3 | delete /a \
         | bucket gone b epoch=3 | put /a | bucket fenced b epoch=4 | bucket open b epoch=5 | put /a | bucket open b epoch=5",
        expect![[
            r#"created tail=0 | bucket streams=1 | BucketBusy | exists tail=0 | ok tail=1 | BucketBusy | done removed | bucket streams=0 | BucketNotFound | bucket streams=0 | bucket streams=0 | created tail=0 | bucket streams=1"#
        ]],
    );
}

#[test]
fn content_types_are_compared_without_case_and_parameters() {
    check(
        "put /s type=text/plain | post /s type=TEXT/PLAIN 'a' | post /s type=text/plain;charset=utf-8 'b' \
         | post /s type=text/html 'c' | post /s type=none 'd' | post /s | read /s",
        expect![[
            r#"created tail=0 | ok tail=1 | ok tail=2 | early ContentTypeMismatch { sent: "text/html", expected: "text/plain" } | early ContentTypeMissing | early Empty | [a b]"#
        ]],
    );
}

#[test]
fn json_is_flattened_by_one_level() {
    check(
        "put /j type=application/json '[]' | post /j type=application/json '[1,[2,3]]' \
         | post /j type=Application/JSON;a=b '{\"a\":[]}' | post /j type=application/json '[]' \
         | post /j type=application/json '{' | post /j type=application/json '[]' close | read /j | read /j from=2 \
         | put /k type=application/json '[' | put /k type=application/json '[\"x\",2]' close | read /k",
        expect![[
            r#"created tail=0 | ok tail=8 | ok tail=17 | early Empty | early JsonInvalid | early Empty | [1, [2,3], {"a":[]},] | [[2,3], {"a":[]},] | JsonInvalid | created tail=6 closed | ["x", 2,]"#
        ]],
    );
}

#[test]
fn producers_are_applied_once_and_in_order() {
    check(
        "put /s | post /s 'x' producer=p:0:1 | post /s 'a' producer=p:0:0 | post /s 'b' producer=p:0:1 \
         | post /s 'a' producer=p:0:0 | post /s 'd' producer=p:0:3 | post /s 'e' producer=p:1:1 \
         | post /s 'e' producer=p:1:0 | post /s 'z' producer=p:0:2 | post /s 'f' producer=q:7:0 | post /s 'g' | read /s",
        expect![[
            r#"created tail=0 | ProducerGap { expected: 0, received: 1 } | ok tail=1 producer=0:0 | ok tail=2 producer=0:1 | early duplicate tail=1 producer=0:1 | ProducerGap { expected: 2, received: 3 } | ProducerEpochStart | ok tail=3 producer=1:0 | ProducerFenced { epoch: 1 } | ok tail=4 producer=7:0 | ok tail=5 | [a b e f g]"#
        ]],
    );
}

#[test]
fn a_duplicate_is_answered_with_its_own_tail_while_that_is_remembered() {
    let ten: String = (0..10).map(|seq| format!("post /s 'xx' producer=p:0:{seq} | ")).collect();
    check(
        &format!("put /s | {ten} post /s 'y' | post /s 'xx' producer=p:0:2 | post /s 'xx' producer=p:0:1"),
        expect![
            "created tail=0 | ok tail=2 producer=0:0 | ok tail=4 producer=0:1 | ok tail=6 producer=0:2 | ok tail=8 producer=0:3 | ok tail=10 producer=0:4 | ok tail=12 producer=0:5 | ok tail=14 producer=0:6 | ok tail=16 producer=0:7 | ok tail=18 producer=0:8 | ok tail=20 producer=0:9 | ok tail=21 | early duplicate tail=6 producer=0:9 | early duplicate tail=21 producer=0:9"
        ],
    );
}

#[test]
fn a_closing_request_may_be_repeated_by_its_producer_alone() {
    check(
        "put /s | post /s 'a' producer=p:0:0 | post /s 'body-a' close producer=p:0:1 \
         | post /s 'body-b' close producer=p:0:1 | post /s close producer=p:0:1 | post /s 'a' producer=p:0:0 \
         | post /s close producer=p:0:2 | post /s close producer=q:0:0 | post /s close | read /s",
        expect![[
            r#"created tail=0 | ok tail=1 producer=0:0 | ok tail=7 closed producer=0:1 | early duplicate tail=7 closed producer=0:1 | early duplicate tail=7 closed producer=0:1 | early Closed tail=7 | early Closed tail=7 | early Closed tail=7 | ok tail=7 closed | [a body-a]"#
        ]],
    );
}

#[test]
fn a_close_alone_by_a_producer_is_a_turn_of_its_own() {
    check(
        "put /s | post /s 'a' producer=p:0:0 | post /s close producer=p:0:2 | post /s close producer=p:0:1 \
         | post /s close producer=p:0:1",
        expect![[
            r#"created tail=0 | ok tail=1 producer=0:0 | ProducerGap { expected: 1, received: 2 } | ok tail=1 closed producer=0:1 | early duplicate tail=1 closed producer=0:1"#
        ]],
    );
}

#[test]
fn stream_seq_must_rise_byte_by_byte() {
    check(
        "put /s | post /s 'a' seq=09 | post /s 'b' seq=10 | post /s 'c' seq=10 | post /s 'd' seq=2 | post /s 'e' seq=10 \
         | post /s 'f' | post /s 'g' seq=b | post /s 'h' seq=B | post /s 'i' seq=c producer=p:0:0 \
         | post /s 'i' seq=c producer=p:0:0 | post /s 'j' seq=c producer=p:0:1 | post /s 'j' seq=d producer=p:0:1",
        expect![[
            r#"created tail=0 | ok tail=1 | ok tail=2 | SeqRegression | ok tail=3 | SeqRegression | ok tail=4 | ok tail=5 | SeqRegression | ok tail=6 producer=0:0 | early duplicate tail=6 producer=0:0 | SeqRegression | ok tail=7 producer=0:1"#
        ]],
    );
}

#[test]
fn if_match_is_decided_against_the_tail() {
    check(
        "put /s 'ab' | post /s 'c' if=2 | post /s 'd' if=2 | post /s 'd' if=9 | post /s 'd' if=gone \
         | post /s 'd' if=3 producer=p:0:0 | post /s 'd' if=3 producer=p:0:0 | post /s close if=0 | post /s close if=4 \
         | post /s close if=0 | post /s close if=4",
        expect![[
            r#"created tail=2 | ok tail=3 | TailMoved tail=3 | TailMoved tail=3 | TailMoved tail=3 | ok tail=4 producer=0:0 | early duplicate tail=4 producer=0:0 | TailMoved tail=4 | ok tail=4 closed | TailMoved tail=4 | ok tail=4 closed"#
        ]],
    );
}

#[test]
fn creates_and_deletes_are_decided_against_what_is_there() {
    check(
        "put /s new 'ab' | put /s new 'ab' | put /s | delete /s if=1 | delete /s if=gone | post /s 'c' if=2 | delete /s if=2 \
         | delete /s if=3 | delete /s if=3 | put /s new",
        expect![[
            r#"created tail=2 | Exists tail=2 | exists tail=2 | TailMoved tail=2 | TailMoved tail=2 | ok tail=3 | TailMoved tail=3 | done removed | NotFound | created tail=0"#
        ]],
    );
}

#[test]
fn another_life_is_another_stream() {
    check(
        "put /s 'abc' | delete /s stale | delete /s | read /s | post /s 'x' | delete /s | put /s type=a/b | read /s | read /s from=gone \
         | read /s from=1 | post /s type=a/b 'x' stale | post /s type=a/b 'x' | read /s from=1 | read /s from=now",
        expect![[
            r#"created tail=3 | NotFound | done removed | none | early NotFound | NotFound | created tail=0 | [] | OffsetGone | OffsetInvalid | Stale | ok tail=1 | [] | []"#
        ]],
    );
}

#[test]
fn expiry_is_checked_again_in_apply() {
    check(
        "put /idle ttl=5 | put /end until=9000 | put /never | streams | time 5999 | expire /idle | time 6000 \
         | post /idle 'x' | expire /idle | time 500 | expire /idle | time 8999 | expire /end | time 9000 | expire /end \
         | time 11000 | expire /idle | time 99999999 | expire /never | streams | delete /never | streams",
        expect![[
            r#"created tail=0 | created tail=0 | created tail=0 | 3 indexed=true expirable=true | - | done | - | ok tail=1 | done | - | done | - | done | - | done removed | - | done removed | - | done | 1 indexed=true expirable=false | done removed | 0 indexed=false expirable=false"#
        ]],
    );
}

#[test]
fn a_full_producer_table_forgets_only_the_idle() {
    check(
        "producers 2 | put /s | post /s 'a' producer=p:0:0 | time 2000 | post /s 'b' producer=q:0:0 \
         | post /s 'c' producer=r:0:0 | post /s 'c' producer=p:0:1 | time 601999 | post /s 'd' producer=r:0:0 \
         | time 602000 | post /s 'e' producer=r:0:0 | post /s 'f' producer=q:0:1 | read /s",
        expect![[
            r#"- | created tail=0 | ok tail=1 producer=0:0 | - | ok tail=2 producer=0:0 | ProducerLimit | ok tail=3 producer=0:1 | - | ProducerLimit | - | ok tail=4 producer=0:0 | ProducerGap { expected: 0, received: 1 } | [a b c e]"#
        ]],
    );
}

#[test]
fn slots_have_the_streams_of_all_buckets() {
    check(
        "put /a/1 | put /a/2 | put /ab | put /c | bucket open bb epoch=2 | list | list /a/ | list /x",
        expect![[
            r#"created tail=0 | created tail=0 | created tail=0 | created tail=0 | bucket streams=0 | a/1 a/2 ab c | a/1 a/2 | "#
        ]],
    );
}

#[test]
fn a_late_change_of_a_bucket_is_refused_also_when_the_bucket_is_gone() {
    check(
        "bucket fenced b epoch=5 | bucket open b epoch=4 | put /a | bucket gone b epoch=6 | bucket open b epoch=5 | put /a \
         | bucket gone b epoch=2 | bucket open c epoch=6 | bucket open c epoch=7 | bucket gone b epoch=8 | bucket open c epoch=7",
        expect![[
            r#"bucket streams=0 | Stale | BucketBusy | bucket streams=0 | Stale | BucketNotFound | bucket streams=0 | Stale | bucket streams=0 | bucket streams=0 | bucket streams=0"#
        ]],
    );
}

#[test]
fn meta_buckets_are_deleted_in_steps() {
    check(
        "meta create x | meta create x | meta delete x | meta delete x | meta create x | meta keep x | meta keep x \
         | meta drop x | meta forget x | meta epoch x | meta delete x | meta drop x | meta drop x | meta keep x \
         | meta delete x | meta epoch x | meta renew x | meta epoch x | meta forget x | meta forget x | meta delete x \
         | meta create x | meta epoch x",
        expect![[
            r#"bucket created=1000 existed=false | bucket created=1000 existed=true | done | BucketBusy | BucketBusy | done | done | BucketBusy | BucketBusy | 3 | done | done | done | BucketBusy | BucketBusy | 5 | done | 6 | done | done | BucketNotFound | bucket created=1000 existed=false | 7"#
        ]],
    );
}

#[test]
fn slots_are_spread_once() {
    check("meta form 3 | meta form 3 | meta form 4", expect![[r#"done | done | ConfigConflict"#]]);
    let mut world = World::new();
    assert_eq!(world.group.meta().groups(), None);
    world.apply(0, &Command::MetaForm { groups: 3 });
    assert_eq!(world.group.meta().groups(), Some(3));
}

#[test]
fn a_create_of_a_name_in_an_unknown_bucket_is_refused() {
    let mut world = World::new();
    let key = StreamKey::new("nowhere", "s").expect("a valid name");
    let outcome = world.apply(
        0,
        &Command::Create {
            key: (&key).into(),
            incarnation: Incarnation(1),
            content_type: "text/plain",
            expiry: Expiry::Never,
            closed: false,
            only_new: false,
            bindings_epoch: 0,
            fork: None,
            records: Records::new(b"x", &Split::Whole),
        },
    );
    assert_eq!(outcome.reply, Reply::Refused(Refusal::BucketNotFound));
    assert_eq!(world.group.streams(), 0);
}

#[test]
fn an_upload_is_announced_then_ready_or_gone() {
    check(
        "module put stats 1 | meta create b | module put stats 1 | module put stats 1 | module ready stats 1 \
         | module put stats 2 | module show stats | module failed stats 2 | module show stats | module put stats 3 \
         | module failed stats 3 | module put stats 1 | module show stats | module ready other 1 | module delete other \
         | module delete stats | module show stats",
        expect![
            "BucketNotFound | bucket created=1000 existed=false | module revision=1 existed=false | module revision=1 existed=true | done | module revision=2 existed=false | 2?,1! | done | 1! 2 too odd | module revision=3 existed=false | done | module revision=1 existed=true | 1! | ModuleNotFound | ModuleNotFound | done | none"
        ],
    );
}

#[test]
fn old_revisions_stay_while_they_are_new_or_bound() {
    check(
        "meta create b | module put m 1 | module ready m 1 | bind old m 1 ** | module put m 2 | module ready m 2 \
         | module put m 3 | module ready m 3 | module put m 4 | module put m 5 | module put m 6 | module show m \
         | module delete m | unbind old | module put m 7 | module show m | module put m 2 | module put m 3 | module show m",
        expect![
            "bucket created=1000 existed=false | module revision=1 existed=false | done | binding epoch=2 existed=false | module revision=2 existed=false | done | module revision=3 existed=false | done | module revision=4 existed=false | module revision=5 existed=false | module revision=6 existed=false | 6?,3!,2!,1! | ModuleInUse | binding epoch=3 existed=true | module revision=7 existed=false | 7?,3!,2!,1! | module revision=8 existed=false | module revision=9 existed=false | 9!,8!,1!"
        ],
    );
}

#[test]
fn a_binding_needs_a_ready_module_and_counts_its_changes() {
    check(
        "bind v m 1 ** | meta create b | bind v m 1 ** | module put m 1 | bind v m 1 ** | module ready m 1 | bind v m 2 ** \
         | bind v m 1 ** | bind v m 1 ** | bind v m 1 a/** | bind w builtin:stats 9 ** | unbind v | unbind v",
        expect![
            "BucketNotFound | bucket created=1000 existed=false | ModuleNotFound | module revision=1 existed=false | ModuleNotReady | done | ModuleNotFound | binding epoch=2 existed=false | binding epoch=2 existed=true | binding epoch=3 existed=true | binding epoch=4 existed=false | binding epoch=5 existed=true | BindingNotFound"
        ],
    );
}

#[test]
fn a_write_checked_under_other_bindings_is_stale() {
    check(
        "meta create b | put /s/1 'x' | bind v builtin:stats 9 s/* | bound /s/1 | bound tell | bound tell | bound /s/1 \
         | bound /other | post /s/1 'x' | post /s/1 'x' epoch=1 | post /s/1 close | put /s/2 'x' | put /s/2 'x' epoch=1 \
         | put /s/3 | unbind v | bound tell | bound 1 | post /s/3 'x' epoch=1 | post /s/3 'x' epoch=2 | bound /s/3",
        expect![[
            r#"bucket created=1000 existed=false | created tail=1 | binding epoch=2 existed=false | [] epoch=0 | bucket streams=1 | bucket streams=1 | ["v"] epoch=1 | [] epoch=1 | Stale | ok tail=2 | ok tail=2 closed | Stale | created tail=1 | created tail=0 | binding epoch=3 existed=true | bucket streams=3 | Stale | Stale | ok tail=1 | [] epoch=2"#
        ]],
    );
}

#[test]
fn bindings_go_with_their_bucket() {
    check(
        "meta create b | bind v builtin:stats 9 ** | bound tell | bound /s | bucket fenced b epoch=3 | bucket gone b epoch=4 \
         | bound /s | bucket open b epoch=5 | bound /s | put /s 'x' epoch=2",
        expect![[
            r#"bucket created=1000 existed=false | binding epoch=2 existed=false | bucket streams=0 | ["v"] epoch=1 | bucket streams=0 | bucket streams=0 | [] epoch=2 | bucket streams=0 | [] epoch=2 | created tail=1"#
        ]],
    );
}

#[test]
fn what_is_trimmed_is_gone_and_the_rest_has_its_offsets() {
    check(
        "put /s | post /s 'one' | post /s 'two' | trim /s before=3 | read /s | read /s from=0 | read /s from=3 | \
         trim /s before=0 | trim /s before=3 | trim /s before=7 | trim /s before=6 | read /s | read /s from=now | \
         post /s 'three' close | read /s | trim /s before=11 | read /s | read /s from=6",
        expect![[
            r#"created tail=0 | ok tail=3 | ok tail=6 | trimmed earliest=3 tail=6 | [two] | OffsetTrimmed earliest=3 | [two] | trimmed earliest=3 tail=6 | trimmed earliest=3 tail=6 | OffsetInvalid | trimmed earliest=6 tail=6 | [] | [] | ok tail=11 closed | [three] | trimmed earliest=11 tail=11 closed | [] | OffsetTrimmed earliest=11"#
        ]],
    );
}

#[test]
fn a_trim_is_of_one_life_and_no_use_of_the_stream() {
    check(
        "trim /s before=0 | put /s 'one' ttl=10 | trim /s before=3 stale | time 9000 | trim /s before=3 | time 11000 | expire /s \
         | streams",
        expect![[
            r#"NotFound | created tail=3 | NotFound | - | trimmed earliest=3 tail=3 | - | done removed | 0 indexed=false expirable=false"#
        ]],
    );
}

#[test]
fn what_a_summary_is_computed_from_is_trimmed_only_by_force() {
    check(
        "meta create b | put /s 'one' | module put stats 1 | module ready stats 1 | bind sums stats 1 s summary | bound tell | \
         trim /s before=0 | trim /s before=3 | trim /s before=3 force | trim /s before=3",
        expect![[
            r#"bucket created=1000 existed=false | created tail=3 | module revision=1 existed=false | done | binding epoch=2 existed=false | bucket streams=1 | trimmed earliest=0 tail=3 | TrimSummarized | trimmed earliest=3 tail=3 | trimmed earliest=3 tail=3"#
        ]],
    );
}

#[test]
fn retention_is_a_change_of_the_bucket_when_it_changes() {
    check(
        "meta retain b age=60 | meta create b | meta epoch b | meta retain b age=60 bytes=5 | meta epoch b | \
         meta retain b age=60 bytes=5 | meta epoch b | meta retain b | meta epoch b | meta delete b | meta retain b age=1",
        expect![
            "BucketNotFound | bucket created=1000 existed=false | 1 | done | 2 | done | 2 | done | 3 | done | BucketBusy"
        ],
    );
}
