//! What a package installs beside the binary: completion scripts and manual pages, made from the command line itself.

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::exit::Exit;

/// The completion script for `shell`.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weir", &mut script);
    script
}

/// The manual page of `weir`, or of one of its commands, such as `["config", "print"]`.
///
/// # Errors
/// [`Exit::CommandUnknown`].
pub(crate) fn page(command: &[String]) -> Result<Vec<u8>, Exit> {
    let mut root = Cli::command();
    // Gives the commands below it their full names.
    root.build();
    let mut found = &root;
    for name in command {
        found = found.find_subcommand(name).ok_or_else(|| Exit::CommandUnknown(command.join(" ")))?;
    }
    let mut page = Vec::new();
    Man::new(found.clone()).render(&mut page).expect("memory takes it");
    Ok(page)
}
