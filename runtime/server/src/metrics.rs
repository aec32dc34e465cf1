//! `/metrics`: the figures of all shards as Prometheus text.
//!
//! The figures are counted on the shards without locks and asked for by mail when someone looks, so there is no registry:
//! a family is one line in a table here. Counters end in `_total`, sizes in `_bytes`, times in `_seconds`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use weir_shard::{Limit, ShardStats, Topology};
use weir_storage::WalStats;
use weir_types::ShardId;

use crate::connections::Connections;
use crate::turns::{ENDS, Histogram, Turns};

/// The media type of the text.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A family with one sample per `T`: its name, what it counts, and where to find it.
type Family<T> = (&'static str, &'static str, fn(&T) -> f64);

const SHARD_FAMILIES: &[Family<ShardStats>] = &[
    ("weir_appends_total", "Appends acknowledged.", |s| s.appends as f64),
    ("weir_append_bytes_total", "Bytes of the bodies of appends acknowledged.", |s| s.append_bytes as f64),
    ("weir_appends_refused_total", "Appends answered with an error.", |s| s.appends_refused as f64),
    ("weir_batches_total", "Log entries that carried commands.", |s| s.batches as f64),
    ("weir_reads_total", "Pages read.", |s| s.reads as f64),
    ("weir_read_bytes_total", "Bytes of pages read.", |s| s.read_bytes as f64),
    ("weir_subscribers_cut_total", "Live readers cut off because they were too slow.", |s| {
        s.limits_met[Limit::Live as usize] as f64
    }),
    ("weir_subscribers", "Live readers now.", |s| s.subscribers as f64),
    ("weir_live_bytes", "Bytes kept for live readers now.", |s| s.live_bytes as f64),
    ("weir_in_flight_bytes", "Memory of writes under way now.", |s| s.in_flight_bytes as f64),
    ("weir_streams", "Streams now.", |s| s.streams as f64),
    ("weir_hot_index_bytes", "Memory of the index of stored bytes.", |s| s.hot_index_bytes as f64),
    ("weir_records_validated_total", "Records that validators have let through, replaced ones included.", |s| {
        s.records_validated as f64
    }),
    ("weir_records_rejected_total", "Writes that a validator has refused.", |s| s.records_rejected as f64),
    ("weir_module_traps_total", "Instances of modules ended for what they did.", |s| s.module_traps as f64),
    ("weir_guest_instances", "Instances of modules now.", |s| s.guest_instances as f64),
    ("weir_guest_folds", "Summaries in memory now.", |s| s.guest_folds as f64),
    ("weir_guest_bytes", "Memory of modules and kept summaries now.", |s| s.guest_bytes as f64),
    ("weir_guest_demotions_total", "Validators moved out of the way of others.", |s| s.guest_demotions as f64),
    ("weir_guest_suspensions_total", "Modules suspended for failing again and again.", |s| s.guest_suspensions as f64),
    ("weir_guest_calls_total", "Calls into modules.", |s| s.guest_calls as f64),
    ("weir_guest_busy_seconds_total", "Time spent in modules.", |s| s.guest_busy.as_secs_f64()),
    ("weir_groups_serving", "Groups that serve.", |s| s.groups_serving.into()),
    ("weir_groups_failed", "Groups whose log has failed.", |s| s.groups_failed.into()),
];

const WAL_FAMILIES: &[Family<WalStats>] = &[
    ("weir_wal_units_total", "Units written.", |w| w.units as f64),
    ("weir_wal_frames_total", "Frames in the units written.", |w| w.frames as f64),
    ("weir_wal_written_bytes_total", "Bytes written, headers and padding included.", |w| w.bytes as f64),
    ("weir_wal_durable_writes_total", "Durable writes asked of the disk.", |w| w.durable_writes as f64),
    ("weir_wal_copies_total", "Frames whose bytes had to be copied before the write.", |w| w.copies as f64),
    ("weir_wal_write_latency_seconds", "Time of a durable write, recent ones weighing more.", |w| {
        w.write_latency.as_secs_f64()
    }),
    ("weir_wal_threaded", "Whether writes go to a thread of their own now.", |w| f64::from(u8::from(w.threaded))),
    ("weir_wal_segments", "Segments in use.", |w| w.segments as f64),
    ("weir_wal_spares", "Segments that are ready, the reserve among them.", |w| w.spares as f64),
    ("weir_wal_used_bytes", "Bytes that all segments take.", |w| w.used_bytes as f64),
    ("weir_wal_cache_bytes", "Bytes of entries in memory.", |w| w.cache_bytes as f64),
    ("weir_wal_index_bytes", "Memory of the entry index.", |w| w.index_bytes as f64),
    ("weir_wal_reads_total", "Reads of stored entries.", |w| w.reads as f64),
];

