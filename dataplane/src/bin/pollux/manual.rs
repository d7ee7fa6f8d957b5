//! Shell completions and manual pages, generated from the command line itself so that they cannot go stale.

use std::io::Write;
use std::path::Path;

use clap::CommandFactory;

use crate::Failure;
use crate::args::Cli;

/// Prints the completion script of `shell`.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pollux", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}

/// Prints `pollux.1`, or writes one page for the command and each subcommand into `folder`.
pub(crate) fn man(folder: Option<&Path>) -> Result<(), Failure> {
    match folder {
        Some(folder) => clap_mangen::generate_to(Cli::command(), folder).map_err(|error| {
            Failure::Failed(format!("cannot write manual pages into {}: {error}", folder.display()))
        }),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            std::io::stdout().write_all(&page)?;
            Ok(())
        }
    }
}
