//! Configuration: one struct per section, its defaults, and the checks that need no disk.
//!
//! A value comes from the first of these that has it: flag, environment, file, default ([`crate::layers`] merges them).
//! All sizes and limits are of the whole node; what a shard or a WAL gets of them is its even share, so that the same
//! file fits a machine with other cores. `0` means "chosen by the server" where a field says so.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use weir_cluster::frame::{BODIES_MAX, FRAME_BYTES_MAX, HEAD_BYTES_MAX};
use weir_cold::S3Location;
use weir_http::{Origins, Proxies};
use weir_types::limits::{BATCH_BYTES_MAX, BINDINGS_PER_BUCKET_MAX, BODY_BYTES_CEILING};

use crate::address::ListenAddress;
use crate::cluster_config::{ClusterConfig, ClusterConfigError};
use crate::hooks_config::{HooksConfig, HooksConfigError};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The variable that may have the cluster's secret. It is no key, so that nothing shows it.
pub(crate) const SECRET_VARIABLE: &str = "WEIR_CLUSTER_SECRET";

/// Most shards, WALs and groups that can be asked for: far beyond any machine, so that a typing error is an error.
const COUNT_MAX: u16 = 256;

/// Levels of the log, each with those before it.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Segments that a WAL cannot do without: the one being written, the spare, and the reserve.
const SEGMENTS_MIN: u64 = 3;

/// Bytes of a WAL segment and of a log entry that are not the entry's commands. Generous: only a bound is needed.
const SEGMENT_OVERHEAD_BYTES: u64 = 256 << 10;

/// Most bytes of a command per byte of a request body. The worst case is a JSON array of one-digit numbers: of every two
/// bytes (`1,`) one record is made, stored with two bytes and an end of four.
const COMMAND_BYTES_PER_BODY_BYTE: u64 = 3;

/// Bytes of a request body in a cluster, at most: the command goes to the other nodes in one message.
const CLUSTER_BODY_BYTES_MAX: u64 = 20 * MIB;
const _: () = {
    let entry = CLUSTER_BODY_BYTES_MAX * COMMAND_BYTES_PER_BODY_BYTE + SEGMENT_OVERHEAD_BYTES;
    assert!(entry + HEAD_BYTES_MAX as u64 + 4 * BODIES_MAX as u64 <= FRAME_BYTES_MAX as u64);
};

/// Bytes of a module in a cluster, at most: it goes to the other nodes in one message, with other mail beside it.
const CLUSTER_MODULE_BYTES_MAX: u64 = 48 * MIB;
const _: () = assert!(CLUSTER_MODULE_BYTES_MAX + 12 * MIB <= FRAME_BYTES_MAX as u64);

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    FileUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML, or has an unknown key or a value of the wrong kind; the text says which and where.
    #[error("the configuration file {} is not valid: {reason}", path.display())]
    FileInvalid {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// An environment variable or flag has a value of the wrong kind.
    #[error("{name} is not valid: {reason}")]
    ValueInvalid {
        /// The variable or flag.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An address that others can reach, without `insecure`.
    #[error(
        "{key} = {address} can be reached from other machines, but there is no authentication and no TLS yet; \
         listen on a loopback address, or say --insecure if this is meant"
    )]
    NotLoopback {
        /// `listen` or `admin_listen`.
        key: &'static str,
        /// The address.
        address: ListenAddress,
    },
    /// A number outside of its range.
    #[error("{key} = {value} is out of range: it must be {range}")]
    OutOfRange {
        /// Section and key.
        key: &'static str,
        /// The value.
        value: u64,
        /// What it may be.
        range: String,
    },
    /// What is configured of the cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterConfigError),
    /// What is configured of webhooks.
    #[error(transparent)]
    Hooks(#[from] HooksConfigError),
    /// A text that cannot be used.
    #[error("{key} = {value:?} cannot be used: {reason}")]
    TextInvalid {
        /// Section and key.
        key: &'static str,
        /// The value.
        value: String,
        /// Why.
        reason: String,
    },
}

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// `[server]`
    pub(crate) server: ServerConfig,
    /// `[http]`
    pub(crate) http: HttpConfig,
    /// `[wal]`
    pub(crate) wal: WalConfig,
    /// `[cold]`
    pub(crate) cold: ColdConfig,
    /// `[cluster]`
    pub(crate) cluster: ClusterConfig,
    /// `[hooks]`
    pub(crate) hooks: HooksConfig,
    /// `[limits]`
    pub(crate) limits: LimitsConfig,
    /// `[buckets]`
    pub(crate) buckets: BucketsConfig,
    /// `[modules]`
    pub(crate) modules: ModulesConfig,
    /// `[log]`
    pub(crate) log: LogConfig,
}

