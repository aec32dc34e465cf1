//! `/metrics`: the figures of all shards as Prometheus text.
//!
//! The figures are counted on the shards without locks, and copied when someone looks. So nothing is registered: a
//! [`Snapshot`] is all that there is to say at one moment, and a family is one line in a table here. Counters end in
//! `_total`, sizes in `_bytes`, times in `_seconds`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use weir_cold::{ColdStats, StoreError};
use weir_http::HttpStats;
use weir_shard::{Limit, Role, ShardConfig, ShardStats, Standing, Topology};
use weir_storage::WalStats;
use weir_types::{Distribution, Histogram, ShardId};

use crate::config::Config;
use crate::connections::Connections;
use crate::process::Process;
use crate::turns::Turns;

/// The media type of the text.
pub(crate) use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

const NANOS_PER_SECOND: f64 = 1e9;
/// Below it every whole number is an `f64`.
const WHOLE_MAX: f64 = (1_u64 << 53) as f64;

/// A family with one sample per `T`: its name, what it says, and where to find it.
type Family<T> = (&'static str, &'static str, fn(&T) -> f64);

/// Names and values, in the order in which they are written.
type Labels = Vec<(&'static str, String)>;

const SHARD_FAMILIES: &[Family<ShardStats>] = &[
    ("weir_appends_total", "Appends and closes that were acknowledged.", |s| s.appends as f64),
    ("weir_append_bytes_total", "Bytes of the bodies of acknowledged appends.", |s| s.append_bytes as f64),
    (
        "weir_appends_refused_total",
        "Appends answered with an error. weir_limits_met_total says how many of them by a limit.",
        |s| s.appends_refused as f64,
    ),
    (
        "weir_batches_total",
        "Batches written to the log. Appends that arrive together share one, and its durable write.",
        |s| s.batches as f64,
    ),
    (
        "weir_reads_total",
        "Pages of stored bytes that were read, for catch-up reads and for the history of live readers.",
        |s| s.reads as f64,
    ),
    ("weir_read_bytes_total", "Bytes of these pages.", |s| s.read_bytes as f64),
    (
        "weir_subscribers_cut_total",
        "Live readers cut off because they were too slow. They come again with the offset they have.",
        |s| s.limits_met[Limit::Live as usize] as f64,
    ),
    ("weir_subscribers", "Live readers (SSE and waiting long-polls) now.", |s| s.subscribers as f64),
    ("weir_live_bytes", "Memory of events that live readers have not taken yet.", |s| s.live_bytes as f64),
    ("weir_in_flight_bytes", "Memory of requests that are coming in or are not answered yet.", |s| {
        s.in_flight_bytes as f64
    }),
    ("weir_streams", "Streams now.", |s| s.streams as f64),
    (
        "weir_hot_index_bytes",
        "Memory of the index of stored bytes. It grows with the number of streams and of appends.",
        |s| s.hot_index_bytes as f64,
    ),
    ("weir_snapshots_total", "Snapshots of groups that were taken.", |s| s.snapshots as f64),
    ("weir_snapshots_failed_total", "Snapshots of groups that the disk has refused. They are tried again.", |s| {
        s.snapshots_failed as f64
    }),
    ("weir_cold_snapshots_total", "Snapshots of groups that were put into the bucket of the cold tier.", |s| {
        s.snapshots_stored as f64
    }),
    (
        "weir_cold_snapshots_failed_total",
        "Times that a snapshot could not be put into the bucket, or older ones not be deleted. They are tried again.",
        |s| s.snapshots_unstored as f64,
    ),
    ("weir_hot_bytes", "Bytes of streams that are in the write-ahead log only.", |s| s.hot_bytes as f64),
    ("weir_cold_bytes", "Bytes of streams that are in the cold tier.", |s| s.cold_bytes as f64),
    ("weir_cold_chunks", "Chunks in the cold tier that streams use.", |s| s.chunks as f64),
    (
        "weir_cold_chunk_bytes",
        "Size of these chunks. What is more than weir_cold_bytes is overhead, or of streams that were deleted.",
        |s| s.chunk_bytes as f64,
    ),
    ("weir_cold_flushes_total", "Chunks that were put into the cold tier.", |s| s.flushes as f64),
    ("weir_cold_flushed_bytes_total", "Size of these chunks.", |s| s.flushed_bytes as f64),
    (
        "weir_cold_merges_total",
        "Chunks that were made of what other chunks had, so that there are fewer of them, with less garbage.",
        |s| s.merges as f64,
    ),
    ("weir_cold_merged_bytes_total", "Size of these chunks.", |s| s.merged_bytes as f64),
    (
        "weir_cold_flushes_failed_total",
        "Times that bytes could not be moved to the cold tier. They are tried again; the log grows meanwhile.",
        |s| s.flushes_failed as f64,
    ),
    (
        "weir_cold_flush_wait_seconds",
        "How long the oldest bytes in a log have been the next to go to the cold tier. Much above cold.flush_age_ms, it is behind.",
        |s| s.flush_wait.as_secs_f64(),
    ),
    (
        "weir_cold_reads_damaged_total",
        "Reads, of clients or a check, that met a chunk that is damaged or missing. Clients were answered 503 cold_damaged.",
        |s| s.cold_damaged as f64,
    ),
    (
        "weir_cold_chunks_rebuilt_total",
        "Chunks that were damaged or missing, and were built again from the log.",
        |s| s.chunks_rebuilt as f64,
    ),
    (
        "weir_cold_reads_unavailable_total",
        "Reads that the cold tier did not answer. They were answered 503 cold_unavailable.",
        |s| s.cold_unavailable as f64,
    ),
    ("weir_records_validated_total", "Records that validators have let through, replaced ones included.", |s| {
        s.records_validated as f64
    }),
    ("weir_records_rejected_total", "Writes that a validator has rejected.", |s| s.records_rejected as f64),
    (
        "weir_module_traps_total",
        "Instances of modules that were ended because they trapped, took too much, or gave an answer that cannot be read.",
        |s| s.module_traps as f64,
    ),
    ("weir_guest_instances", "Instances of modules in memory now.", |s| s.guest_instances as f64),
    ("weir_guest_folds", "Summaries kept up to date in memory now.", |s| s.guest_folds as f64),
    ("weir_guest_bytes", "Memory of instances of modules and of kept summaries now.", |s| s.guest_bytes as f64),
    (
        "weir_guest_demotions_total",
        "Times that a validator was moved to the slower thread because a call took too long.",
        |s| s.guest_demotions as f64,
    ),
    (
        "weir_guest_suspensions_total",
        "Times that a binding was suspended because its module failed again and again.",
        |s| s.guest_suspensions as f64,
    ),
    ("weir_guest_calls_total", "Calls into modules.", |s| s.guest_calls as f64),
    ("weir_guest_busy_seconds_total", "CPU time spent on calls into modules.", |s| s.guest_busy.as_secs_f64()),
    ("weir_groups_serving", "Groups that serve.", |s| s.groups_serving.into()),
    (
        "weir_groups_failed",
        "Groups whose log has failed. They answer writes with 503 until the server is started again; look at the disk.",
        |s| s.groups_failed.into(),
    ),
];

/// What a shard may have of what has the same name without `_max`.
const SHARD_MAXIMA: &[Family<ShardConfig>] = &[
    ("weir_subscribers_max", "Live readers that the shard may have: its share of limits.subscribers_max.", |c| {
        c.subscribers_max as f64
    }),
    ("weir_live_bytes_max", "Bytes that weir_live_bytes may be: the shard's share of limits.live_bytes_max.", |c| {
        c.live_bytes_max as f64
    }),
    (
        "weir_in_flight_bytes_max",
        "Bytes that weir_in_flight_bytes may be: the shard's share of limits.in_flight_bytes_max. Beyond it, 503.",
        |c| c.in_flight_bytes_max as f64,
    ),
    (
        "weir_hot_index_bytes_max",
        "Bytes that weir_hot_index_bytes may be: the shard's share of limits.hot_index_bytes_max. Beyond it, appends get 507.",
        |c| c.hot_index_bytes_max as f64,
    ),
    ("weir_guest_folds_max", "Summaries that the shard keeps up to date: its share of modules.folds_max.", |c| {
        c.folds_max as f64
    }),
];

/// What the node may have of what has the same name without `_max`.
const NODE_MAXIMA: &[Family<Config>] = &[
    ("weir_connections_open_max", "Open connections that all shards may have together: http.connections_max.", |c| {
        c.http.connections_max as f64
    }),
    (
        "weir_guest_bytes_max",
        "Bytes that weir_guest_bytes of all shards may be together: modules.guest_bytes_max.",
        |c| c.modules.guest_bytes_max as f64,
    ),
    (
        "weir_module_store_bytes_max",
        "Bytes that weir_module_store_bytes may be: modules.store_bytes_max. Beyond it, uploads get 507.",
        |c| c.modules.store_bytes_max as f64,
    ),
];

const PROCESS_FAMILIES: &[Family<Process>] = &[
    ("process_cpu_seconds_total", "CPU time of the server, the kernel's part included.", |p| p.cpu_seconds),
    ("process_resident_memory_bytes", "Memory of the server that is not swapped out.", |p| p.resident_bytes as f64),
    ("process_virtual_memory_bytes", "Address space of the server.", |p| p.virtual_bytes as f64),
    ("process_open_fds", "Open file descriptors.", |p| p.open_fds as f64),
    ("process_max_fds", "File descriptors that may be open; the server raises it as far as it may.", |p| {
        p.max_fds.map_or(f64::INFINITY, |max_fds| max_fds as f64)
    }),
    ("process_threads", "Threads of the server.", |p| p.threads as f64),
    ("process_start_time_seconds", "When the server began, in seconds since 1970.", |p| p.started_seconds),
];

const COLD_FAMILIES: &[Family<ColdStats>] = &[
    ("weir_cold_puts_total", "Objects put into the cold tier's store.", |c| c.store.puts as f64),
    ("weir_cold_put_bytes_total", "Bytes of these objects.", |c| c.store.put_bytes as f64),
    ("weir_cold_gets_total", "Ranges of objects read from the store: blocks that were not kept in memory.", |c| {
        c.store.gets as f64
    }),
    ("weir_cold_got_bytes_total", "Bytes of these ranges.", |c| c.store.got_bytes as f64),
    ("weir_cold_deletes_total", "Objects deleted from the store.", |c| c.store.deletes as f64),
    ("weir_cold_cache_hits_total", "Blocks that were read from memory and not from the store.", |c| {
        c.cache_hits as f64
    }),
    ("weir_cold_cache_bytes", "Memory of blocks that are kept. It may be cold.cache_bytes.", |c| c.cache_bytes as f64),
];

/// A family with one histogram per `T`.
type HistogramFamily<T> = (&'static str, &'static str, fn(&T) -> &Distribution);

const SHARD_HISTOGRAMS: &[HistogramFamily<ShardStats>] = &[
    (
        "weir_append_seconds",
        "Time from the arrival of an append on its stream's shard to its acknowledgement, the durable write included.",
        |s| &s.append_times,
    ),
    ("weir_batch_commands", "Appends, creates and other commands in each batch written to the log.", |s| {
        &s.batch_commands
    }),
    (
        "weir_read_seconds",
        "Time from the arrival of a read on its stream's shard to its page, reads from disk included.",
        |s| &s.read_times,
    ),
    (
        "weir_view_seconds",
        "Time from the arrival of a read of a summary to its view, with the records that had to be folded before.",
        |s| &s.summary_times,
    ),
    (
        "weir_live_delivery_seconds",
        "Time from the moment that new bytes can be read until the slowest of their live readers on a shard has taken them.",
        |s| &s.delivery_times,
    ),
];

/// What this node is to each group.
const ROLE_FAMILIES: &[Family<Role>] = &[
    ("weir_group_leading", "1 where this node leads the group, and 0 elsewhere.", |role| {
        f64::from(matches!(role, Role::Leading { .. }))
    }),
    ("weir_group_led", "1 where this node knows who leads the group, and 0 while it does not.", |role| {
        f64::from(matches!(role, Role::Leading { .. } | Role::Following { leader: Some(_) }))
    }),
];

const GROUP_FAMILIES: &[Family<Standing>] = &[
    ("weir_group_term", "The Raft term of the group. It grows with every election.", |g| g.term as f64),
    ("weir_group_last_index", "Index of the last entry in the group's log.", |g| g.last_index as f64),
    (
        "weir_group_applied_index",
        "Index of the last entry that was applied. It is weir_group_last_index unless the group is behind.",
        |g| g.applied_index as f64,
    ),
    (
        "weir_group_snapshot_index",
        "Index of the entry that the group's last snapshot is as of: a restart applies what follows. 0 if there is none.",
        |g| g.snapshot_index as f64,
    ),
    ("weir_group_snapshot_bytes", "Size of the group's last snapshot.", |g| g.snapshot_bytes as f64),
];

const WAL_FAMILIES: &[Family<WalStats>] = &[
    ("weir_wal_units_total", "Writes of waiting batches to the log; each is one durable write.", |w| w.units as f64),
    ("weir_wal_frames_total", "Batches and other entries in these writes.", |w| w.frames as f64),
    ("weir_wal_written_bytes_total", "Bytes written to the log, headers and padding included.", |w| w.bytes as f64),
    (
        "weir_wal_durable_writes_total",
        "Durable writes asked of the disk: one per unit, and about one per second for the mark of the log's end.",
        |w| w.durable_writes as f64,
    ),
    ("weir_wal_copies_total", "Entries whose bytes had to be copied before the write.", |w| w.copies as f64),
    (
        "weir_wal_write_latency_seconds",
        "Time that a durable write takes: an average in which recent ones weigh more.",
        |w| w.write_latency.as_secs_f64(),
    ),
    (
        "weir_wal_io_uring",
        "1 if writes go through io_uring; 0 if the kernel, a seccomp profile, a limit on threads or the file system does not allow it, or before the first.",
        |w| f64::from(u8::from(w.io_uring)),
    ),
    ("weir_wal_threaded", "1 if writes go to a thread of their own now, because the disk is slow; 0 if not.", |w| {
        f64::from(u8::from(w.threaded))
    }),
    ("weir_wal_segments", "Segment files that hold the log.", |w| w.segments as f64),
    ("weir_wal_spares", "Segment files made ready ahead, the reserve among them.", |w| w.spares as f64),
    ("weir_wal_used_bytes", "Bytes of the log: full segment files, and what is written of the last.", |w| {
        w.used_bytes as f64
    }),
    (
        "weir_wal_used_bytes_max",
        "Bytes that weir_wal_used_bytes may be: the log's share of wal.budget_bytes, without its reserve. Then appends get 507.",
        |w| w.used_bytes_max as f64,
    ),
    ("weir_wal_file_bytes", "Bytes that the log takes on disk, with segment files that are made ready ahead.", |w| {
        w.file_bytes as f64
    }),
    ("weir_wal_cache_bytes", "Memory of log entries that are kept for reads.", |w| w.cache_bytes as f64),
    ("weir_wal_index_bytes", "Memory of the index of log entries. It is a part of weir_hot_index_bytes.", |w| {
        w.index_bytes as f64
    }),
    ("weir_wal_reads_total", "Reads of log entries from disk.", |w| w.reads as f64),
];

/// What the system says of the server; nothing of what it does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine {
    /// The process.
    pub(crate) process: Option<Process>,
    /// Bytes of the data directory's disk that are free, and all of them.
    pub(crate) disk_bytes: Option<(u64, u64)>,
    /// Bytes of modules and their code.
    pub(crate) module_store_bytes: Option<u64>,
}

