//! `weir cluster`: has a running node say how its cluster is, and change it.

use std::io::{self, Write as _};

use weir_shard::ClusterOrder;

use crate::admin::Done;
use crate::admin_client::AdminClient;
use crate::ask::ask;
use crate::cluster_status::StatusReport;
use crate::exit::Exit;
use crate::output::Output;

/// Prints how the cluster of the node at `admin` is.
///
/// # Errors
/// [`Exit::ClusterUnwell`] when something is wrong, others when it cannot be asked.
pub(crate) fn status(admin: &AdminClient, output: Output) -> Result<(), Exit> {
    let order = body(&ClusterOrder::Status);
    let report = ask(admin, ("/cluster", &order), output, |report: StatusReport| Ok(Some(report)))?;
    if output == Output::Text {
        io::stdout().write_all(report.text().as_bytes()).map_err(Exit::Output)?;
    }
    if report.troubles.is_empty() { Ok(()) } else { Err(Exit::ClusterUnwell) }
}

/// Has the node at `admin` change its cluster, and prints what comes of it.
///
/// # Errors
/// When it is refused, or cannot be asked.
pub(crate) fn change(admin: &AdminClient, order: &ClusterOrder, output: Output) -> Result<(), Exit> {
    let Done { done } = ask(admin, ("/cluster", &body(order)), output, |done: Done| Ok(Some(done)))?;
    if output == Output::Text {
        writeln!(io::stdout(), "{done}").map_err(Exit::Output)?;
    }
    Ok(())
}

fn body(order: &ClusterOrder) -> String {
    serde_json::to_string(order).expect("plain values can be written")
}
