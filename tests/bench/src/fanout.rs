//! Fan-out: one stream, many subscribers over SSE.

use crate::cli::Common;
use crate::delivery::{self, WriterArgs};
use crate::followers::Live;
use crate::report::{Report, compare};
use crate::servers::Target;

/// Arguments of `fanout`.
#[derive(clap::Args, Debug)]
pub(crate) struct FanoutArgs {
    /// Subscribers, one connection each.
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
    /// What they receive.
    #[command(flatten)]
    writer: WriterArgs,
}

/// Fans out on every server in turn.
///
/// # Errors
/// A sentence when a server does not start.
pub(crate) fn fanout(args: &FanoutArgs, common: &Common, title: String) -> Result<Report, String> {
    let targets = Target::start_all(common)?;
    let round = |i: usize| delivery::round(&targets[i], Live::Sse, args.subscribers, &args.writer, common);
    Ok(compare(common, title, round))
}