/// `[server]`: where it listens, where its data is, how wide it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ServerConfig {
    /// Address of the public listener.
    pub(crate) listen: ListenAddress,
    /// Address of the admin listener.
    pub(crate) admin_listen: ListenAddress,
    /// The data directory; relative to the working directory.
    pub(crate) data_dir: PathBuf,
    /// Keep everything in memory.
    pub(crate) in_memory: bool,
    /// Shards; 0: one per core.
    pub(crate) shards: u16,
    /// Groups of a new node; 0: one per WAL, or what the node was formed with.
    pub(crate) groups: u16,
    /// Allow addresses beyond loopback.
    pub(crate) insecure: bool,
    /// How long it goes on when it is asked to stop, in milliseconds: `/readyz` is 503 from the first.
    pub(crate) drain_delay_ms: u64,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 4437)).into(),
            admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 4438)).into(),
            data_dir: PathBuf::from("./weir-data"),
            in_memory: false,
            shards: 0,
            groups: 0,
            insecure: false,
            drain_delay_ms: 0,
        }
    }
}

/// `[http]`: times, sizes and headers of the public listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HttpConfig {
    /// Longest wait of a long-poll, in milliseconds.
    pub(crate) long_poll_timeout_ms: u64,
    /// Silence after which an SSE response sends a comment, in milliseconds.
    pub(crate) sse_keep_alive_ms: u64,
    /// Age at which an SSE response ends, so that clients spread anew, in milliseconds.
    pub(crate) sse_max_age_ms: u64,
    /// Longest time for a request's headers, in milliseconds.
    pub(crate) header_read_timeout_ms: u64,
    /// Longest pause of a request's body, and the time over which a large one must keep 4 KiB per second, in milliseconds.
    pub(crate) body_read_timeout_ms: u64,
    /// Longest time that a client may keep writes waiting without taking 4 KiB per second, in milliseconds.
    pub(crate) write_timeout_ms: u64,
    /// Open connections beyond which new ones are turned away.
    pub(crate) connections_max: u64,
    /// Largest request body, in bytes; 0: 16 MiB, and 2 MiB in memory.
    pub(crate) body_bytes_max: u64,
    /// Longest head of a request, and what is read of a body at once, in bytes.
    pub(crate) head_bytes_max: u64,
    /// Requests under way on one HTTP/2 connection.
    pub(crate) streams_per_connection_max: u32,
    /// Origins whose pages may use the server, separated by commas; empty for none. `*` is any, without credentials and not under
    /// `/-/`, where modules are uploaded and bound; an origin that is named may do both.
    pub(crate) cors_origins: String,
    /// Who may keep what a read has brought: `public` caches, `private` ones only, or none with `no-store`.
    pub(crate) cache: CacheConfig,
    /// What clients call the server by, such as `https://streams.example/base`, for the `Location` of what they create. Empty:
    /// what the request says.
    pub(crate) public_url: String,
    /// Addresses of proxies whose `X-Forwarded-Proto`, `-Host` and `-Prefix` say what clients call the server by, separated by
    /// commas.
    pub(crate) trusted_proxies: String,
    /// Names by which clients may call the server, separated by commas, besides loopback and the listen address; `*` for any.
    /// Empty: any if it listens beyond loopback, no others if it does not. Requests to other names are answered `421`.
    pub(crate) hosts: String,
}

impl Default for HttpConfig {
    fn default() -> HttpConfig {
        HttpConfig {
            long_poll_timeout_ms: 20_000,
            sse_keep_alive_ms: 15_000,
            sse_max_age_ms: 60_000,
            header_read_timeout_ms: 10_000,
            body_read_timeout_ms: 30_000,
            write_timeout_ms: 30_000,
            connections_max: 20_000,
            body_bytes_max: 0,
            head_bytes_max: 64 << 10,
            streams_per_connection_max: 256,
            cors_origins: "*".to_string(),
            cache: CacheConfig::Public,
            public_url: String::new(),
            trusted_proxies: String::new(),
            hosts: String::new(),
        }
    }
}

