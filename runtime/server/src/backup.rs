//! `POST /backup` of the admin listener: the node copies all it has to another store, and says how far it is, as lines of
//! JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use weir_cold::{BackupError, ChunkName, ChunkStore, Cold, StoreError, begin_backup};
use weir_shard::{Address, BackupNews};

use crate::config::ColdConfig;
use crate::place;
use crate::recover_error::RecoverError;

/// The longest time without a line.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// News that wait for who asked.
const NEWS_MAX: usize = 64;

/// What is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackupRequest {
    /// `s3://bucket/prefix` or `file:///folder`.
    pub(crate) to: String,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Line {
    /// How far it is.
    Progress(Totals),
    /// A group is led by another node, which is to be asked for its backup.
    Elsewhere {
        /// Which.
        group: u16,
        /// Whether an earlier backup of it is in the same place.
        is_there: bool,
    },
    /// It cannot be made: the last line.
    Failed {
        /// Why.
        reason: String,
    },
    /// It is made: the last line. Without one of these two, it is not.
    End(Totals),
}

/// What is in the backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Chunks.
    pub(crate) chunks: u64,
    /// And those that are known to belong there so far.
    pub(crate) chunks_all: u64,
    /// Bytes of these chunks.
    pub(crate) bytes: u64,
    /// And of all.
    pub(crate) bytes_all: u64,
    /// Bytes that had to be copied.
    pub(crate) copied_bytes: u64,
}

/// Opens the place that a backup of the cluster that has this number is to go to, which a folder must be able to become, and makes it on all
/// `shards`; gives its lines. It ends early when nobody reads them. `turn` is given back when nothing more is done in that place.
pub(crate) fn lines(
    request: BackupRequest,
    config: &ColdConfig,
    cluster: u64,
    shards: &[Address],
    runtime: &Handle,
    turn: OwnedSemaphorePermit,
) -> Body {
    let (sender, news) = mpsc::channel(NEWS_MAX);
    let report = Report { news, shards: shards.len(), totals: Totals::default() };
    let (config, shards, on, turn) = (config.clone(), shards.to_vec(), runtime.clone(), Arc::new(turn));
    // To list a large place takes its time.
    runtime.spawn(async move {
        match open(&request.to, &config, cluster).await {
            Ok((store, there)) => {
                let (to, there) = (Cold::new(store, 0, on, BTreeSet::new()), Arc::new(there));
                shards.iter().for_each(|shard| shard.backup(to.clone(), there.clone(), sender.clone(), turn.clone()));
            }
            // Who has left does not want to know.
            Err(reason) => drop(sender.send(BackupNews::Failed(reason)).await),
        }
    });
    body(report)
}

/// The place, and what is there; or a sentence that says why it cannot be used.
async fn open(
    url: &str,
    config: &ColdConfig,
    cluster: u64,
) -> Result<(Arc<dyn ChunkStore>, BTreeMap<ChunkName, u64>), String> {
    let store = place(url, config).map_err(|error| told(&error))?;
    let there = begin_backup(&*store, cluster).await.map_err(|error| match error {
        BackupError::Store(StoreError::Failed(reason) | StoreError::Denied(reason)) => reason,
        error => error.to_string(),
    })?;
    Ok((store, there))
}

fn place(url: &str, config: &ColdConfig) -> Result<Arc<dyn ChunkStore>, RecoverError> {
    if let Some(folder) = place::folder(url) {
        let failed = |error| RecoverError::Store {
            from: url.to_string(),
            source: StoreError::Failed(format!("{folder}: {error}")),
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    place::open(url, config, true)
}

/// An error and its cause.
fn told(error: &RecoverError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// A backup under way.
struct Report {
    news: mpsc::Receiver<BackupNews>,
    /// Shards that have not said that they are at their end.
    shards: usize,
    totals: Totals,
}

fn body(report: Report) -> Body {
    Body::from_stream(stream::unfold(Some(report), |report| async {
        let mut report = report?;
        let line = report.next().await?;
        let is_last = matches!(line, Line::Failed { .. } | Line::End(_));
        let mut text = serde_json::to_string(&line).expect("plain values can be written");
        text.push('\n');
        Some((Ok::<_, Infallible>(text), (!is_last).then_some(report)))
    }))
}

impl Report {
    /// The next line; `None` when a shard has stopped.
    async fn next(&mut self) -> Option<Line> {
        let line_at = tokio::time::Instant::now() + SILENCE_MAX;
        while self.shards > 0 {
            let left = line_at.saturating_duration_since(tokio::time::Instant::now());
            match timeout(left, self.news.recv()).await {
                Err(_) => return Some(Line::Progress(self.totals)),
                Ok(None) => return None,
                Ok(Some(BackupNews::Failed(reason))) => return Some(Line::Failed { reason }),
                Ok(Some(BackupNews::Elsewhere { group, is_there })) => {
                    return Some(Line::Elsewhere { group: group.0, is_there });
                }
                Ok(Some(news)) => self.take(&news),
            }
        }
        Some(Line::End(self.totals))
    }

    fn take(&mut self, news: &BackupNews) {
        let totals = &mut self.totals;
        match news {
            BackupNews::Begun { chunks, bytes } => {
                totals.chunks_all += chunks;
                totals.bytes_all += bytes;
            }
            BackupNews::Chunk { bytes, was_there } => {
                totals.chunks += 1;
                totals.bytes += bytes;
                totals.copied_bytes += if *was_there { 0 } else { *bytes };
            }
            BackupNews::Failed(_) | BackupNews::Elsewhere { .. } => {}
            BackupNews::Ended => self.shards -= 1,
        }
    }
}
