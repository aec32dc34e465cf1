//! Trims and retention: what is given up, what is not, and the space that comes back.

use super::*;

/// Whether a read was refused because what it asks for was trimmed, and the stream begins at `earliest` now.
fn is_trimmed<T>(read: Result<T, ShardError>, earliest: u64) -> bool {
    matches!(read, Err(ShardError::Refused(Refusal::OffsetTrimmed { earliest: at })) if at.position == earliest)
}

#[test]
fn what_is_trimmed_cannot_be_read_in_any_way() {
    run(async {
        let mut node = Node::start().await;
        let key = key("s");
        node.create(&key, Expiry::Never).await;
        let start = node.near(&key).head(key.clone()).await.expect("it is there").next;
        let one = node.append(&key, "one").await.expect("appends").next;
        let two = node.append(&key, "two").await.expect("appends").next;
        let tail = node.append(&key, "three").await.expect("appends").next;
        let refused = |trimmed: Result<Facts, ShardError>| match trimmed {
            Err(ShardError::Refused(refusal)) => refusal,
            trimmed => panic!("{trimmed:?}"),
        };
        let at = |position| ReadFrom::At(Offset { position, ..start });
        assert_eq!(refused(node.trim(&key, at(4)).await), Refusal::OffsetInvalid, "it is inside a record");
        assert_eq!(refused(node.trim(&key, at(12)).await), Refusal::OffsetInvalid, "it is beyond the tail");
        let other_life = ReadFrom::At(Offset { position: 3, lineage: Lineage::from_bits(7) });
        assert_eq!(refused(node.trim(&key, other_life).await), Refusal::OffsetGone);
        assert_eq!(refused(node.trim(&self::key("none"), at(0)).await), Refusal::NotFound);
        for before in [ReadFrom::Start, ReadFrom::At(start)] {
            let facts = node.trim(&key, before).await.expect("there is nothing to be trimmed");
            assert_eq!((facts.earliest, facts.next), (start, tail));
        }
        for before in [ReadFrom::At(two), ReadFrom::At(two), ReadFrom::At(one), ReadFrom::Start] {
            let facts = node.trim(&key, before).await.expect("trims, or has done so");
            assert_eq!((facts.earliest, facts.next), (two, tail));
        }
        for _ in 0..2 {
            assert_eq!(node.content(&key).await.expect("reads"), "three");
            let shard = node.far(&key);
            let head = shard.head(key.clone()).await.expect("it is there");
            assert_eq!((head.earliest, head.next), (two, tail));
            for from in [at(0), at(1), ReadFrom::At(one)] {
                assert!(is_trimmed(shard.read(key.clone(), from, 100).await, 6));
                assert!(is_trimmed(shard.long_poll(key.clone(), from, Duration::ZERO).await, 6));
                assert!(is_trimmed(shard.subscribe(key.clone(), from).await, 6));
            }
            let page = shard.read(key.clone(), ReadFrom::At(two), 100).await.expect("it is retained");
            assert_eq!((page.chunks.concat(), page.earliest), (b"three".to_vec(), two));
            let mut subscription = shard.subscribe(key.clone(), ReadFrom::Start).await.expect("subscribes");
            let LiveEvent::Data(data) = subscription.next().await else { panic!("it begins with data") };
            assert_eq!(data.chunks.concat(), b"three");
            drop(subscription);
            node = node.restart().await;
        }
        // A closed stream, all of it; and whoever waits at its end is not concerned.
        node.near(&key).append(key.clone(), AppendRequest { close: true, ..append("") }).await.expect("closes");
        let facts = node.trim(&key, ReadFrom::Now).await.expect("trims");
        assert_eq!((facts.earliest, facts.next, facts.closed), (tail, tail, true));
        assert_eq!(node.content(&key).await.expect("reads"), "");
        let polled = node.far(&key).long_poll(key.clone(), ReadFrom::Start, Duration::ZERO).await;
        assert!(matches!(polled, Ok(LongPoll::Nothing { closed: true, earliest, .. }) if earliest == tail));
        assert_eq!(node.sum(|stats| stats.hot_bytes), 0);
    });
}

