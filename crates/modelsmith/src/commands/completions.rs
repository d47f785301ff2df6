//! `modelsmith completions`: the shell's side of the command line.

use crate::cli;
use crate::failure::Outcome;
use crate::render::Output;
use clap::Args;
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  modelsmith completions bash > ~/.local/share/bash-completion/completions/modelsmith
  modelsmith completions zsh > ~/.zfunc/_modelsmith";

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        // The generator panics where it cannot write, which memory always can.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut cli::command(), "modelsmith", &mut script);
        output.put(&String::from_utf8_lossy(&script))
    }
}
