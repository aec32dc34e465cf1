//! `weir`: command line, configuration, wiring and shutdown. No logic: what the server does is in the crates below.
//!
//! - [`cli`], [`config`], [`address`], [`layers`]: what was asked for, from flags, environment and file.
//! - [`cluster_config`], [`cluster`]: the node among others of a cluster.
//! - [`config_command`]: the configuration, shown and checked.
//! - [`cold_command`], [`backup_command`], [`cluster_command`], [`ask`], [`admin_client`]: commands that ask a running node.
//! - [`recover_command`], [`recover_error`]: a new node out of what is in a store. [`output`]: how commands print.
//!   [`place`]: stores that are no node's cold tier.
//! - [`manual`]: completion scripts and manual pages.
//! - [`node`], [`cold`], [`seams`], [`builtins`]: the data directory, the cold tier, and what else the shards are handed.
//! - [`serve`], [`signals`]: the order in which things begin and end, and who asks for the end.
//! - [`shard_thread`], [`accept`]: one thread per shard, and the listener that feeds them connections.
//! - [`admin`], [`metrics`], [`process`], [`check`], [`backup`], [`cluster_status`]: the admin listener, and what it says.
//! - [`demo`]: what `--demo` sets up.
//! - [`exit`]: exit codes.
//!
//! The binary is also what inspects and compiles modules: the server starts it anew for each, as `weir module-child`.

mod accept;
mod address;
mod admin;
mod admin_client;
mod ask;
mod backup;
mod backup_command;
mod builtins;
mod check;
mod cli;
mod cluster;
mod cluster_command;
mod cluster_config;
mod cluster_status;
mod cold;
mod cold_command;
mod config;
mod config_command;
mod connections;
mod demo;
mod exit;
mod hooks;
mod hooks_config;
mod layers;
mod manual;
mod metrics;
mod node;
mod output;
mod place;
mod process;
mod recover_command;
mod recover_error;
mod seams;
mod serve;
mod shard_thread;
mod signals;
mod turns;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use tikv_jemallocator::Jemalloc;
use weir_shard::{ClusterOrder, NodeChange};

use crate::admin_client::AdminClient;
use crate::check::CheckRequest;
use crate::cli::{
    AddArgs, AdminArgs, BackupArgs, CheckArgs, Cli, ClusterCommand, ColdCommand, Command, ConfigArgs, ConfigCommand,
    NewNodeArgs, NodeArgs, RecoverArgs, ServeArgs, StatusArgs, TransferArgs,
};
use crate::config::{Config, LogConfig, LogFormat};
use crate::exit::Exit;
use crate::output::Output;
use crate::recover_command::{Mode, Order};

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Has the allocator give memory back a tenth of a second after it was freed: readers and writers of old bytes free hundreds of
/// megabytes in a second, on other threads than those that take the next ones. `_RJEM_MALLOC_CONF` in the environment still decides.
#[expect(unsafe_code, reason = "the allocator is C, and reads this by its name before anything runs")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_OPTIONS: &[u8; 69] = b"background_thread:true,dirty_decay_ms:100,muzzy_decay_ms:0,thp:never\0";

fn main() -> ExitCode {
    // The server has started itself to look at a module. For nobody else, so it is not in the command line; and before all
    // else, for it is to be under its limits before it has done anything.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == weir_wasm::CHILD_ARGUMENT) {
        return weir_wasm::module_child();
    }
    abort_on_panic();
    use_small_pages();
    let done = match Cli::parse().command {
        Command::Serve(args) => serve(&args),
        Command::Config(ConfigCommand::Print(args)) => {
            load_aloud(&args).and_then(|config| print(config_command::to_toml(&config)))
        }
        Command::Config(ConfigCommand::Check(args)) => load_aloud(&args).and_then(|config| {
            config_command::check(&config)?;
            print("ok\n")
        }),
        Command::Config(ConfigCommand::Default) => print(config_command::SAMPLE),
        Command::Cold(ColdCommand::Check(CheckArgs { repair, admin: args })) => {
            admin_client(&args).and_then(|admin| cold_command::check(&admin, CheckRequest { repair }, args.output))
        }
        Command::Cluster(command) => cluster(&command),
        Command::Backup(BackupArgs { to, admin: args }) => {
            admin_client(&args).and_then(|admin| backup_command::back_up(&admin, to, args.output))
        }
        Command::Recover(args) => recover(args),
        Command::Restore(args) => build_node(args, Mode::Copy),
        Command::Completions { shell } => print(manual::completions(shell)),
        Command::Man { command } => manual::page(&command).and_then(print),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            // Who has closed standard error still learns the code.
            let _ = writeln!(io::stderr(), "weir: {}", exit.sentence());
            ExitCode::from(exit.code())
        }
    }
}

