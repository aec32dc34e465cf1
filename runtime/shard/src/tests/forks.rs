//! Forks over all groups of a node: what they read, what is kept for them, and what becomes of it; also when the power goes between
//! any two steps.

use weir_stream::{Group, Stream};

use super::*;
use crate::message::{Answer, PinRequest, Request};
use crate::{CreateCondition, ForkRequest};

fn fork_of(source: &StreamKey, from: ReadFrom) -> ForkRequest {
    ForkRequest {
        source: source.clone(),
        from,
        sub_offset: 0,
        content_type: None,
        expiry: None,
        closed: false,
        body: Body::default(),
        condition: None,
    }
}

impl Node {
    pub(super) async fn fork(
        &self,
        source: &StreamKey,
        key: &StreamKey,
        from: ReadFrom,
    ) -> Result<(Facts, bool), ShardError> {
        self.far(key).fork(key.clone(), fork_of(source, from)).await
    }

    pub(super) async fn delete(&self, key: &StreamKey) -> Result<(), ShardError> {
        self.far(key).delete(key.clone(), None).await
    }

    /// What `of` makes of each group, summed up.
    fn sum_groups(&self, of: impl Fn(&Group) -> usize) -> usize {
        let groups = self.shards.iter().flat_map(|shard| shard.0.local_groups());
        groups.map(|group| of(&group.applied())).sum()
    }

    pub(super) fn streams(&self) -> usize {
        self.sum_groups(Group::streams)
    }

    /// What forks and their sources owe each other.
    fn owed(&self) -> usize {
        self.sum_groups(|group| group.releases().count() + group.unsettled_pins(u64::MAX).count())
    }

    pub(super) fn with_stream<T>(&self, key: &StreamKey, of: impl FnOnce(&Stream) -> T) -> Option<T> {
        let group = self.near(key).0.local_group(key);
        let state = group.applied();
        state.slot(key.slot().index()).find(|stream| stream.key() == key.as_str()).map(of)
    }