/// All figures at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Since the process began.
    pub(crate) uptime: Duration,
    /// From there until connections were accepted, while they are.
    pub(crate) ready: Option<Duration>,
    /// The node's numbers.
    pub(crate) topology: Topology,
    /// The public listener's connections.
    pub(crate) connections: Arc<Connections>,
    /// One place per shard; `None` for one that did not answer, whose samples are left out.
    pub(crate) shards: Vec<Option<ShardStats>>,
    /// The turns of each shard's thread.
    pub(crate) turns: Vec<Arc<Turns>>,
    /// What each shard's connections have done.
    pub(crate) http: Vec<Arc<HttpStats>>,
    /// What was asked for.
    pub(crate) config: Arc<Config>,
    /// What each shard has of it.
    pub(crate) shard_config: ShardConfig,
    /// What the cold tier was asked, if there is one.
    pub(crate) cold: Option<ColdStats>,
    /// What the system says.
    pub(crate) machine: Machine,
}

impl Snapshot {
    /// The text.
    pub(crate) fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::with_capacity(32 << 10);
        prometheus_text::encode(&mut text, &registry).expect("a string takes everything");
        text
    }

    /// The shards that have answered.
    fn answered(&self) -> impl Iterator<Item = (usize, &ShardStats)> {
        self.shards.iter().enumerate().filter_map(|(shard, stats)| Some((shard, stats.as_ref()?)))
    }

    /// The WALs of the shards that have answered.
    fn wals(&self) -> impl Iterator<Item = (Labels, &WalStats)> {
        self.answered().flat_map(|(shard, stats)| {
            let wals = wals_of(self.topology, ShardId(shard as u16)).zip(&stats.wals);
            wals.map(|(wal, stats)| (vec![("wal", wal.to_string())], stats))
        })
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let build =
            vec![("version", env!("CARGO_PKG_VERSION").to_string()), ("revision", env!("WEIR_COMMIT").to_string())];
        page.family("weir_build_info", "Always 1; the labels say which program this is.", [(build, 1.0)])?;
        page.value("weir_uptime_seconds", "Time since the start.", self.uptime.as_secs_f64())?;
        let help = "Time from the start until the server took connections: the logs were read by then.";
        page.family("weir_ready_seconds", help, self.ready.map(|ready| (Labels::new(), ready.as_secs_f64())))?;
        self.encode_machine(&mut page)?;
        self.encode_cold(&mut page)?;
        self.encode_connections(&mut page)?;
        self.encode_http(&mut page)?;
        let up = self.shards.iter().enumerate();
        let up = up.map(|(shard, stats)| (shard_label(shard), f64::from(u8::from(stats.is_some()))));
        page.family("weir_shard_up", "1 if the shard has answered this query, 0 if it was too busy.", up)?;
        for (name, help, value_of) in SHARD_FAMILIES {
            page.family(name, help, self.answered().map(|(shard, stats)| (shard_label(shard), value_of(stats))))?;
        }
        for (name, help, max_of) in SHARD_MAXIMA {
            let shards = (0..self.shards.len()).map(|shard| (shard_label(shard), max_of(&self.shard_config)));
            page.family(name, help, shards)?;
        }
        for (name, help, max_of) in NODE_MAXIMA {
            page.value(name, help, max_of(&self.config))?;
        }
        let pages = &self.shard_config.pages;
        let help = "Memory of pages, views and listings that clients have not taken yet, of all shards.";
        page.value("weir_page_bytes", help, pages.claimed() as f64)?;
        let help = "Bytes that weir_page_bytes may be: limits.read_bytes_max. Beyond it, reads get 503.";
        page.value("weir_page_bytes_max", help, pages.bytes_max() as f64)?;
        let met = self.answered().flat_map(|(shard, stats)| {
            let limits = Limit::ALL.into_iter().zip(stats.limits_met);
            limits.map(move |(limit, count)| {
                let labels = [("shard", shard.to_string()), ("limit", limit.key().to_string())];
                (labels.to_vec(), count as f64)
            })
        });
        let help = "Requests refused, and live readers cut off, by a limit, which is named as in the configuration.";
        page.family("weir_limits_met_total", help, met)?;
        for (name, help, histogram_of) in SHARD_HISTOGRAMS {
            let shards = self.answered().map(|(shard, stats)| (shard_label(shard), histogram_of(stats).clone()));
            page.histograms(name, help, shards)?;
        }
        let calls = self.answered().flat_map(|(shard, stats)| {
            let lanes = [("front", &stats.guest_front_times), ("back", &stats.guest_back_times)];
            lanes.map(|(lane, times)| (vec![("shard", shard.to_string()), ("lane", lane.to_string())], times.clone()))
        });
        let help = "Time of a call into a module, without the wait for its turn. Quick validators are called in front.";
        page.histograms("weir_module_call_seconds", help, calls)?;
        let turns = |of: fn(&Turns) -> &Histogram| {
            let shards = self.turns.iter().enumerate();
            shards.map(move |(shard, turns)| (shard_label(shard), of(turns).distribution()))
        };
        let help = "Time for which a shard's thread did one thing while everything else on that shard waited.";
        page.histograms("weir_turn_seconds", help, turns(|turns| &turns.passed))?;
        let help =
            "As weir_turn_seconds, but only the time in which the thread computed: no waits for the disk or a core.";
        page.histograms("weir_turn_computed_seconds", help, turns(|turns| &turns.computed))?;
        for (name, help, value_of) in WAL_FAMILIES {
            page.family(name, help, self.wals().map(|(labels, stats)| (labels, value_of(stats))))?;
        }
        for (name, help, value_of) in ROLE_FAMILIES {
            let roles = self.answered().flat_map(|(_, stats)| &stats.roles);
            let samples = roles.map(|(group, role)| (vec![("group", group.0.to_string())], value_of(role)));
            page.family(name, help, samples)?;
        }
        for (name, help, value_of) in GROUP_FAMILIES {
            let groups = self.answered().flat_map(|(_, stats)| &stats.groups);
            let samples = groups.map(|(group, standing)| (vec![("group", group.0.to_string())], value_of(standing)));
            page.family(name, help, samples)?;
        }
        let max = self.shard_config.wal.cache_bytes as f64;
        let help = "Bytes that weir_wal_cache_bytes may be: the log's share of wal.cache_bytes.";
        page.family("weir_wal_cache_bytes_max", help, self.wals().map(|(wal, _)| (wal, max)))?;
        let help = "Time of a durable write of waiting batches to the log.";
        page.histograms(
            "weir_wal_write_seconds",
            help,
            self.wals().map(|(wal, stats)| (wal, stats.write_times.clone())),
        )?;
        Ok(())
    }
}