fn serve(args: &ServeArgs) -> Result<(), Exit> {
    let (config, unknown) = layers::load(&args.config, std::env::vars_os())?;
    log_to_stderr(&config.log);
    for variable in unknown {
        tracing::warn!(variable, "this variable is no setting of the server's, and is passed over");
    }
    serve::serve(&config, args.demo)
}

/// A new node out of a store that becomes its own.
fn recover(args: RecoverArgs) -> Result<(), Exit> {
    let RecoverArgs { new_node, take_over } = args;
    build_node(new_node, Mode::InPlace { take_over })
}

/// A new node with a copy of what is in a store.
fn build_node(args: NewNodeArgs, mode: Mode) -> Result<(), Exit> {
    let config = load_aloud(&ConfigArgs { config: args.config, ..ConfigArgs::default() })?;
    let NewNodeArgs { from, data_dir, output, .. } = args;
    recover_command::run(&config, &Order { from, data_dir, mode, output })
}

fn cluster(command: &ClusterCommand) -> Result<(), Exit> {
    let (args, order) = match command {
        ClusterCommand::Status(StatusArgs { json, admin }) => {
            let output = if *json { Output::Json } else { admin.output };
            return cluster_command::status(&admin_client(admin)?, output);
        }
        ClusterCommand::Transfer(TransferArgs { group, node, admin }) => {
            (admin, ClusterOrder::Transfer { group: *group, node: *node })
        }
        ClusterCommand::Add(AddArgs { node, address, admin }) => {
            (admin, wanted(*node, NodeChange::Add { address: address.as_str().into() }))
        }
        ClusterCommand::Remove(NodeArgs { node, admin }) => (admin, wanted(*node, NodeChange::Remove)),
        ClusterCommand::Drain(NodeArgs { node, admin }) => (admin, wanted(*node, NodeChange::Drain)),
        ClusterCommand::Undrain(NodeArgs { node, admin }) => (admin, wanted(*node, NodeChange::Undrain)),
    };
    cluster_command::change(&admin_client(args)?, &order, args.output)
}

fn wanted(node: u64, change: NodeChange) -> ClusterOrder {
    ClusterOrder::Change { node, change }
}

/// The node that a command asks.
fn admin_client(args: &AdminArgs) -> Result<AdminClient, Exit> {
    if let Some(url) = &args.admin {
        return Ok(AdminClient::new(url)?);
    }
    let config = load_aloud(&ConfigArgs { config: args.config.clone(), ..ConfigArgs::default() })?;
    Ok(AdminClient::of(config.server.admin_listen.socket()))
}

/// The configuration, for a command without a log: what is passed over is said at once.
fn load_aloud(args: &ConfigArgs) -> Result<Config, Exit> {
    let (config, unknown) = layers::load(args, std::env::vars_os())?;
    for variable in unknown {
        eprintln!("weir: {variable} is no setting of the server's, and is passed over");
    }
    Ok(config)
}

/// Writes to standard output. Who has closed it has read enough.
fn print(text: impl AsRef<[u8]>) -> Result<(), Exit> {
    match io::stdout().write_all(text.as_ref()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Exit::Output(error)),
        _ => Ok(()),
    }
}

/// A panic of any thread ends the process: a half-dead node is worse than a restarted one. The profiles say the same,
/// but cargo passes over that when it builds the binary for tests.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

/// Asks for memory in pages of the usual size. Whoever touches a huge page first waits until all of its 2 MiB are zeroed; in a
/// virtual machine that held a shard's thread for 5 ms. A kernel that does not know the question has no such pages.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// One line per event, on standard error: standard output stays free. A line that cannot be written is lost, and no reason to
/// end: the terminal may be gone, or a disk full.
fn log_to_stderr(config: &LogConfig) {
    let filter = config.filter().expect("the configuration has been checked");
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    match config.format {
        LogFormat::Text => lines.with_target(false).with_ansi(false).init(),
        LogFormat::Json => lines.json().init(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_readme_shows_the_commands_that_the_tour_checks() {
        let readme = include_str!("../../../README.md");
        let tour = include_str!("../../../examples/quickstart/tour.sh");
        let shown: Vec<&str> =
            readme.lines().filter(|line| line.starts_with("curl ") || line.starts_with("TAIL=")).collect();
        assert!(shown.len() > 10, "the README has a tour");
        for line in shown {
            assert!(tour.contains(line), "the tour does not run: {line}");
        }
    }
}
