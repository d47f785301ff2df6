//! One file a command: its flags, one call of the engine, and what is printed.

pub(crate) mod adapter;
pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod data;
pub(crate) mod delta;
pub(crate) mod edit;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod methods;
pub(crate) mod model_flags;
pub(crate) mod pretrain;
pub(crate) mod quickstart;
pub(crate) mod recipe_flags;
pub(crate) mod reproduce;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod studio;
pub(crate) mod text_flags;
pub(crate) mod tune;

use crate::cli::{Cli, Common, Name};
use crate::failure::Outcome;
use crate::render::Output;

/// Runs the command that was asked for.
pub(crate) fn dispatch(cli: Cli) -> Outcome {
    let Cli { common, command } = cli;
    let output = Output::new(&common);
    match command {
        Name::Quickstart(flags) => flags.execute(&common, &output),
        Name::Tune(flags) => flags.execute(&common, &output),
        Name::Run(flags) => flags.execute(&common, &output),
        Name::Pretrain(flags) => flags.execute(&common, &output),
        Name::Runs(flags) => flags.execute(&output),
        Name::Generate(flags) => flags.execute(&common, &output),
        Name::Eval(flags) => flags.execute(&common, &output),
        Name::Serve(flags) => flags.execute(&common, &output),
        Name::Adapter(flags) => flags.execute(&common, &output),
        Name::Edit(flags) => flags.execute(&common, &output),
        Name::Delta(flags) => flags.execute(&output),
        Name::Inspect(flags) => flags.execute(&common, &output),
        Name::Methods(flags) => flags.execute(&output),
        Name::Schema(flags) => flags.execute(&output),
        Name::Studio(flags) => flags.execute(&output),
        Name::Reproduce(flags) => flags.execute(&common, &output),
        Name::Bench(flags) => flags.execute(&output),
        Name::Data(flags) => flags.execute(&common, &output),
        Name::Completions(flags) => flags.execute(&output),
    }
}

/// The device that the flag names; the processor otherwise.
fn device(common: &Common) -> &str {
    common.device.as_deref().unwrap_or("flex")
}
