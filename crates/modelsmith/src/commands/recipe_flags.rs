//! Flags that stand for keys of a recipe.

use crate::cli::Common;
use clap::Args;
use modelsmith_engine::{Error, Recipe, Result};
use std::path::{Path, PathBuf};

/// Short ways to say the keys that most runs set; `--set` says any key.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RecipeFlags {
    /// Folder of the model to change (host.path)
    #[arg(long, value_name = "MODEL")]
    host: Option<PathBuf>,
    /// File or folder with the text (data.path)
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// How the model is changed; `modelsmith methods` lists the names (method.name)
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
    /// Folder that holds the run folders (output.dir)
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Name of the run folder (output.name)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Seed of every random draw (seed)
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Optimizer steps; overrides --epochs (train.max_steps)
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Passes over the data (train.epochs)
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Peak learning rate (train.learning_rate)
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Sequences in a batch (data.batch_size)
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Any key of the recipe, for instance method.rank=16; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl RecipeFlags {
    /// Whether no flag was given.
    pub(crate) fn is_empty(&self) -> bool {
        self.overrides(None).is_ok_and(|all| all.is_empty())
    }

    /// The recipe of a file with the flags laid over it, or of the flags alone; `method` where
    /// neither names one.
    ///
    /// # Errors
    /// As [`Recipe::read`].
    pub(crate) fn recipe(
        &self,
        file: Option<&Path>,
        method: &str,
        common: &Common,
    ) -> Result<Recipe> {
        let overrides = self.overrides(common.device.as_deref())?;
        let mut recipe = match file {
            Some(file) => Recipe::read(file, &overrides)?,
            None => Recipe::from_value(serde_json::json!({}), &overrides)?,
        };
        if recipe.method.name.is_empty() {
            recipe.method.name = method.to_owned();
        }
        Ok(recipe)
    }

    /// Every flag as `key=value`; `--set` comes last and so has the last word.
    fn overrides(&self, device: Option<&str>) -> Result<Vec<String>> {
        let mut all = Vec::new();
        let paths = [
            ("host.path", &self.host),
            ("data.path", &self.data),
            ("output.dir", &self.output),
        ];
        for (key, path) in paths {
            if let Some(path) = path {
                all.push(text(key, utf8(key, path)?));
            }
        }
        let words = [
            ("method.name", self.method.as_deref()),
            ("output.name", self.name.as_deref()),
            ("device", device),
        ];
        all.extend(
            words
                .iter()
                .filter_map(|(key, word)| word.map(|word| text(key, word))),
        );
        let numbers = [
            ("seed", self.seed),
            ("train.max_steps", self.steps),
            ("train.epochs", self.epochs),
            ("data.batch_size", self.batch_size.map(|size| size as u64)),
        ];
        let numbers = numbers
            .iter()
            .filter_map(|(key, n)| n.map(|n| format!("{key}={n}")));
        all.extend(numbers);
        // The debug form keeps a point, so that TOML reads a float.
        all.extend(self.lr.map(|rate| format!("train.learning_rate={rate:?}")));
        all.extend(self.set.iter().cloned());
        Ok(all)
    }
}

/// `key="value"` with the value quoted; JSON's escapes are among TOML's.
fn text(key: &str, value: &str) -> String {
    format!("{key}={}", serde_json::Value::from(value))
}

fn utf8<'a>(key: &str, path: &'a Path) -> Result<&'a str> {
    path.to_str().ok_or_else(|| {
        Error::config(
            key,
            format!(
                "{} is not valid UTF-8; a recipe cannot hold such a path",
                path.display()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_has_the_last_word_and_quotes_survive() {
        let flags = RecipeFlags {
            host: Some("a \"b\"".into()),
            lr: Some(1.0),
            seed: Some(1),
            set: vec!["seed=2".to_owned()],
            ..RecipeFlags::default()
        };
        let all = flags.overrides(None).unwrap();
        let recipe = Recipe::from_value(serde_json::json!({}), &all).unwrap();
        assert_eq!(recipe.host.path, PathBuf::from("a \"b\""));
        assert_eq!((recipe.seed, recipe.train.learning_rate), (2, 1.0));
    }
}
