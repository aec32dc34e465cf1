//! `POST /cold/check` of the admin listener: what the shards find in the cold tier, as lines of JSON.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout_at};
use weir_shard::{Address, CheckNews, DamagedChunk};

/// Chunks for which there is one line, if they are as they were written.
const CHUNKS_PER_LINE: u64 = 64;
/// And the longest time without a line.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// News that wait for who asked.
const NEWS_MAX: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CheckRequest {
    /// Whether what is damaged is to be repaired, where that can be.
    #[serde(default)]
    pub(crate) repair: bool,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Line {
    /// A chunk is not what was written.
    Damaged {
        /// Its group.
        group: u16,
        /// The object.
        chunk: String,
        /// Its size as it was written.
        bytes: u64,
        /// What is wrong.
        reason: String,
        /// Streams that have bytes in it.
        streams: u64,
        /// Bytes of streams that are in it.
        stream_bytes: u64,
        /// Why it is damaged still, if it was to be repaired.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unrepaired: Option<String>,
    },
    /// A chunk was not what was written, and is again.
    Repaired {
        /// Its group.
        group: u16,
        /// The object.
        chunk: String,
        /// Its size.
        bytes: u64,
        /// What was wrong.
        reason: String,
    },
    /// A chunk could not be read, so nobody knows.
    Unread {
        /// The object.
        chunk: String,
        /// What the store has said.
        reason: String,
    },
    /// A group is led by another node: nothing of it was looked at, or not all.
    Elsewhere {
        /// Which.
        group: u16,
    },
    /// How far the check is.
    Progress(Totals),
    /// It is at its end: the last line. Without it, the check did not come to its end.
    End(Totals),
}

/// What has been looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Chunks that have been looked at.
    pub(crate) chunks: u64,
    /// And those that there were at the begin.
    pub(crate) chunks_all: u64,
    /// Bytes of these chunks that have been looked at.
    pub(crate) bytes: u64,
    /// And of those that there were at the begin.
    pub(crate) bytes_all: u64,
    /// Chunks that are damaged.
    pub(crate) damaged: u64,
    /// Chunks that were, and are not any more.
    #[serde(default)]
    pub(crate) repaired: u64,
    /// Chunks that could not be read.
    pub(crate) unread: u64,
}

/// A check under way.
struct Report {
    news: mpsc::Receiver<CheckNews>,
    /// Shards that have not said that they are at their end.
    shards: usize,
    totals: Totals,
    /// Chunks since the last line, and when the next is due in any case.
    chunks_silent: u64,
    line_at: Instant,
}

/// Begins a check of all shards, as it was asked for, and gives its lines. It ends early when nobody reads them. `turn` is given back when
/// every shard has ended.
pub(crate) fn report(request: CheckRequest, shards: &[Address], turn: OwnedSemaphorePermit) -> Body {
    let (sender, news) = mpsc::channel(NEWS_MAX);
    let turn = Arc::new(turn);
    shards.iter().for_each(|shard| shard.cold_check(request.repair, sender.clone(), turn.clone()));
    let line_at = Instant::now() + SILENCE_MAX;
    let report = Report { news, shards: shards.len(), totals: Totals::default(), chunks_silent: 0, line_at };
    Body::from_stream(stream::unfold(Some(report), |report| async {
        let mut report = report?;
        let line = report.next().await?;
        let more = !matches!(line, Line::End(_));
        let mut text = serde_json::to_string(&line).expect("plain values can be written");
        text.push('\n');
        Some((Ok::<_, Infallible>(text), more.then_some(report)))
    }))
}

impl Report {
    /// The next line; `None` when a shard has stopped.
    async fn next(&mut self) -> Option<Line> {
        let line = loop {
            if self.shards == 0 {
                break Line::End(self.totals);
            }
            match timeout_at(self.line_at, self.news.recv()).await {
                Ok(news) => {
                    if let Some(line) = self.take(news?) {
                        break line;
                    }
                }
                Err(_) => break Line::Progress(self.totals),
            }
            if self.chunks_silent == CHUNKS_PER_LINE {
                break Line::Progress(self.totals);
            }
        };
        self.chunks_silent = 0;
        self.line_at = Instant::now() + SILENCE_MAX;
        Some(line)
    }

    /// Counts what is told; a line if it is worth one.
    fn take(&mut self, news: CheckNews) -> Option<Line> {
        let (bytes, line) = match news {
            CheckNews::Begun { chunks, bytes } => {
                self.totals.chunks_all += chunks;
                self.totals.bytes_all += bytes;
                return None;
            }
            CheckNews::Ended => {
                self.shards -= 1;
                return None;
            }
            CheckNews::Elsewhere(group) => return Some(Line::Elsewhere { group: group.0 }),
            CheckNews::Whole { bytes } => (bytes, None),
            CheckNews::Damaged(DamagedChunk { group, chunk, bytes, reason, streams, stream_bytes, unrepaired }) => {
                self.totals.damaged += 1;
                let group = group.0;
                (bytes, Some(Line::Damaged { group, chunk, bytes, reason, streams, stream_bytes, unrepaired }))
            }
            CheckNews::Repaired(DamagedChunk { group, chunk, bytes, reason, .. }) => {
                self.totals.repaired += 1;
                (bytes, Some(Line::Repaired { group: group.0, chunk, bytes, reason }))
            }
            CheckNews::Unread { chunk, bytes, reason } => {
                self.totals.unread += 1;
                (bytes, Some(Line::Unread { chunk, reason }))
            }
        };
        self.totals.chunks += 1;
        self.totals.bytes += bytes;
        self.chunks_silent += 1;
        line
    }
}
