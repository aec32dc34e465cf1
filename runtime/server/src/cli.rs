//! The command line. A flag left out changes nothing; see [`crate::config`] for the order.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::address::ListenAddress;
use crate::exit;
use crate::output::Output;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "weir", version = env!("WEIR_VERSION"), after_help = help_end())]
#[command(about = "Append-only event streams over plain HTTP and SSE")]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What `weir` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve streams until SIGTERM or SIGINT
    #[command(after_help = help_end())]
    Serve(ServeArgs),
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look after the cold tier
    #[command(subcommand)]
    Cold(ColdCommand),
    /// Ask a running node about its cluster, or have it change that
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Have a running node copy all it has to a bucket or a folder, for `weir restore`
    #[command(after_help = help_end())]
    Backup(BackupArgs),
    /// Build a new node out of the bucket of one that is lost, and make the bucket its own
    #[command(after_help = help_end())]
    Recover(RecoverArgs),
    /// Build a new node with a copy of what is in a bucket or a folder
    #[command(after_help = help_end())]
    Restore(NewNodeArgs),
    /// Print the completion script for a shell
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print a manual page: of weir, or of one of its commands
    Man {
        /// The command, as in `weir man config print`
        command: Vec<String>,
    },
}

/// What `weir config` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print as TOML what file, environment and flags give together
    Print(ConfigArgs),
    /// Check what file, environment and flags give together, and print "ok" or what is wrong
    Check(ConfigArgs),
    /// Print a sample file: every key with its default and what it means
    Default,
}

/// What `weir cold` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum ColdCommand {
    /// Have a running node read all of its cold tier, and say which chunks are damaged or missing
    #[command(after_help = help_end())]
    Check(CheckArgs),
}

/// What `weir cluster` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Say what is wrong with the cluster, and how its nodes and groups stand
    #[command(after_help = help_end())]
    Status(StatusArgs),
    /// Have another node lead a group
    #[command(after_help = help_end())]
    Transfer(TransferArgs),
    /// Take in a node that waits with --join, or say where one of the cluster is now
    #[command(after_help = help_end())]
    Add(AddArgs),
    /// Remove a node for ever, whether it runs or not: its groups go elsewhere first
    #[command(after_help = help_end())]
    Remove(NodeArgs),
    /// Have a node lead nothing, and move what it has elsewhere as far as there are other nodes for it
    #[command(after_help = help_end())]
    Drain(NodeArgs),
    /// Have a node that was drained take its part again
    #[command(after_help = help_end())]
    Undrain(NodeArgs),
}

/// Flags of `weir cluster status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print one line of JSON, as with --output json
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// Flags of `weir cluster transfer`.
#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    /// The group's number
    pub(crate) group: u16,
    /// The number of a node that votes in it
    pub(crate) node: u64,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// Flags of `weir cluster add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The node's number, which no other has or has had
    pub(crate) node: u64,
    /// Where the other nodes reach it, as in 10.0.0.4:4439
    pub(crate) address: String,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// Flags of commands about one node of a cluster.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// The node's number
    pub(crate) node: u64,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// Flags of `weir cold check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Build what is damaged or missing again, as far as the log still has it; the rest stays as it is
    #[arg(long)]
    pub(crate) repair: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// Flags of commands that build a new node.
#[derive(Debug, Args)]
pub(crate) struct NewNodeArgs {
    /// Configuration file (TOML): of [cold], how the bucket is reached; of [wal] and [server], the new node's sizes
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where snapshots and chunks are: s3://bucket/prefix, or for restore also file:///folder
    #[arg(long, value_name = "URL")]
    pub(crate) from: String,
    /// The new node's data directory: not there, or empty
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// What to print: text for people, or a line of JSON for each stream
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// Flags of `weir recover`.
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// What is built from what.
    #[command(flatten)]
    pub(crate) new_node: NewNodeArgs,
    /// The node that the bucket belongs to is stopped for good: make the bucket the new node's
    #[arg(long)]
    pub(crate) take_over: bool,
}

/// Flags of `weir backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Where to, as the node reaches it: s3://bucket/prefix, with the endpoint of its configuration, or file:///folder
    #[arg(long, value_name = "URL")]
    pub(crate) to: String,
    /// Which node.
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// Flags of commands that ask a running node.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    /// Configuration file (TOML) of the node
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Its admin listener [default: where the configuration has it, http://127.0.0.1:4438]
    #[arg(long, value_name = "URL")]
    pub(crate) admin: Option<String>,
    /// What to print: text for people, or lines of JSON
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// Flags of `weir serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// What is configured.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Set up a bucket with two modules at work, and print what to try
    #[arg(long)]
    pub(crate) demo: bool,
}

/// Flags that configure the server. Defaults are not here: they are those of [`crate::config::Config`].
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Address of the public listener, as in localhost:4437, or :4437 for all interfaces [default: 127.0.0.1:4437]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<ListenAddress>,
    /// Address of the admin listener: /livez, /readyz, /metrics [default: 127.0.0.1:4438]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin_listen: Option<ListenAddress>,
    /// Data directory, created if it is not there [default: ./weir-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<String>,
    /// Keep everything in memory: nothing survives the process
    #[arg(long)]
    pub(crate) in_memory: bool,
    /// Shards, one thread each [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) shards: Option<u16>,
    /// Groups of a new node, final once it is formed [default: one per write-ahead log]
    #[arg(long, value_name = "N")]
    pub(crate) groups: Option<u16>,
    /// This node's number in a cluster, from 1 on [default: the node is alone]
    #[arg(long, value_name = "N")]
    pub(crate) node_id: Option<u32>,
    /// What the cluster is called: the same on all its nodes, final once it is formed
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster_id: Option<String>,
    /// Address where the other nodes connect [default: 127.0.0.1:4439]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) cluster_listen: Option<ListenAddress>,
    /// Where the other nodes reach this one, as in host:4439 [default: where it listens]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) cluster_advertise: Option<String>,
    /// A node of a cluster that this new one waits to be taken into by `weir cluster add`, as in host:4439
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) join: Option<String>,
    /// Another node that forms the cluster, and where it is, as in 2=host:4439; once for each
    #[arg(long = "peer", value_name = "N=ADDRESS")]
    pub(crate) peers: Vec<String>,
    /// Allow listening beyond loopback although there is no authentication and no TLS
    #[arg(long)]
    pub(crate) insecure: bool,
}

/// What help ends with: where the rest is.
fn help_end() -> String {
    let codes: String = exit::CODES.iter().map(|(code, meaning)| format!("\n  {code}  {meaning}")).collect();
    format!(
        "\
Configuration:
  `weir config default` prints a file for --config with every key, its unit and default.
  Each key has a variable, too: [http] hosts is WEIR_HTTP_HOSTS, [server] data_dir is WEIR_DATA_DIR.
  A flag wins over a variable, a variable over the file.

Exit codes:{codes}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn an_unknown_flag_and_a_bad_address_are_refused() {
        for args in [["weir", "serve", "--lisen"].as_slice(), &["weir", "serve", "--listen", "4437"], &["weir"]] {
            assert_eq!(Cli::try_parse_from(args).expect_err("not a command line").exit_code(), 2, "{args:?}");
        }
    }
}