    /// Lets the time pass in which forks may come to be, and waits until it is known of all whether they have.
    async fn come_to_rest(&self) {
        self.advance(4 * self.config.write_deadline);
        until("forks and sources agree", || self.owed() == 0).await;
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ShardError>) -> Refusal {
    match result {
        Err(ShardError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// One stream in each group.
fn keys(count: u16) -> Vec<StreamKey> {
    (0..count).map(|n| key_in(GroupId(n % TOPOLOGY.groups), &format!("s{n}-"))).collect()
}

#[test]
fn forks_of_forks_have_what_each_had_then_wherever_it_is() {
    run(async {
        let mut node = Node::start().await;
        let keys = keys(6);
        node.create(&keys[0], Expiry::Never).await;
        for n in 0..6 {
            if n > 0 {
                let (_, existed) = node.fork(&keys[n - 1], &keys[n], ReadFrom::Now).await.expect("forks");
                assert!(!existed);
                let (_, existed) = node.fork(&keys[n - 1], &keys[n], ReadFrom::Now).await.expect("it is there");
                assert!(existed, "the same request again finds it");
            }
            node.append(&keys[n], &format!("own{n} ")).await.expect("appends");
        }
        for key in &keys {
            node.append(key, "later ").await.expect("appends");
        }
        for _ in 0..2 {
            for (n, key) in keys.iter().enumerate() {
                let inherited: String = (0..=n).map(|n| format!("own{n} ")).collect();
                assert_eq!(node.content(key).await.expect("reads"), format!("{inherited}later "));
                // Small pages, from every offset that they say.
                let (mut from, mut read) = (ReadFrom::Start, String::new());
                loop {
                    let page = node.far(key).read(key.clone(), from, 6).await.expect("reads");
                    read.push_str(std::str::from_utf8(&page.chunks.concat()).expect("text"));
                    from = ReadFrom::At(page.next);
                    if page.up_to_date {
                        break;
                    }
                }
                assert_eq!(read, format!("{inherited}later "));
            }
            node = node.restart().await;
        }
        let facts = node.near(&keys[5]).head(keys[5].clone()).await.expect("it is there");
        let inside = ReadFrom::At(facts.offset(1));
        assert_eq!(refused(node.far(&keys[5]).read(keys[5].clone(), inside, 100).await), Refusal::OffsetInvalid);
    });
}

#[test]
fn a_page_over_many_ancestors_has_what_a_page_of_one_stream_would_have() {
    run(async {
        let node = Node::start().await;
        let keys = keys(9);
        let mut records: Vec<(usize, String)> = Vec::new();
        node.create(&keys[0], Expiry::Never).await;
        for (n, key) in keys.iter().enumerate() {
            if n > 0 {
                node.fork(&keys[n - 1], key, ReadFrom::Now).await.expect("forks");
            }
            // Some ancestors hold one short record, some several, one holds one that is longer than many pages.
            for m in 0..=n % 3 {
                let record = format!("{n}.{m}{} ", "x".repeat([1, 0, 4, 40, 2, 0, 7, 3, 5][n]));
                node.append(key, &record).await.expect("appends");
                records.push((records.last().map_or(0, |(end, _)| *end) + record.len(), record));
            }
        }
        let (fork, tail) = (&keys[8], records.last().expect("some").0);
        let facts = node.near(fork).head(fork.clone()).await.expect("it is there");
        for bytes_max in 1..=tail + 1 {
            let mut first = 0;
            while first < records.len() {
                let start = records[first].0 - records[first].1.len();
                let fits = records[first..].iter().take_while(|(end, _)| end - start <= bytes_max).count().max(1);
                let page = node.far(fork).read(fork.clone(), ReadFrom::At(facts.offset(start as u64)), bytes_max).await;
                let page = page.expect("reads");
                let expected: String = records[first..first + fits].iter().map(|(_, record)| &**record).collect();
                let read = String::from_utf8(page.chunks.concat()).expect("text");
                assert_eq!(read, expected, "at most {bytes_max} bytes from {start} on");
                first += fits;
                assert_eq!(
                    (page.next.position, page.up_to_date),
                    ((start + read.len()) as u64, first == records.len())
                );
            }
        }
    });
}

#[test]
fn a_fork_is_followed_from_what_it_inherits_to_what_it_is_given() {
    run(async {
        let node = Node::start().await;
        let keys = keys(2);
        node.create(&keys[0], Expiry::Never).await;
        node.append(&keys[0], "old ").await.expect("appends");
        node.fork(&keys[0], &keys[1], ReadFrom::Now).await.expect("forks");
        let fork = &keys[1];
        let mut reader = node.far(fork).subscribe(fork.clone(), ReadFrom::Start).await.expect("subscribes");
        let LiveEvent::Data(data) = reader.next().await else { panic!("it begins with data") };
        assert_eq!((&*data.chunks.concat(), data.up_to_date), (&b"old "[..], true));
        node.append(&keys[0], "the source's ").await.expect("appends");
        node.append(fork, "its own").await.expect("appends");
        loop {
            match reader.next().await {
                LiveEvent::CaughtUp { .. } => {}
                LiveEvent::Data(data) => break assert_eq!(data.chunks.concat(), b"its own"),
                _ => panic!("it goes on"),
            }
        }
        let poll = |from| node.far(fork).long_poll(fork.clone(), from, Duration::from_millis(1));
        let Ok(LongPoll::Page(page)) = poll(ReadFrom::Start).await else { panic!("there is a page") };
        assert_eq!((&*page.chunks.concat(), page.up_to_date), (&b"old its own"[..], true));
        assert!(matches!(poll(ReadFrom::Now).await, Ok(LongPoll::Nothing { closed: false, .. })));
    });
}

#[test]
fn a_fork_may_leave_its_source_inside_a_record_or_behind_messages() {
    run(async {
        let node = Node::start().await;
        let keys = keys(4);
        node.create(&keys[0], Expiry::Never).await;
        node.append(&keys[0], "first").await.expect("appends");
        let second = node.append(&keys[0], "second").await.expect("appends").next;
        let at = ReadFrom::At(Offset { position: 5, ..second });
        let part = |sub_offset| ForkRequest { sub_offset, body: Bytes::from("XY").into(), ..fork_of(&keys[0], at) };
        let far = node.far(&keys[1]);
        assert_eq!(refused(far.fork(keys[1].clone(), part(7)).await), Refusal::ForkSubOffset);
        far.fork(keys[1].clone(), part(3)).await.expect("forks");
        assert_eq!(node.content(&keys[1]).await.expect("reads"), "firstsecXY");
        assert_eq!(refused(far.fork(keys[1].clone(), part(4)).await), Refusal::ConfigConflict);
        node.delete(&keys[1]).await.expect("deletes");
        let only_new = ForkRequest { condition: Some(CreateCondition::Absent), ..part(6) };
        far.fork(keys[1].clone(), only_new).await.expect("forks");
        assert_eq!(node.content(&keys[1]).await.expect("reads"), "firstsecondXY");

        let body = Bytes::from(r#"[1,22,{"a":3}]"#).into();
        let content_type = "application/json".into();
        let request = CreateRequest { content_type, expiry: Expiry::Never, closed: true, body, condition: None };
        node.far(&keys[2]).create(keys[2].clone(), request).await.expect("creates");
        let messages = |sub_offset| ForkRequest {
            sub_offset,
            body: Bytes::from("[4]").into(),
            ..fork_of(&keys[2], ReadFrom::Start)
        };
        let far = node.far(&keys[3]);
        assert_eq!(refused(far.fork(keys[3].clone(), messages(4)).await), Refusal::ForkSubOffset);
        far.fork(keys[3].clone(), messages(2)).await.expect("forks");
        assert_eq!(node.content(&keys[3]).await.expect("reads"), "1,22,4,");
        assert_eq!(node.with_stream(&keys[2], Stream::forks), Some(1), "what was refused has left no pin");
    });
}

#[test]
fn a_deleted_source_is_gone_for_everybody_but_its_forks() {
    run(async {
        let mut node = Node::start().await;
        let keys = keys(3);
        node.create(&keys[0], Expiry::Idle { ttl_s: 1000 }).await;
        node.append(&keys[0], "kept ").await.expect("appends");
        node.fork(&keys[0], &keys[1], ReadFrom::Now).await.expect("forks");
        node.fork(&keys[1], &keys[2], ReadFrom::Now).await.expect("forks");
        for key in &keys[..2] {
            node.delete(key).await.expect("deletes");
        }
        for _ in 0..2 {
            for key in &keys[..2] {
                assert_eq!(refused(node.content(key).await), Refusal::SoftDeleted);
                assert_eq!(refused(node.append(key, "x").await), Refusal::SoftDeleted);
                assert_eq!(refused(node.delete(key).await), Refusal::SoftDeleted);
                assert_eq!(
                    refused(node.far(key).subscribe(key.clone(), ReadFrom::Start).await.map(|_| ())),
                    Refusal::SoftDeleted
                );
                assert_eq!(refused(node.fork(&keys[2], key, ReadFrom::Now).await), Refusal::NameHeld);
                assert_eq!(refused(node.fork(key, &self::key("new"), ReadFrom::Now).await), Refusal::NameHeld);
            }
            assert_eq!(node.far(&keys[2]).list("demo", "", None, 10).await.expect("lists").streams.len(), 1);
            assert_eq!(node.content(&keys[2]).await.expect("reads"), "kept ");
            node = node.restart().await;
        }
        node.delete(&keys[2]).await.expect("deletes");
        until("the last fork takes all along", || node.streams() == 0).await;
        node.create(&keys[0], Expiry::Never).await;
    });
}

#[test]
fn a_source_that_is_pinned_for_nobody_learns_that() {
    run(async {
        let mut node = Node::start().await;
        let keys = keys(2);
        node.create(&keys[0], Expiry::Never).await;
        node.append(&keys[0], "kept ").await.expect("appends");
        let pin = PinRequest {
            fork: keys[1].clone(),
            fork_incarnation: Incarnation(77),
            from: ReadFrom::Now,
            sub_offset: 0,
            content_type: None,
            until_ms: node.near(&keys[0]).now_ms() + 1000,
        };
        let pinned = node.far(&keys[0]).ask(Request::Pin(keys[0].clone(), Box::new(pin))).await;
        assert!(matches!(pinned, Ok(Answer::Pinned(_))));
        node = node.restart().await;
        node.delete(&keys[0]).await.expect("deletes");
        assert_eq!(refused(node.content(&keys[0]).await), Refusal::SoftDeleted);
        node.come_to_rest().await;
        assert_eq!(node.streams(), 0);
    });
}

#[test]
fn a_source_that_cannot_be_told_holds_up_no_other() {
    run(async {
        let (node, disks) = start_on_faulty_disks(config()).await;
        let keys = keys(TOPOLOGY.groups);
        let [deaf, told] = [&keys[0], &keys[3]];
        let mut forks = Vec::new();
        for number in 0..100 {
            // The last one has its source in a log that goes on.
            let source = if number < 99 { deaf } else { told };
            let fork = key_in(GroupId(1), &format!("fork-{number}-"));
            if number % 99 == 0 {
                node.create(source, Expiry::Never).await;
            }
            node.fork(source, &fork, ReadFrom::Now).await.expect("forks");
            forks.push(fork);
        }
        disks[0].refuse_write_at(disks[0].operations() + 1);
        let _ = node.append(deaf, "never").await.expect_err("the log has failed");
        join_all(forks.iter().map(|fork| node.delete(fork))).await.into_iter().for_each(|gone| gone.expect("deletes"));
        let releases = || node.sum_groups(|group| group.releases().count());
        until("the one that can be told is", || releases() < forks.len()).await;
        assert_eq!(releases(), 99);
    });
}

#[test]
fn cold_bytes_of_a_source_stay_for_its_forks_and_go_with_the_last() {
    run(async {
        let config = ShardConfig { flush_age: Duration::from_millis(50), ..config() };
        let (mut node, _) = Node::start_cold(config).await;
        let keys = keys(2);
        node.create(&keys[0], Expiry::Never).await;
        for n in 0..20 {
            node.append(&keys[0], &format!("{n} ")).await.expect("appends");
        }
        node.fork(&keys[0], &keys[1], ReadFrom::Now).await.expect("forks");
        node.append(&keys[1], "own").await.expect("appends");
        let expected = (0..20).map(|n| format!("{n} ")).collect::<String>() + "own";
        node.trim(&keys[0], ReadFrom::Now).await.expect("trims");
        node.delete(&keys[0]).await.expect("deletes");
        until("all of it is cold", || node.sum(|stats| stats.hot_bytes) == 0).await;
        for _ in 0..2 {
            assert_eq!(node.content(&keys[1]).await.expect("reads"), expected);
            node = node.restart().await;
        }
        // A fork that has trimmed what it has of its source keeps its name, and no bytes.
        let begin = node.with_stream(&keys[1], |fork| fork.offset(fork.begin()));
        node.trim(&keys[1], ReadFrom::At(begin.expect("it is there"))).await.expect("trims");
        until("the source's bytes go", || node.sum(|stats| stats.cold_bytes) == 3).await;
        assert_eq!(node.content(&keys[1]).await.expect("reads"), "own");
        assert_eq!(refused(node.content(&keys[0]).await), Refusal::SoftDeleted);
        node.delete(&keys[1]).await.expect("deletes");
        until("nothing is left", || node.streams() == 0 && node.sum(|stats| stats.chunks) == 0).await;
    });
}

/// Each fork that is there pins its source, and nothing else does.
fn assert_pinned(node: &Node, keys: &[StreamKey], when: &str) {
    let sources: Vec<_> = keys
        .iter()
        .filter_map(|key| node.with_stream(key, |of| of.fork().map(|fork| fork.source.clone())))
        .flatten()
        .collect();
    for key in keys {
        let pins = node.with_stream(key, Stream::forks).unwrap_or(0);
        let forks = sources.iter().filter(|source| ***source == *key.as_str()).count();
        assert_eq!(pins, forks, "{key} {when}");
    }
}

#[test]
fn no_pin_and_no_fork_is_left_alone_wherever_the_power_goes() {
    const SOURCE: &str = "source ";
    let live = async |cut: Option<u64>| {
        let when = format!("after a cut at {cut:?}");
        let power = FaultyDisk::new(32 << 20, cut.unwrap_or(0));
        let disks: Vec<_> =
            (0..TOPOLOGY.wals).map(|wal| if wal == 0 { power.clone() } else { power.beside(32 << 20) }).collect();
        let config = ShardConfig {
            wal: WalConfig { segment_bytes: 1 << 20, budget_bytes: 12 << 20, ..config().wal },
            ..config()
        };
        let keys = keys(3);
        let formed: Vec<Arc<dyn Disk>> = disks.iter().map(|disk| formed(disk.clone())).collect();
        let node = Node::start_with(formed, None, config.clone()).await;
        let begun = power.operations();
        if let Some(operation) = cut {
            power.cut_power_at(begun + operation);
        }
        // What was acknowledged last of the second fork: that it is there, or that it is gone.
        let mut acknowledged = Vec::new();
        let scenario = async {
            let request = CreateRequest {
                content_type: "text/plain".into(),
                expiry: Expiry::Never,
                closed: false,
                body: Bytes::from(SOURCE).into(),
                condition: None,
            };
            node.far(&keys[0]).create(keys[0].clone(), request).await?;
            acknowledged.push("created");
            node.fork(&keys[0], &keys[1], ReadFrom::Now).await?;
            acknowledged.push("forked");
            node.fork(&keys[1], &keys[2], ReadFrom::Now).await?;
            acknowledged.push("forked twice");
            node.delete(&keys[0]).await?;
            node.delete(&keys[1]).await?;
            acknowledged.push("sources deleted");
            node.delete(&keys[2]).await?;
            acknowledged.push("all deleted");
            let gone = async {
                while node.streams() > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            gone.await;
            Ok::<_, ShardError>(())
        };
        let off = async {
            while power.has_power() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            biased;
            done = scenario => if power.has_power() { done.expect("it goes on") },
            () = off => {}
        }
        power.cut_power();
        let taken = power.operations() - begun;
        let disks = disks.iter().map(|disk| Arc::new(disk.crash()) as Arc<dyn Disk>).collect();
        let again = Node::start_with(disks, None, config).await;
        let is_there = |n: usize| again.with_stream(&keys[n], |stream| !stream.is_gone());
        match acknowledged.last() {
            Some(&"forked") => assert_eq!(again.content(&keys[1]).await.expect("it is there"), SOURCE, "{when}"),
            Some(&"forked twice" | &"sources deleted") if is_there(2) == Some(true) => {
                assert_eq!(again.content(&keys[2]).await.expect("it is there"), SOURCE, "{when}");
            }
            Some(&"forked twice") => panic!("the fork is lost {when}"),
            Some(&"all deleted") => assert_ne!(is_there(2), Some(true), "{when}"),
            _ => {}
        }
        again.come_to_rest().await;
        assert_pinned(&again, &keys, &when);
        for key in &keys {
            match again.delete(key).await {
                Ok(()) | Err(ShardError::Refused(Refusal::NotFound | Refusal::SoftDeleted)) => {}
                Err(error) => panic!("{key} {when}: {error:?}"),
            }
        }
        until("nothing is left", || again.streams() == 0 && again.owed() == 0).await;
        assert_eq!(again.sum(|stats| stats.hot_bytes), 0, "{when}");
        for shard in again.shards.iter().chain(&node.shards) {
            shard.shutdown().await;
        }
        taken
    };
    run(async {
        let operations = live(None).await;
        assert!(operations > 15, "{operations} operations");
        let cuts: Vec<u64> = (1..operations).collect();
        for some in cuts.chunks(8) {
            join_all(some.iter().map(|operation| live(Some(*operation)))).await;
        }
    });
}