/// `http.cache`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CacheConfig {
    /// Any cache.
    Public,
    /// The client's own.
    Private,
    /// None.
    NoStore,
}

/// `[wal]`: the write-ahead logs, which also hold the streams' bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WalConfig {
    /// Bytes of a segment, a multiple of 4,096; 0: 64 MiB, and 8 MiB in memory.
    pub(crate) segment_bytes: u64,
    /// Bytes of all segments of all WALs; 0: 16 GiB, and 256 MiB in memory, or four segments per WAL if that is more.
    pub(crate) budget_bytes: u64,
    /// Memory for entries that were written lately, of all WALs; 0: 256 MiB, and 64 MiB in memory.
    pub(crate) cache_bytes: u64,
}

/// `[cold]`: where bytes go that have left the write-ahead logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ColdConfig {
    /// `local`, `off`, or `s3://bucket/prefix`.
    pub(crate) url: String,
    /// The address of an S3 server that is not Amazon's, `https://host:port`.
    pub(crate) endpoint: String,
    /// Its region.
    pub(crate) region: String,
    /// Whether the connection to it may go without TLS.
    pub(crate) allow_http: bool,
    /// Bytes of each group's streams that may stay in its log.
    pub(crate) flush_bytes: u64,
    /// How long bytes may stay in a log.
    pub(crate) flush_age_ms: u64,
    /// Memory for what was read of the cold tier.
    pub(crate) cache_bytes: u64,
}

/// A folder of the data directory.
const COLD_LOCAL: &str = "local";
/// No cold tier: bytes stay in the logs until their stream is deleted.
const COLD_OFF: &str = "off";

impl Default for ColdConfig {
    fn default() -> ColdConfig {
        ColdConfig {
            url: COLD_LOCAL.to_string(),
            endpoint: String::new(),
            region: String::new(),
            allow_http: false,
            flush_bytes: 32 * MIB,
            flush_age_ms: 10 * 60 * 1000,
            cache_bytes: 64 * MIB,
        }
    }
}

impl ColdConfig {
    /// The `url` of a folder of the data directory.
    pub(crate) const LOCAL: &str = COLD_LOCAL;

    /// Whether there is a cold tier. What is kept in memory has none.
    pub(crate) fn is_on(&self) -> bool {
        self.url != COLD_OFF
    }

    /// Whether such a tier is a bucket.
    pub(crate) fn is_s3(url: &str) -> bool {
        S3Location::parse(url).is_some()
    }

