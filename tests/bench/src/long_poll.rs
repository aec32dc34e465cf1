//! Long polls: one stream, readers that ask for what comes next and wait for it.

use crate::cli::Common;
use crate::delivery::{self, WriterArgs};
use crate::followers::Live;
use crate::report::{Report, compare};
use crate::servers::Target;

/// Arguments of `long-poll`.
#[derive(clap::Args, Debug)]
pub(crate) struct LongPollArgs {
    /// Readers, one connection each.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// What they receive.
    #[command(flatten)]
    writer: WriterArgs,
}

/// Has readers poll every server in turn.
///
/// # Errors
/// A sentence when a server does not start.
pub(crate) fn long_poll(args: &LongPollArgs, common: &Common, title: String) -> Result<Report, String> {
    let targets = Target::start_all(common)?;
    let round = |i: usize| delivery::round(&targets[i], Live::LongPoll, args.connections, &args.writer, common);
    Ok(compare(common, title, round))
}
