//! `weir cold check`: has a running node verify its cold tier, and says what it finds.

use std::io::{self, IsTerminal as _, Write as _};

use crate::admin_client::{AdminClient, AdminError};
use crate::check::{Line, Totals};
use crate::exit::Exit;
use crate::output::Output;

/// Checks the cold tier of the node at `admin`.
///
/// # Errors
/// [`Exit::ChunksDamaged`] and [`Exit::ChunksUnread`] say what was found, others why there was no check.
pub(crate) fn check(admin: &AdminClient, output: Output) -> Result<(), Exit> {
    let shows_progress = output == Output::Text && io::stderr().is_terminal();
    for line in admin.post("/cold/check", "{}")? {
        let text = line.map_err(|error| AdminError::Answer(error.to_string()))?;
        let line = serde_json::from_str(&text).map_err(|_| AdminError::Answer(text.clone()))?;
        if output == Output::Json {
            print(&text)?;
        } else if shows_progress {
            show_progress(&line);
        }
        match line {
            Line::Progress(_) => {}
            Line::End(totals) => return end(totals, output),
            finding if output == Output::Text => print(&told(&finding))?,
            _ => {}
        }
    }
    Err(AdminError::Answer("there is no last line".to_string()).into())
}

/// A finding, for people.
fn told(finding: &Line) -> String {
    match finding {
        Line::Damaged { chunk, reason, streams, stream_bytes, .. } => {
            format!("damaged: {chunk}: {reason}; {stream_bytes} bytes of {streams} streams are in it")
        }
        Line::Unread { chunk, reason } => format!("not checked: {chunk}: {reason}"),
        Line::Progress(totals) | Line::End(totals) => summary(totals),
    }
}

fn summary(totals: &Totals) -> String {
    let Totals { chunks, bytes, damaged, unread, .. } = totals;
    format!("{chunks} chunks, {} MiB: {damaged} damaged, {unread} not checked", bytes >> 20)
}

/// One line that is written over and over; gone before a finding is printed. Who cannot see it misses nothing.
fn show_progress(line: &Line) {
    let text = match line {
        Line::Progress(totals) => {
            let percent = (totals.bytes * 100).checked_div(totals.bytes_all).unwrap_or(0).min(100);
            format!("{percent:3} %  {} of {} chunks", totals.chunks, totals.chunks_all)
        }
        _ => String::new(),
    };
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "\r\x1b[K{text}");
    let _ = stderr.flush();
}

fn end(totals: Totals, output: Output) -> Result<(), Exit> {
    if output == Output::Text {
        print(&summary(&totals))?;
    }
    match totals {
        Totals { damaged: 0, unread: 0, .. } => Ok(()),
        Totals { damaged: 0, unread, .. } => Err(Exit::ChunksUnread { chunks: unread }),
        Totals { damaged, .. } => Err(Exit::ChunksDamaged { chunks: damaged }),
    }
}

fn print(line: &str) -> Result<(), Exit> {
    writeln!(io::stdout(), "{line}").map_err(Exit::Output)
}