    /// The bucket that it is in; none where it is a folder.
    pub(crate) fn s3(&self) -> Option<S3Location> {
        let (bucket, prefix) = S3Location::parse(&self.url)?;
        Some(S3Location {
            bucket: bucket.to_string(),
            prefix: prefix.to_string(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            allow_http: self.allow_http,
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        if ![COLD_LOCAL, COLD_OFF].contains(&self.url.as_str()) && self.s3().is_none() {
            let reason = format!("it is `{COLD_LOCAL}`, `{COLD_OFF}` or `s3://bucket/prefix`");
            return Err(ConfigError::TextInvalid { key: "cold.url", value: self.url.clone(), reason });
        }
        let endpoint = self.endpoint.as_str();
        let reason = match endpoint.split_once("://") {
            None if endpoint.is_empty() => None,
            Some(("https", _)) => None,
            Some(("http", _)) if self.allow_http => None,
            Some(("http", _)) => {
                Some("without TLS, anybody on the way can read it: `cold.allow_http = true` allows that")
            }
            _ => Some("it begins with https://"),
        };
        if let Some(reason) = reason {
            let (value, reason) = (self.endpoint.clone(), reason.to_string());
            return Err(ConfigError::TextInvalid { key: "cold.endpoint", value, reason });
        }
        check_range("cold.flush_bytes", self.flush_bytes, MIB, i64::MAX as u64)?;
        check_range("cold.cache_bytes", self.cache_bytes, MIB, i64::MAX as u64)
    }
}

/// `[limits]`: what bounds the memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitsConfig {
    /// Memory for the index of stored bytes, of all shards.
    pub(crate) hot_index_bytes_max: u64,
    /// Producers that one stream remembers.
    pub(crate) producers_per_stream_max: u32,
    /// Bindings of one bucket.
    pub(crate) bindings_per_bucket_max: u32,
    /// Bytes that a fork may inherit where a validator has to judge them.
    pub(crate) fork_judged_bytes_max: u64,
    /// Memory of writes that are coming in or not answered yet, of all shards.
    pub(crate) in_flight_bytes_max: u64,
    /// Memory of pages, views and listings that clients have not taken yet.
    pub(crate) read_bytes_max: u64,
    /// Live readers (SSE and waiting long-polls), of all shards.
    pub(crate) subscribers_max: u64,
    /// Memory of events that live readers have not taken yet, of all shards; beyond it the slowest are cut off.
    pub(crate) live_bytes_max: u64,
    /// Memory of such events of one stream: how far a live reader may fall behind.
    pub(crate) live_bytes_per_stream_max: u64,
}

impl Default for LimitsConfig {
    fn default() -> LimitsConfig {
        LimitsConfig {
            hot_index_bytes_max: GIB,
            producers_per_stream_max: 10_000,
            bindings_per_bucket_max: BINDINGS_PER_BUCKET_MAX as u32,
            fork_judged_bytes_max: 16 * MIB,
            in_flight_bytes_max: 256 * MIB,
            read_bytes_max: 256 * MIB,
            subscribers_max: 50_000,
            live_bytes_max: 256 * MIB,
            live_bytes_per_stream_max: 4 * MIB,
        }
    }
}

/// `[buckets]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BucketsConfig {
    /// Whether a bucket comes to be with its first stream.
    pub(crate) auto_create: bool,
}

impl Default for BucketsConfig {
    fn default() -> BucketsConfig {
        BucketsConfig { auto_create: true }
    }
}

/// `[modules]`: what modules may take, and how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ModulesConfig {
    /// Largest upload, in bytes.
    pub(crate) module_bytes_max: u64,
    /// What all modules and their machine code may have on disk together, in bytes.
    pub(crate) store_bytes_max: u64,
    /// Memory of one instance, in bytes.
    pub(crate) memory_bytes_max: u64,
    /// Time after which a compilation is killed, in milliseconds.
    pub(crate) compile_timeout_ms: u64,
    /// How long an upload waits for its compilation before it is answered with `202`, in milliseconds.
    pub(crate) upload_wait_ms: u64,
    /// Memory of all instances and kept snapshots of the node together, in bytes. Instances that were used least recently go
    /// before a request is refused.
    pub(crate) guest_bytes_max: u64,
    /// CPU time after which a call into a module is ended, in milliseconds. Most are ended by their fuel long before.
    pub(crate) call_timeout_ms: u64,
    /// Calls of one module under one configuration that may wait for their turn on a shard.
    pub(crate) calls_waiting_max: u64,
    /// Summaries kept up to date in memory, of all shards; others are computed again when they are asked for.
    pub(crate) folds_max: u64,
}

impl Default for ModulesConfig {
    fn default() -> ModulesConfig {
        ModulesConfig {
            module_bytes_max: 32 * MIB,
            store_bytes_max: 4 * GIB,
            memory_bytes_max: 64 * MIB,
            guest_bytes_max: GIB,
            calls_waiting_max: 1_024,
            compile_timeout_ms: 60_000,
            upload_wait_ms: 10_000,
            call_timeout_ms: 1_000,
            folds_max: 16_384,
        }
    }
}

/// `[log]`: what is written to standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogConfig {
    /// Form of a line.
    pub(crate) format: LogFormat,
    /// What is logged: one of [`LEVELS`], or directives like `info,weir_storage=debug`, each a level or a target and its level.
    pub(crate) level: String,
    /// Whether a line is logged for each request, as `info`: method, path, status, bytes and milliseconds.
    pub(crate) access: bool,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { format: LogFormat::Text, level: "info".to_string(), access: false }
    }
}