/// The text. `shards` has one place per shard; `None` for one that did not answer, whose samples are left out.
pub(crate) fn text(
    uptime: Duration,
    topology: Topology,
    connections: &Connections,
    shards: &[Option<ShardStats>],
    turns: &[Arc<Turns>],
) -> String {
    let mut text = String::with_capacity(8 << 10);
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    family(&mut text, "weir_build_info", "The program.", [(version, 1.0)]);
    family(&mut text, "weir_uptime_seconds", "Time since the start.", [(String::new(), uptime.as_secs_f64())]);
    let counts = connections.counts();
    for (name, help, value) in [
        ("weir_connections_accepted_total", "Connections handed to a shard.", counts.accepted),
        ("weir_connections_turned_away_total", "Connections closed because of the limit.", counts.turned_away),
        ("weir_accept_errors_total", "Times that a connection could not be accepted.", counts.accept_errors),
    ] {
        family(&mut text, name, help, [(String::new(), value as f64)]);
    }
    let open = connections.open_by_shard();
    let open = open.iter().enumerate().map(|(shard, open)| (shard_label(shard), *open as f64));
    family(&mut text, "weir_connections_open", "Connections open now.", open);
    let up = shards.iter().enumerate().map(|(shard, stats)| (shard_label(shard), f64::from(u8::from(stats.is_some()))));
    family(&mut text, "weir_shard_up", "Whether the shard answered this query.", up);
    for (name, help, value_of) in SHARD_FAMILIES {
        let answered = shards.iter().enumerate().filter_map(|(shard, stats)| Some((shard, stats.as_ref()?)));
        family(&mut text, name, help, answered.map(|(shard, stats)| (shard_label(shard), value_of(stats))));
    }
    let met = shards.iter().enumerate().filter_map(|(shard, stats)| Some((shard, stats.as_ref()?))).flat_map(
        |(shard, stats)| {
            let counted = Limit::ALL.into_iter().zip(stats.limits_met);
            counted
                .map(move |(limit, count)| (format!("{},limit=\"{}\"", shard_label(shard), limit.key()), count as f64))
        },
    );
    family(&mut text, "weir_limits_met_total", "Requests refused, and live readers cut off, by a limit.", met);
    let help = "Time that a shard's thread was held at a stretch.";
    histograms(&mut text, "weir_turn_seconds", help, turns.iter().map(|turns| &turns.passed));
    let help = "Time that a shard's thread computed at a stretch: without waits for the disk or for a core.";
    histograms(&mut text, "weir_turn_computed_seconds", help, turns.iter().map(|turns| &turns.computed));
    let wals: Vec<(String, &WalStats)> = (0..topology.shards)
        .zip(shards)
        .filter_map(|(shard, stats)| Some((shard, stats.as_ref()?)))
        .flat_map(|(shard, stats)| wals_of(topology, ShardId(shard)).zip(&stats.wals))
        .map(|(wal, stats)| (format!("wal=\"{wal}\""), stats))
        .collect();
    for (name, help, value_of) in WAL_FAMILIES {
        family(&mut text, name, help, wals.iter().map(|(label, stats)| (label.clone(), value_of(stats))));
    }
    text
}

/// The WALs that a shard runs, in the order of its figures.
fn wals_of(topology: Topology, shard: ShardId) -> impl Iterator<Item = weir_types::WalId> {
    (0..topology.wals).map(weir_types::WalId).filter(move |wal| topology.shard_of(*wal) == shard)
}

fn shard_label(shard: usize) -> String {
    format!("shard=\"{shard}\"")
}

fn family(text: &mut String, name: &str, help: &str, samples: impl IntoIterator<Item = (String, f64)>) {
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let _ = match labels.as_str() {
            "" => writeln!(text, "{name} {value}"),
            labels => writeln!(text, "{name}{{{labels}}} {value}"),
        };
    }
}

/// A histogram per shard.
fn histograms<'a>(text: &mut String, name: &str, help: &str, shards: impl Iterator<Item = &'a Histogram>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
    for (shard, histogram) in shards.enumerate() {
        let label = shard_label(shard);
        let mut count = 0;
        let ends = ENDS.iter().map(|end| end.as_secs_f64().to_string()).chain(["+Inf".to_string()]);
        for (end, in_class) in ends.zip(histogram.counts()) {
            count += in_class;
            let _ = writeln!(text, "{name}_bucket{{{label},le=\"{end}\"}} {count}");
        }
        let sum = histogram.sum().as_secs_f64();
        let _ = writeln!(text, "{name}_sum{{{label}}} {sum}\n{name}_count{{{label}}} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_carry_their_shard_and_wal() {
        let topology = Topology { shards: 2, wals: 3, groups: 3 };
        let wal = |units| WalStats { units, ..WalStats::default() };
        let first = ShardStats {
            appends: 1 << 40,
            limits_met: Limit::ALL.map(|limit| if limit == Limit::Reads { 7 } else { 0 }),
            guest_busy: Duration::from_millis(250),
            wals: vec![wal(1), wal(2)],
            ..ShardStats::default()
        };
        let turns = [Arc::default(), Arc::default()];
        let text = text(Duration::from_millis(1500), topology, &Connections::new(2), &[Some(first), None], &turns);
        let lines: Vec<&str> = text.lines().collect();
        for line in [
            "weir_build_info{version=\"0.1.0\"} 1",
            "weir_uptime_seconds 1.5",
            "# TYPE weir_appends_total counter",
            "weir_appends_total{shard=\"0\"} 1099511627776",
            "weir_guest_busy_seconds_total{shard=\"0\"} 0.25",
            "weir_shard_up{shard=\"1\"} 0",
            "weir_limits_met_total{shard=\"0\",limit=\"limits.read_bytes_max\"} 7",
            "weir_wal_units_total{wal=\"0\"} 1",
            "weir_wal_units_total{wal=\"2\"} 2",
            "# TYPE weir_wal_used_bytes gauge",
            "# TYPE weir_turn_seconds histogram",
            "weir_turn_seconds_bucket{shard=\"0\",le=\"0.01\"} 0",
            "weir_turn_computed_seconds_bucket{shard=\"1\",le=\"+Inf\"} 0",
            "weir_turn_seconds_sum{shard=\"1\"} 0",
        ] {
            assert!(lines.contains(&line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("weir_appends_total{shard=\"1\"}"), "a silent shard has no samples");
    }
}
