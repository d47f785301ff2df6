//! The command line: what can be said, in one place.

use crate::commands::{adapter, bench, completions, data, delta, edit, eval, generate, inspect};
use crate::commands::{
    methods, pretrain, quickstart, reproduce, run, runs, schema, serve, studio, tune,
};
use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use modelsmith_engine::Recipe;
use modelsmith_engine::registry::{self, Family};
use std::ffi::OsString;
use std::fmt::Write;

/// Commands by what they are for, in the order of the help.
const GROUPS: &[(&str, &[&str])] = &[
    ("Start", &["quickstart"]),
    ("Train", &["tune", "run", "pretrain"]),
    ("Runs", &["runs"]),
    ("Use", &["generate", "eval", "serve"]),
    ("Adapters", &["adapter"]),
    ("Edits", &["edit"]),
    ("Checkpoints", &["delta"]),
    ("Look", &["inspect", "studio", "methods", "schema"]),
    ("Claims", &["reproduce"]),
    ("Speed", &["bench"]),
    ("Data", &["data"]),
    ("Shell", &["completions"]),
];

const TEMPLATE: &str = "\
{about}

{usage-heading} {usage}

{before-help}Options:
{options}{after-help}";

const EXAMPLES: &str = "\
Examples:
  modelsmith quickstart
  modelsmith tune --host models/llama --data notes.txt --method lora --set method.rank=16
  modelsmith generate --host models/llama --adapter runs/lora-1 --prompt \"Once upon a time\"
  modelsmith adapter merge --host models/llama --adapter runs/lora-1 --output models/merged";

/// Change trained models without retraining them.
#[derive(Debug, Parser)]
#[command(name = "modelsmith", version, help_template = TEMPLATE, after_help = EXAMPLES)]
#[command(subcommand_required = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// What every command understands.
    #[command(flatten)]
    pub(crate) common: Common,
    /// The command.
    #[command(subcommand)]
    pub(crate) command: Name,
}

/// Flags that every command understands.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Common {
    /// Print the result as JSON, with a versioned `schema` key
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Nothing on the way: only results and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Say more: every step, every checkpoint
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Where to compute: flex (the processor), or cuda, vulkan, metal, rocm where built in
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) device: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Name {
    Quickstart(quickstart::Quickstart),
    Tune(tune::Tune),
    Run(run::Run),
    Pretrain(pretrain::Pretrain),
    Runs(runs::Runs),
    Generate(generate::Generate),
    Eval(eval::Eval),
    Serve(serve::Serve),
    Adapter(adapter::Adapter),
    Edit(edit::Edit),
    Delta(delta::Delta),
    Inspect(inspect::Inspect),
    Methods(methods::Methods),
    Schema(schema::Schema),
    Studio(studio::Studio),
    Reproduce(reproduce::Reproduce),
    Bench(bench::Bench),
    Data(data::Data),
    Completions(completions::Completions),
}

/// The whole command with its grouped help.
pub(crate) fn command() -> Command {
    let plain = Cli::command();
    let groups = grouped(&plain);
    plain.before_help(groups)
}

/// Reads the command line; help and version come back as errors, as clap has it.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let matches = command().try_get_matches_from(words).map_err(with_tip)?;
    Cli::from_arg_matches(&matches)
}

/// A flag that is unknown may be a key of recipes, which `--set` takes.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let name = flag
        .trim_start_matches('-')
        .split('=')
        .next()
        .unwrap_or_default();
    if let Some(key) = recipe_key(&name.replace('-', "_")) {
        let tip = format!("this is a key of recipes: '--set {key}=VALUE'");
        let tips = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tips);
    }
    error
}

/// The dotted key of a recipe that ends in `name`.
fn recipe_key(name: &str) -> Option<String> {
    let recipe = serde_json::to_value(Recipe::default()).ok()?;
    let tables = recipe.as_object()?.iter();
    let of_table = tables
        .filter_map(|(table, value)| Some((table, value.as_object()?)))
        .find(|(_, keys)| keys.contains_key(name))
        .map(|(table, _)| format!("{table}.{name}"));
    let methods = || {
        registry::all()
            .into_iter()
            .filter(|one| one.card.family == Family::Adapter)
    };
    let of_method = || methods().any(|one| one.defaults.get(name).is_some());
    of_table.or_else(|| of_method().then(|| format!("method.{name}")))
}

fn grouped(command: &Command) -> String {
    let mut text = String::new();
    for (title, names) in GROUPS {
        let _ = writeln!(text, "{title}:");
        for name in *names {
            let about = command
                .find_subcommand(name)
                .and_then(Command::get_about)
                .map(ToString::to_string)
                .unwrap_or_default();
            let _ = writeln!(text, "  {name:<12} {about}");
        }
        text.push('\n');
    }
    text.pop();
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_flag_that_is_a_key_is_named_as_one() {
        assert_eq!(recipe_key("rank").as_deref(), Some("method.rank"));
        assert_eq!(
            recipe_key("warmup_steps").as_deref(),
            Some("train.warmup_steps")
        );
        assert_eq!(recipe_key("nothing"), None);
    }

    #[test]
    fn every_command_is_in_one_group_of_the_help() {
        let listed: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        let known = Cli::command();
        let known: BTreeSet<&str> = known.get_subcommands().map(Command::get_name).collect();
        assert_eq!(listed.len(), known.len());
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), known);
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &Command) {
            for sub in command.get_subcommands() {
                let help = sub.get_after_help().map(ToString::to_string);
                let help = help.unwrap_or_default();
                assert!(help.contains("Example"), "{}", sub.get_name());
                check(sub);
            }
        }
        check(&Cli::command());
    }
}