impl LogConfig {
    /// The filter that `level` describes.
    ///
    /// # Errors
    /// [`ConfigError::TextInvalid`] when it describes none.
    pub(crate) fn filter(&self) -> Result<EnvFilter, ConfigError> {
        let invalid = |reason| ConfigError::TextInvalid { key: "log.level", value: self.level.clone(), reason };
        let directives: Vec<String> =
            self.level.split(',').map(checked_directive).collect::<Result<_, _>>().map_err(invalid)?;
        // openraft tells each step of each group as `info`, and as `warn` each heartbeat that a node has not answered, five in a
        // second; links say once that they are down. object_store tells each try. Whoever wants that says so: a later directive
        // wins.
        EnvFilter::try_new(format!("openraft=error,object_store=warn,{}", directives.join(",")))
            .map_err(|error| invalid(error.to_string()))
    }
}

/// A directive without spaces if its level is one of [`LEVELS`], or why it cannot be used. The library takes any other bare word
/// for the target of what is to be logged, and then logs nothing else.
fn checked_directive(directive: &str) -> Result<String, String> {
    let (target, level) = match directive.rsplit_once('=') {
        Some((target, level)) => (Some(target.trim()), level.trim()),
        None => (None, directive.trim()),
    };
    if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
        let levels = LEVELS.join(", ");
        return Err(format!(
            "{level:?} is no level; it must be one of {levels}, or directives such as info,weir_storage=debug"
        ));
    }
    match target {
        Some("") => Err(format!("{directive:?} has no target before its level")),
        Some(target) => Ok(format!("{target}={level}")),
        None => Ok(level.to_string()),
    }
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// The sizes that depend on the kind of disk and the number of WALs, with every `0` resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Bytes of a WAL segment.
    pub(crate) segment_bytes: u64,
    /// Bytes of one WAL's segments.
    pub(crate) budget_bytes_per_wal: u64,
    /// Bytes of one WAL's cache.
    pub(crate) cache_bytes_per_wal: u64,
    /// Memory for the index of what is in one WAL, which is more than its snapshots take.
    pub(crate) index_bytes_per_wal: u64,
    /// Largest request body.
    pub(crate) body_bytes_max: u64,
}