impl Snapshot {
    fn encode_machine(&self, page: &mut Page<'_>) -> fmt::Result {
        let Machine { process, disk_bytes, module_store_bytes } = &self.machine;
        for (name, help, value_of) in PROCESS_FAMILIES {
            page.family(name, help, process.iter().map(|process| (Labels::new(), value_of(process))))?;
        }
        let value = |value: Option<u64>| value.map(|value| (Labels::new(), value as f64));
        let help = "Bytes of the data directory's disk that the server may still take. A server in memory has none.";
        page.family("weir_disk_free_bytes", help, value(disk_bytes.map(|(free, _)| free)))?;
        let help = "Bytes of the data directory's disk.";
        page.family("weir_disk_size_bytes", help, value(disk_bytes.map(|(_, size)| size)))?;
        let help = "Bytes of uploaded modules and their machine code in the data directory.";
        page.family("weir_module_store_bytes", help, value(*module_store_bytes))
    }

    fn encode_cold(&self, page: &mut Page<'_>) -> fmt::Result {
        for (name, help, value_of) in COLD_FAMILIES {
            page.family(name, help, self.cold.iter().map(|cold| (Labels::new(), value_of(cold))))?;
        }
        let errors = self.cold.iter().flat_map(|cold| StoreError::KINDS.into_iter().zip(cold.store.errors));
        let errors = errors.map(|(kind, count)| (vec![("kind", kind.to_string())], count as f64));
        page.family("weir_cold_errors_total", "What the store has refused, or not answered, by kind.", errors)
    }

