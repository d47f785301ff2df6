//! `modelsmith methods`: what can be done, and with which options.

use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::registry;

const EXAMPLES: &str = "\
Examples:
  modelsmith methods
  modelsmith methods lora
  modelsmith methods --json";

/// List the methods, or the options of one
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Methods {
    /// A method, to see its options
    name: Option<String>,
}

impl Methods {
    /// Lists.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        match self.name {
            Some(name) => {
                let method = registry::named(&name)?;
                output.result("method", &method, || render::method(&method))
            }
            None => {
                let all = registry::all();
                let value = serde_json::json!({ "methods": all });
                output.result("methods", &value, || render::methods(&all))
            }
        }
    }
}