impl Config {
    /// Checks what can be checked without the data directory.
    ///
    /// # Errors
    /// [`ConfigError::NotLoopback`], [`ConfigError::OutOfRange`] or [`ConfigError::TextInvalid`], naming the key.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (key, address) in [("listen", &self.server.listen), ("admin_listen", &self.server.admin_listen)] {
            if !address.socket().ip().is_loopback() && !self.server.insecure {
                return Err(ConfigError::NotLoopback { key, address: address.clone() });
            }
        }
        check_range("server.shards", self.server.shards.into(), 0, COUNT_MAX.into())?;
        check_range("server.groups", self.server.groups.into(), 0, COUNT_MAX.into())?;
        check_range("http.connections_max", self.http.connections_max, 1, u32::MAX.into())?;
        check_range("http.body_bytes_max", self.http.body_bytes_max, 0, BODY_BYTES_CEILING as u64)?;
        check_range("wal.segment_bytes", self.wal.segment_bytes, 0, GIB)?;
        if !self.wal.segment_bytes.is_multiple_of(weir_storage::BLOCK_BYTES as u64) {
            let range = format!("a multiple of {}", weir_storage::BLOCK_BYTES);
            return Err(ConfigError::OutOfRange { key: "wal.segment_bytes", value: self.wal.segment_bytes, range });
        }
        check_range("wal.budget_bytes", self.wal.budget_bytes, 0, i64::MAX as u64)?;
        self.cold.check()?;
        self.hooks.check()?;
        self.check_cluster()?;
        check_range("limits.producers_per_stream_max", self.limits.producers_per_stream_max.into(), 1, 1 << 20)?;
        let bindings_max = BINDINGS_PER_BUCKET_MAX as u64;
        check_range("limits.bindings_per_bucket_max", self.limits.bindings_per_bucket_max.into(), 1, bindings_max)?;
        check_range("limits.fork_judged_bytes_max", self.limits.fork_judged_bytes_max, 0, i64::MAX as u64)?;
        check_range("limits.in_flight_bytes_max", self.limits.in_flight_bytes_max, MIB, i64::MAX as u64)?;
        check_range("limits.read_bytes_max", self.limits.read_bytes_max, MIB, i64::MAX as u64)?;
        check_range("limits.subscribers_max", self.limits.subscribers_max, 1, u32::MAX.into())?;
        check_range("limits.live_bytes_max", self.limits.live_bytes_max, MIB, i64::MAX as u64)?;
        check_range("limits.live_bytes_per_stream_max", self.limits.live_bytes_per_stream_max, 1, i64::MAX as u64)?;
        // The HTTP library can do with no less than 8 KiB.
        check_range("http.head_bytes_max", self.http.head_bytes_max, 8 << 10, MIB)?;
        let streams_max = self.http.streams_per_connection_max;
        check_range("http.streams_per_connection_max", streams_max.into(), 1, 1 << 16)?;
        check_range("modules.module_bytes_max", self.modules.module_bytes_max, 1, 256 * MIB)?;
        check_range("modules.store_bytes_max", self.modules.store_bytes_max, MIB, u64::MAX)?;
        // Below it hardly a module starts; above it there are no addresses in 32 bits.
        check_range("modules.memory_bytes_max", self.modules.memory_bytes_max, MIB, 4 * GIB)?;
        // Each lane can have one instance at its largest.
        check_range(
            "modules.guest_bytes_max",
            self.modules.guest_bytes_max,
            self.modules.memory_bytes_max,
            1024 * GIB,
        )?;
        check_range("modules.calls_waiting_max", self.modules.calls_waiting_max, 1, 1 << 20)?;
        check_range("modules.folds_max", self.modules.folds_max, 1, u32::MAX.into())?;
        let day_ms = 24 * 60 * 60 * 1000;
        for (key, value) in [
            ("http.long_poll_timeout_ms", self.http.long_poll_timeout_ms),
            ("http.sse_keep_alive_ms", self.http.sse_keep_alive_ms),
            ("http.sse_max_age_ms", self.http.sse_max_age_ms),
            ("http.header_read_timeout_ms", self.http.header_read_timeout_ms),
            ("http.body_read_timeout_ms", self.http.body_read_timeout_ms),
            ("http.write_timeout_ms", self.http.write_timeout_ms),
            ("modules.compile_timeout_ms", self.modules.compile_timeout_ms),
            ("modules.upload_wait_ms", self.modules.upload_wait_ms),
            ("modules.call_timeout_ms", self.modules.call_timeout_ms),
            ("cold.flush_age_ms", self.cold.flush_age_ms),
        ] {
            check_range(key, value, 1, day_ms)?;
        }
        check_range("server.drain_delay_ms", self.server.drain_delay_ms, 0, day_ms)?;
        let http = &self.http;
        check_text("http.cors_origins", &http.cors_origins, Origins::parse(&http.cors_origins))?;
        check_text("http.trusted_proxies", &http.trusted_proxies, Proxies::parse(&http.trusted_proxies))?;
        check_text("http.public_url", &http.public_url, check_url(&http.public_url))?;
        self.log.filter().map(drop)
    }

    fn check_cluster(&self) -> Result<(), ConfigError> {
        let has_secret = std::env::var_os(SECRET_VARIABLE).is_some();
        self.cluster.check(has_secret, self.server.insecure)?;
        if self.cluster.is_member() {
            check_range("http.body_bytes_max", self.http.body_bytes_max, 0, CLUSTER_BODY_BYTES_MAX)?;
            check_range("modules.module_bytes_max", self.modules.module_bytes_max, 1, CLUSTER_MODULE_BYTES_MAX)?;
            let unsupported = |sentence| Err(ClusterConfigError::Unsupported(sentence).into());
            if self.server.in_memory {
                return unsupported(
                    "a node that keeps everything in memory forgets what it has promised the others: a cluster's nodes have data directories",
                );
            }
        }
        Ok(())
    }

    /// Shards to run: as configured, else one per core.
    pub(crate) fn shards(&self) -> u16 {
        if self.server.shards > 0 {
            return self.server.shards;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        cores.min(COUNT_MAX.into()) as u16
    }

    /// The sizes for a node with `wals` WALs.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] when they do not fit each other.
    pub(crate) fn sizes(&self, wals: u16) -> Result<Sizes, ConfigError> {
        assert!(wals > 0, "a node has a WAL");
        let chosen = |configured: u64, on_disk: u64, in_memory: u64| match configured {
            0 if self.server.in_memory => in_memory,
            0 => on_disk,
            configured => configured,
        };
        let wals = u64::from(wals);
        let body_bytes_max = chosen(self.http.body_bytes_max, 16 * MIB, 2 * MIB);
        let segment_bytes = chosen(self.wal.segment_bytes, 64 * MIB, 8 * MIB);
        let budget_default = chosen(0, 16 * GIB, 256 * MIB).max(wals * (SEGMENTS_MIN + 1) * segment_bytes);
        let budget_bytes = chosen(self.wal.budget_bytes, budget_default, budget_default);
        let cache_bytes = chosen(self.wal.cache_bytes, 256 * MIB, 64 * MIB);
        // A log entry never spans two segments. It is a batch of several commands, or one command of any size.
        let entry_bytes_max = (body_bytes_max * COMMAND_BYTES_PER_BODY_BYTE).max(BATCH_BYTES_MAX as u64);
        check_range("wal.segment_bytes", segment_bytes, entry_bytes_max + SEGMENT_OVERHEAD_BYTES, GIB).map_err(
            |error| match error {
                ConfigError::OutOfRange { key, value, range } => ConfigError::OutOfRange {
                    key,
                    value,
                    range: format!("{range}, for bodies of {body_bytes_max} bytes (http.body_bytes_max)"),
                },
                other => other,
            },
        )?;
        check_range("wal.budget_bytes", budget_bytes, wals * SEGMENTS_MIN * segment_bytes, i64::MAX as u64)?;
        Ok(Sizes {
            segment_bytes,
            budget_bytes_per_wal: budget_bytes / wals,
            cache_bytes_per_wal: cache_bytes / wals,
            index_bytes_per_wal: self.limits.hot_index_bytes_max / wals,
            body_bytes_max,
        })
    }
}