    fn encode_http(&self, page: &mut Page<'_>) -> fmt::Result {
        let requests = self.http.iter().enumerate().flat_map(|(shard, stats)| {
            stats.requests().map(move |(route, status, count)| {
                let labels =
                    [("shard", shard.to_string()), ("route", route.name().to_string()), ("status", status.to_string())];
                (labels.to_vec(), count as f64)
            })
        });
        let help = "Requests answered, by what they are for and the status; a live read counts when it begins.";
        page.family("weir_requests_total", help, requests)?;
        let shards = || self.http.iter().enumerate();
        let events = shards().map(|(shard, stats)| (shard_label(shard), stats.live_events.get() as f64));
        page.family("weir_live_events_total", "Events sent to live readers (SSE), each of them counted.", events)?;
        let bytes = shards().map(|(shard, stats)| (shard_label(shard), stats.live_event_bytes.get() as f64));
        page.family("weir_live_event_bytes_total", "Bytes of records and of views in these events.", bytes)
    }

    fn encode_connections(&self, page: &mut Page<'_>) -> fmt::Result {
        let counts = self.connections.counts();
        let help = "Connections that were accepted and given to a shard.";
        page.value("weir_connections_accepted_total", help, counts.accepted as f64)?;
        let help = "Connections closed at once because http.connections_max was met.";
        page.value("weir_connections_turned_away_total", help, counts.turned_away as f64)?;
        let help = "Times that a connection could not be accepted, most often for want of file descriptors.";
        page.value("weir_accept_errors_total", help, counts.accept_errors as f64)?;
        let open = self.connections.open_by_shard();
        let open = open.iter().enumerate().map(|(shard, open)| (shard_label(shard), *open as f64));
        page.family("weir_connections_open", "Connections open now.", open)
    }
}