#[test]
fn a_reader_of_history_that_is_trimmed_ends_and_one_at_the_tail_goes_on() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        node.create(&key, Expiry::Never).await;
        for _ in 0..10 {
            node.append(&key, &"x".repeat(100_000)).await.expect("appends");
        }
        let mut behind = node.far(&key).subscribe(key.clone(), ReadFrom::Start).await.expect("subscribes");
        let LiveEvent::Data(first) = behind.next().await else { panic!("it begins with data") };
        assert!(!first.up_to_date, "there is more than one page");
        let mut ahead = node.far(&key).subscribe(key.clone(), ReadFrom::Now).await.expect("subscribes");
        assert!(matches!(ahead.next().await, LiveEvent::CaughtUp { .. }));
        let tail = node.trim(&key, ReadFrom::Now).await.expect("trims").earliest;
        assert!(matches!(behind.next().await, LiveEvent::Removed));
        assert!(is_trimmed(node.far(&key).subscribe(key.clone(), ReadFrom::At(first.next)).await, tail.position));
        node.append(&key, "new").await.expect("appends");
        let LiveEvent::Data(data) = ahead.next().await else { panic!("it goes on") };
        assert_eq!(data.chunks.concat(), b"new");
    });
}

#[test]
fn a_trim_is_no_use_of_a_stream() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        node.create(&key, Expiry::Idle { ttl_s: 10 }).await;
        let one = node.append(&key, "one").await.expect("appends").next;
        node.append(&key, "two").await.expect("appends");
        node.advance(Duration::from_secs(6));
        node.trim(&key, ReadFrom::At(one)).await.expect("trims");
        node.advance(Duration::from_secs(6));
        let gone = node.trim(&key, ReadFrom::At(one)).await;
        assert!(matches!(gone, Err(ShardError::Refused(Refusal::NotFound))), "{gone:?}");
    });
}

#[test]
fn a_full_log_takes_trims_and_has_room_then() {
    run(async {
        let node = Node::start_on(disks(), small_wal()).await;
        let large = key_in(GroupId(0), "large");
        node.create(&large, Expiry::Never).await;
        for len in [512 << 10, 64 << 10, 4 << 10, 1] {
            let body = "x".repeat(len);
            while node.append(&large, &body).await.is_ok() {}
        }
        node.trim(&large, ReadFrom::Now).await.expect("a trim gives room");
        until("there is room again", || node.sum(|stats| stats.wals[0].used_bytes) < 8 << 20).await;
        node.append(&large, "new").await.expect("appends");
        assert_eq!(node.content(&large).await.expect("reads"), "new");
    });
}

/// Messages of 100 bytes as a JSON array, so that many records are in one pack.
fn messages(from: usize, count: usize) -> String {
    let message = |n| format!("\"{n:097}\"");
    format!("[{}]", (from..from + count).map(message).collect::<Vec<_>>().join(","))
}

#[test]
fn what_is_trimmed_gives_space_back_in_the_cold_tier_and_in_the_log() {
    const MESSAGE: u64 = 100;
    run(async {
        let (mut node, chunks) =
            Node::start_cold(ShardConfig { flush_age: Duration::from_millis(100), ..config() }).await;
        let keys: Vec<StreamKey> = (0..6).map(|n| key(&format!("s{n}"))).collect();
        for key in &keys {
            let request = CreateRequest {
                content_type: "application/json".into(),
                expiry: Expiry::Never,
                closed: false,
                body: Body::default(),
                condition: None,
            };
            node.far(key).create(key.clone(), request).await.expect("creates");
            for array in 0..10 {
                let body = Bytes::from(messages(100 * array, 100)).into();
                let request = AppendRequest { content_type: Some("application/json".into()), body, ..append("") };
                node.far(key).append(key.clone(), request).await.expect("appends");
            }
        }
        until("all leave the log", || node.sum(|stats| stats.hot_bytes) == 0).await;
        let all = keys.len() as u64 * 1000 * MESSAGE;
        assert_eq!(node.sum(|stats| stats.cold_bytes), all);
        let mut whole = Vec::new();
        for key in &keys {
            whole.push(node.pages(key, PAGE_BYTES_MAX).await.expect("reads"));
        }
        // In the middle of the ninth array, and of a pack.
        let base = 850 * MESSAGE;
        for key in &keys {
            let start = node.near(key).head(key.clone()).await.expect("it is there").next;
            let inside = node.trim(key, ReadFrom::At(Offset { position: base + 1, ..start })).await;
            assert!(matches!(inside, Err(ShardError::Refused(Refusal::OffsetInvalid))), "{inside:?}");
            node.trim(key, ReadFrom::At(Offset { position: base, ..start })).await.expect("trims");
        }
        let left = all - keys.len() as u64 * base;
        assert_eq!(node.sum(|stats| stats.cold_bytes), left, "only what is retained counts");
        let stored = || chunks.objects().values().map(Bytes::len).sum::<usize>() as u64;
        until("the space is given back", || stored() < 2 * left).await;
        assert!(node.sum(|stats| stats.merges) > 0);
        for _ in 0..2 {
            assert_eq!(node.sum(|stats| stats.cold_bytes), left);
            for (key, whole) in keys.iter().zip(&whole) {
                for bytes_max in [PAGE_BYTES_MAX, 3_000] {
                    let found = node.pages(key, bytes_max).await.expect("reads");
                    assert!(found == whole[base as usize..], "{} bytes", found.len());
                }
            }
            node = node.restart().await;
        }
        for key in &keys {
            node.trim(key, ReadFrom::Now).await.expect("trims");
        }
        until("chunks go with what is in them", || chunks.objects().is_empty()).await;
        assert_eq!(node.sum(|stats| stats.chunks + stats.hot_bytes + stats.cold_damaged), 0);
    });
}

