//! `modelsmith schema`: every key of a recipe.

use crate::failure::Outcome;
use crate::render::Output;
use clap::Args;
use modelsmith_engine::{Error, registry};

const EXAMPLES: &str = "\
Example:
  modelsmith schema > recipe.schema.json";

/// Print the JSON schema of recipes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Schema {}

impl Schema {
    /// Prints the schema; with --json inside a versioned object.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        let schema = registry::recipe_schema();
        let pretty = serde_json::to_string_pretty(&schema)
            .map_err(|error| Error::Failed(format!("schema: {error}")))?;
        let value = serde_json::json!({ "recipe": schema });
        output.result("schema", &value, || pretty)
    }
}