/// The WALs that a shard runs, in the order of its figures.
fn wals_of(topology: Topology, shard: ShardId) -> impl Iterator<Item = weir_types::WalId> {
    (0..topology.wals).map(weir_types::WalId).filter(move |wal| topology.shard_of(*wal) == shard)
}

fn shard_label(shard: usize) -> Labels {
    vec![("shard", shard.to_string())]
}

/// What is written to.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// A family of counters, if it is called so, or of gauges.
    fn family(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, f64)>) -> fmt::Result {
        // What the encoder calls a counter gets the end of its name from it.
        let (name, kind) = match name.strip_suffix("_total") {
            Some(name) => (name, MetricType::Counter),
            None => (name, MetricType::Gauge),
        };
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            let mut metric = family.encode_family(&labels)?;
            // A whole number is written as one: people read this, too.
            let whole = (value.fract() == 0.0 && (0.0..WHOLE_MAX).contains(&value)).then_some(value as u64);
            match (kind, whole) {
                (MetricType::Counter, Some(whole)) => metric.encode_counter::<NoLabelSet, _, f64>(&whole, None)?,
                (MetricType::Counter, None) => metric.encode_counter::<NoLabelSet, _, f64>(&value, None)?,
                (_, Some(whole)) => metric.encode_gauge(&whole)?,
                (_, None) => metric.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    /// A family with one sample, which has no labels.
    fn value(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.family(name, help, [(Labels::new(), value)])
    }

    /// A family of histograms. Times, which are called so, are written in seconds.
    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, Distribution)>,
    ) -> fmt::Result {
        let unit = if name.ends_with("_seconds") { NANOS_PER_SECOND } else { 1.0 };
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, Distribution { ends, counts, sum }) in samples {
            let ends = ends.iter().map(|&end| end as f64 / unit).chain([f64::INFINITY]);
            let count = counts.iter().sum();
            let buckets: Vec<(f64, u64)> = ends.zip(counts).collect();
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(sum as f64 / unit, count, &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use weir_types::GroupId;

    use super::*;
    use crate::serve::shard_config;

    #[test]
    fn figures_carry_their_shard_and_wal() {
        let topology = Topology { shards: 2, wals: 3, groups: 3 };
        let wal = |units| WalStats { units, ..WalStats::default() };
        let first = ShardStats {
            appends: 1 << 40,
            limits_met: Limit::ALL.map(|limit| if limit == Limit::Reads { 7 } else { 0 }),
            guest_busy: Duration::from_millis(250),
            wals: vec![wal(1), wal(2)],
            roles: vec![(GroupId(0), Role::Leading { term: 3 })],
            groups: vec![(
                GroupId(0),
                Standing { term: 3, last_index: 9, applied_index: 7, snapshot_index: 5, snapshot_bytes: 100 },
            )],
            ..ShardStats::default()
        };
        let config = Config::default();
        let sizes = config.sizes(topology.wals).expect("the defaults fit each other");
        let snapshot = Snapshot {
            uptime: Duration::from_millis(1500),
            ready: Some(Duration::from_millis(250)),
            topology,
            connections: Connections::new(2),
            shards: vec![Some(first), None],
            turns: vec![Arc::default(), Arc::default()],
            http: vec![Arc::default(), Arc::default()],
            shard_config: shard_config(&config, 1, topology, sizes),
            config: Arc::new(config),
            cold: Some(ColdStats::default()),
            machine: Machine::default(),
        };
        let text = snapshot.text();
        let lines: Vec<&str> = text.lines().collect();
        for line in [
            "weir_connections_open_max 20000",
            "weir_subscribers_max{shard=\"1\"} 25000",
            "weir_uptime_seconds 1.5",
            "weir_ready_seconds 0.25",
            "weir_group_term{group=\"0\"} 3",
            "weir_group_last_index{group=\"0\"} 9",
            "weir_group_applied_index{group=\"0\"} 7",
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
            "weir_turn_seconds_sum{shard=\"1\"} 0.0",
        ] {
            assert!(lines.contains(&line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("weir_appends_total{shard=\"1\"}"), "a silent shard has no samples");
    }
}
