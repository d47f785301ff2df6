//! The program: reads the command line, calls the engine, prints what came of it.

mod cli;
mod commands;
mod failure;
mod render;

use failure::Failure;
use std::io::Write;
use std::process::ExitCode;

// Training frees and takes large blocks at every step; an allocator that keeps them avoids the
// kernel's page faults, which cost up to half of a step otherwise.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let parsed = match cli::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help on a closed pipe is no failure of ours.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match commands::dispatch(parsed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(Failure::Error(error)) => {
            // When nobody reads the messages, the exit status still tells.
            let _ = writeln!(anstream::stderr(), "{}", render::error(&error));
            ExitCode::from(error.exit_code())
        }
    }
}