#[test]
fn trims_that_race_with_flushes_and_merges_lose_nothing_else() {
    run(async {
        let (node, _) =
            Node::start_cold(ShardConfig { flush_age: Duration::from_millis(10), flush_bytes: 2 << 10, ..config() })
                .await;
        let key = key("s");
        node.create(&key, Expiry::Never).await;
        let (mut all, mut ends) =
            (String::new(), vec![node.near(&key).head(key.clone()).await.expect("is there").next]);
        let mut base = ends[0];
        for i in 0..600_usize {
            let record = format!("{i}{}|", "x".repeat(i % 97));
            all += &record;
            ends.push(node.append(&key, &record).await.expect("appends").next);
            if i % 3 == 0 {
                let before = ends[ends.len() - 1 - (i * 7919 % 40).min(ends.len() - 1)];
                let facts = node.trim(&key, ReadFrom::At(before)).await.expect("trims");
                if before.position > base.position {
                    base = before;
                }
                assert_eq!(facts.earliest, base);
            }
            if i % 20 == 0 {
                let found = node.pages(&key, 700).await.expect("reads");
                assert_eq!(String::from_utf8_lossy(&found), all[base.position as usize..], "after {i} records");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        until("all leave the log", || node.sum(|stats| stats.hot_bytes) == 0).await;
        assert_eq!(node.sum(|stats| stats.cold_bytes), all.len() as u64 - base.position);
        assert_eq!(node.sum(|stats| stats.flushes_failed), 0);
        assert_eq!(node.content(&key).await.expect("reads"), all[base.position as usize..]);
    });
}

#[test]
fn a_read_whose_chunk_goes_with_a_trim_is_planned_again() {
    run(async {
        let store = Holding::default();
        let cold = Cold::new(Arc::new(store.clone()), 4 << 20, tokio::runtime::Handle::current(), BTreeSet::new());
        let config = ShardConfig { flush_age: Duration::from_millis(100), ..config() };
        let node = Node::start_with(disks(), Some(cold), config).await;
        let key = key("s");
        node.create(&key, Expiry::Never).await;
        let start = node.near(&key).head(key.clone()).await.expect("it is there").next;
        node.append(&key, "one").await.expect("appends");
        until("it leaves the log", || node.sum(|stats| stats.hot_bytes) == 0).await;
        store.is_held.store(true, Ordering::Relaxed);
        let shard = node.far(&key);
        let from_start = shard.read(key.clone(), ReadFrom::Start, 100);
        let at_start = shard.read(key.clone(), ReadFrom::At(start), 100);
        let trim = async {
            node.trim(&key, ReadFrom::Now).await.expect("trims");
            until("the chunk goes", || store.chunks.objects().is_empty()).await;
            node.append(&key, "two").await.expect("appends");
            store.is_held.store(false, Ordering::Relaxed);
        };
        let (from_start, at_start, ()) = tokio::join!(from_start, at_start, trim);
        assert_eq!(from_start.expect("it begins elsewhere now").chunks.concat(), b"two");
        assert!(is_trimmed(at_start, 3));
        assert_eq!(node.sum(|stats| stats.cold_damaged), 0);
    });
}

fn retention(age_s: u64, bytes: u64) -> Retention {
    Retention { age_s: NonZeroU64::new(age_s), bytes: NonZeroU64::new(bytes) }
}

#[test]
fn a_bucket_keeps_the_newest_bytes_of_its_streams_in_the_log_and_in_the_cold_tier() {
    run(async {
        let config = ShardConfig { flush_age: Duration::from_millis(200), ..config() };
        let (cold, chunks) = Node::start_cold(config.clone()).await;
        let hot = Node::start_on(disks(), config).await;
        for mut node in [cold, hot] {
            let demo = BucketName::new("demo").expect("a valid name");
            assert!(!node.shards[1].bucket_create(demo.clone(), Some(retention(0, 5_000))).await.expect("creates"));
            let other = StreamKey::new("other", "s").expect("a valid address");
            let keys: Vec<StreamKey> = (0..4).map(|n| key(&format!("s{n}"))).chain([other.clone()]).collect();
            for key in &keys {
                node.create(key, Expiry::Never).await;
            }
            for flush in 0..5 {
                for record in 0..4 {
                    for key in &keys {
                        node.append(key, &format!("{:1000}", 4 * flush + record)).await.expect("appends");
                    }
                }
                until("all leave the log", || node.cold.is_none() || node.sum(|stats| stats.hot_bytes) == 0).await;
            }
            let whole: String = (0..20).map(|record| format!("{record:1000}")).collect();
            for _ in 0..2 {
                for key in &keys[..4] {
                    let begun = std::time::Instant::now();
                    loop {
                        let content = node.content(key).await.expect("reads");
                        assert!(content.len() >= 5_000 && whole.ends_with(&content), "{} bytes", content.len());
                        // What is beyond by less than a run may stay.
                        if content.len() < 5_000 + 4_000 {
                            break;
                        }
                        assert!(begun.elapsed() < Duration::from_secs(20), "{} bytes", content.len());
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                assert_eq!(node.content(&other).await.expect("reads"), whole, "its bucket keeps everything");
                node = node.restart().await;
            }
            let summary = node.shards[0].bucket(demo).await.expect("it is there");
            assert_eq!(summary.retention, retention(0, 5_000));
            let left = || node.sum(|stats| stats.cold_bytes + stats.hot_bytes);
            until("the space is given back", || left() < 4 * 9_000 + 25_000).await;
            if node.cold.is_some() {
                let stored = || chunks.objects().values().map(Bytes::len).sum::<usize>() as u64;
                until("also in the store", || stored() < 2 * left()).await;
            }
        }
    });
}

#[test]
fn records_that_are_too_old_go() {
    run(async {
        let config = ShardConfig { flush_age: Duration::from_millis(300), ..config() };
        let (cold, _) = Node::start_cold(config.clone()).await;
        let hot = Node::start_on(disks(), config).await;
        for node in [cold, hot] {
            let demo = BucketName::new("demo").expect("a valid name");
            node.shards[0].bucket_create(demo, Some(retention(1000, 0))).await.expect("creates");
            let (key, idle) = (key("s"), self::key("idle"));
            for key in [&key, &idle] {
                node.create(key, Expiry::Never).await;
                node.append(key, "old ").await.expect("appends");
            }
            // These are in one chunk, most often.
            for _ in 0..4 {
                node.advance(Duration::from_secs(200));
                node.append(&key, "then ").await.expect("appends");
            }
            // A pass notes which entries there are by now.
            until("it leaves the log", || node.cold.is_none() || node.sum(|stats| stats.hot_bytes) == 0).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(node.content(&key).await.expect("reads"), "old then then then then ");
            let becomes = async |key: &StreamKey, expected: &str| {
                let begun = std::time::Instant::now();
                loop {
                    let content = node.content(key).await.expect("reads");
                    if content == expected {
                        return;
                    }
                    assert!(content.ends_with(expected), "{content:?} is less than {expected:?}");
                    assert!(begun.elapsed() < Duration::from_secs(20), "{content:?} is not {expected:?}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            if node.cold.is_some() {
                // They are 1280, 1080, 880, 680 and 480 s old.
                node.advance(Duration::from_secs(480));
                becomes(&key, "then then then ").await;
            }
            node.advance(Duration::from_secs(100));
            node.append(&key, "new").await.expect("appends");
            tokio::time::sleep(Duration::from_secs(1)).await;
            node.advance(Duration::from_secs(975));
            becomes(&key, "new").await;
            becomes(&idle, "").await;
            node.advance(Duration::from_secs(1000));
            becomes(&key, "").await;
            until("the space is given back", || node.sum(|stats| stats.cold_bytes + stats.hot_bytes) == 0).await;
        }
    });
}
