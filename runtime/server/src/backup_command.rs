//! `weir backup`: has a running node copy all it has to another store, and shows how far it is.

use std::io::{self, Write as _};

use crate::admin_client::AdminClient;
use crate::ask::ask;
use crate::backup::{BackupRequest, Line, Totals};
use crate::exit::Exit;
use crate::output::{Output, Progress};

/// Backs up the node at `admin` to a place that the node can reach.
///
/// # Errors
/// [`Exit::BackupFailed`] when it could not be made, or groups are missing in that place that other nodes lead; others when it was not asked for.
pub(crate) fn back_up(admin: &AdminClient, to: String, output: Output) -> Result<(), Exit> {
    let request = serde_json::to_string(&BackupRequest { to }).expect("plain values can be written");
    let progress = Progress::new(output == Output::Text);
    let (mut elsewhere, mut is_complete) = (Vec::new(), true);
    let Totals { chunks, bytes, copied_bytes, .. } = ask(admin, ("/backup", &request), output, |line| match line {
        Line::Elsewhere { group, is_there } => {
            elsewhere.push(group.to_string());
            is_complete &= is_there;
            Ok(None)
        }
        Line::Failed { reason } => Err(Exit::BackupFailed(reason)),
        Line::Progress(Totals { chunks, chunks_all, bytes, bytes_all, .. }) => {
            progress.show((bytes * 100).checked_div(bytes_all).unwrap_or(0), chunks, chunks_all);
            Ok(None)
        }
        Line::End(totals) => Ok(Some(totals)),
    })?;
    progress.clear();
    if output == Output::Text {
        let (mib, copied) = (bytes >> 20, copied_bytes >> 20);
        writeln!(io::stdout(), "{chunks} chunks, {mib} MiB, of which {copied} MiB were copied")
            .map_err(Exit::Output)?;
    }
    let groups = elsewhere.join(", ");
    match (elsewhere.is_empty(), is_complete) {
        (true, _) => Ok(()),
        (false, false) => Err(Exit::BackupFailed(format!(
            "of the groups {groups}, which other nodes lead, not all are in that place yet: have those nodes make a backup to it, \
             too"
        ))),
        (false, true) => {
            let told =
                format!("the groups {groups}, which other nodes lead, are as those nodes have backed them up last");
            if output == Output::Text { writeln!(io::stdout(), "{told}").map_err(Exit::Output) } else { Ok(()) }
        }
    }
}