/// A configured number as a size of this machine; what is beyond its memory is as good as no limit.
pub(crate) fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn check_text<T>(key: &'static str, value: &str, read: Result<T, String>) -> Result<(), ConfigError> {
    match read {
        Ok(_) => Ok(()),
        Err(reason) => Err(ConfigError::TextInvalid { key, value: value.to_string(), reason }),
    }
}

/// Whether a text can be what addresses begin with, or is empty.
fn check_url(url: &str) -> Result<(), String> {
    let rest = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let is_base = |rest: &str| {
        let is_plain = rest.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b','));
        is_plain && !rest.is_empty() && !rest.starts_with('/') && !rest.ends_with('/')
    };
    match url.is_empty() || rest.is_some_and(is_base) {
        true => Ok(()),
        false => Err("it is a URL such as https://streams.example or https://example.com/streams".to_string()),
    }
}

fn check_range(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::OutOfRange { key, value, range: format!("{min} to {max}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        config.check().expect_err("a refused configuration").to_string()
    }

    #[test]
    fn the_defaults_pass_their_own_checks() {
        let mut config = Config::default();
        config.check().expect("the defaults are valid");
        for in_memory in [false, true] {
            config.server.in_memory = in_memory;
            for wals in [1, 2, 64, COUNT_MAX] {
                config.sizes(wals).expect("the default sizes fit any machine");
            }
        }
    }

    #[test]
    fn bodies_and_modules_fit_a_message_between_nodes() {
        let in_cluster = |change: fn(&mut Config)| {
            refusal(|config| {
                config.cluster.node_id = 1;
                config.cluster.id = "c1".into();
                config.cluster.peers = "2=127.0.0.1:4440,3=127.0.0.1:4441".into();
                change(config);
            })
        };
        let sentence = in_cluster(|config| config.http.body_bytes_max = CLUSTER_BODY_BYTES_MAX + 1);
        assert!(sentence.contains("http.body_bytes_max") && sentence.contains("20971520"), "{sentence}");
        let sentence = in_cluster(|config| config.modules.module_bytes_max = CLUSTER_MODULE_BYTES_MAX + 1);
        assert!(sentence.contains("modules.module_bytes_max") && sentence.contains("50331648"), "{sentence}");
    }

    #[test]
    fn addresses_beyond_loopback_need_insecure() {
        let public = ListenAddress::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 4437)));
        let all: ListenAddress = ":4437".parse().expect("an address");
        assert!(refusal(|config| config.server.listen = public.clone()).contains("listen = 0.0.0.0:4437 can"));
        assert!(refusal(|config| config.server.listen = all).contains("listen = :4437 (0.0.0.0:4437) can"));
        assert!(refusal(|config| config.server.admin_listen = public.clone()).contains("--insecure"));
        let mut config = Config::default();
        config.server.listen = public;
        config.server.insecure = true;
        config.check().expect("it was said that this is meant");
        config.server = ServerConfig { listen: "[::1]:1".parse().expect("an address"), ..ServerConfig::default() };
        config.check().expect("IPv6 has a loopback address too");
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        assert!(refusal(|config| config.http.connections_max = 0).contains("http.connections_max = 0"));
        assert!(refusal(|config| config.http.body_bytes_max = 1 << 40).contains("http.body_bytes_max"));
        assert!(refusal(|config| config.wal.segment_bytes = 1_000_000).contains("a multiple of 4096"));
        assert!(refusal(|config| config.http.cors_origins = "a\r\nb".to_string()).contains("http.cors_origins"));
        assert!(refusal(|config| config.http.trusted_proxies = "proxy".to_string()).contains("http.trusted_proxies"));
        for url in ["streams.example", "ftp://streams.example", "https://streams.example/", "https://a/b?c"] {
            assert!(refusal(|config| config.http.public_url = url.to_string()).contains("http.public_url"), "{url}");
        }
        assert!(refusal(|config| config.modules.memory_bytes_max = 8 * GIB).contains("modules.memory_bytes_max"));
        assert!(refusal(|config| config.modules.call_timeout_ms = 0).contains("modules.call_timeout_ms = 0"));
        assert!(refusal(|config| config.modules.folds_max = 0).contains("modules.folds_max = 0"));
    }

    #[test]
    fn a_log_level_is_a_level_or_directives_that_each_have_one() {
        let set = |level: &str| Config {
            log: LogConfig { level: level.to_string(), ..LogConfig::default() },
            ..Config::default()
        };
        for good in
            LEVELS.into_iter().chain(["INFO", "weir=debug,tokio=warn", "info, weir_storage=trace", "openraft=off"])
        {
            set(good).check().unwrap_or_else(|error| panic!("{good:?}: {error}"));
        }
        for bad in
            ["", "warning", "verbose", "loud", "weir=loud", "weir=", "=info", "info,", "info,,debug", "weir", "3"]
        {
            let refused = set(bad).check().expect_err(bad).to_string();
            assert!(refused.starts_with(&format!("log.level = {bad:?} cannot be used")), "{refused}");
        }
        let refused = set("warning").check().expect_err("no level").to_string();
        assert!(
            refused.contains("\"warning\" is no level; it must be one of off, error, warn, info, debug, trace"),
            "{refused}"
        );
    }

    #[test]
    fn raft_is_quiet_unless_it_is_asked_for() {
        let filter = |level: &str| {
            let config = LogConfig { level: level.to_string(), ..LogConfig::default() };
            config.filter().expect("a valid level").to_string()
        };
        assert_eq!(filter("info"), "object_store=warn,openraft=error,info");
        assert_eq!(filter("openraft=debug,object_store=info,warn"), "object_store=info,openraft=debug,warn");
    }

    #[test]
    fn a_body_must_fit_a_segment_and_segments_the_budget() {
        let mut config = Config::default();
        config.wal.segment_bytes = 16 * MIB;
        let refused = config.sizes(1).expect_err("16 MiB bodies need more").to_string();
        assert!(
            refused.contains("wal.segment_bytes = 16777216") && refused.contains("http.body_bytes_max"),
            "{refused}"
        );
        config.http.body_bytes_max = 4 * MIB;
        config.sizes(1).expect("4 MiB bodies fit");
        config.wal.budget_bytes = 48 * MIB;
        assert_eq!(config.sizes(1).expect("three segments").budget_bytes_per_wal, 48 * MIB);
        let refused = config.sizes(2).expect_err("two WALs need six").to_string();
        assert!(refused.contains("wal.budget_bytes"), "{refused}");
    }
}
