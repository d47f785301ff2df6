//! Methods as data: the card that a method shows, and how its options are read.

use crate::error::{Error, Result, suggest};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Families of methods; each has a folder, a table and a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Trained additions to a frozen host.
    Adapter,
    /// Trained prompts.
    Prompt,
    /// Edits of facts and behaviour.
    Edit,
    /// Differences of checkpoints.
    Delta,
    /// Learning class after class.
    Continual,
    /// Adaptation while serving.
    TestTime,
    /// Optimizers, schedules, parametrizations.
    Optimize,
    /// Search of hyper-parameters.
    Search,
    /// Control of training and simulation.
    Control,
    /// Event sequences.
    Events,
    /// Diffusion and generation.
    Generate,
    /// Tool-using agents.
    Agent,
    /// Execution plans for clusters.
    Scale,
}

impl Family {
    /// The family's name in recipes and listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adapter => "adapter",
            Self::Prompt => "prompt",
            Self::Edit => "edit",
            Self::Delta => "delta",
            Self::Continual => "continual",
            Self::TestTime => "test_time",
            Self::Optimize => "optimize",
            Self::Search => "search",
            Self::Control => "control",
            Self::Events => "events",
            Self::Generate => "generate",
            Self::Agent => "agent",
            Self::Scale => "scale",
        }
    }
}

/// What a method is, for listings, help and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Card {
    /// Identifier in recipes: lower-case words joined by `_`.
    pub id: &'static str,
    /// Number of the published method's card; `None` for baselines.
    pub number: Option<u8>,
    /// Full name.
    pub title: &'static str,
    /// Its family.
    pub family: Family,
    /// Where it was published.
    pub paper: &'static str,
    /// One sentence: what it does.
    pub summary: &'static str,
}

/// A method's options as a user writes them; the doc comment of each field is its manual.
pub trait Method: Default + Serialize + DeserializeOwned + JsonSchema + Send + Sync {
    /// Its card.
    const CARD: Card;
}

/// A row of a family's table: a card, a schema, and a reader of options for the role `R`.
#[derive(Clone, Copy)]
pub struct Entry<R: ?Sized + 'static> {
    /// What it is.
    pub card: Card,
    /// JSON schema of the options.
    pub schema: fn() -> Value,
    /// The options with their defaults.
    pub defaults: fn() -> Value,
    /// Reads options: keys that are absent keep the defaults, unknown keys are refused.
    read: fn(&Value) -> Result<Box<R>>,
}

impl<R: ?Sized> Entry<R> {
    /// A row; family tables wrap this with the conversion into their role.
    pub const fn new(
        card: Card,
        schema: fn() -> Value,
        defaults: fn() -> Value,
        read: fn(&Value) -> Result<Box<R>>,
    ) -> Self {
        Self {
            card,
            schema,
            defaults,
            read,
        }
    }

    /// The method with the user's options laid over the defaults of this row.
    ///
    /// # Errors
    /// An unknown key, a value of the wrong type, each with the dotted key.
    pub fn configure(&self, options: &Map<String, Value>) -> Result<Box<R>> {
        let mut merged = (self.defaults)();
        if let Value::Object(target) = &mut merged {
            for (key, value) in options {
                if !target.contains_key(key) {
                    let known = target.keys().map(String::as_str);
                    return Err(Error::config(
                        format!("method.{key}"),
                        format!(
                            "`{}` has no such option; {}",
                            self.card.id,
                            suggest(key, known)
                        ),
                    ));
                }
                target.insert(key.clone(), value.clone());
            }
        }
        (self.read)(&merged)
    }
}

/// Reads a typed options value; errors name the dotted key under `method`.
///
/// # Errors
/// A value of the wrong type or an unknown key.
pub fn read_options<C: DeserializeOwned>(value: &Value) -> Result<C> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let key = if path == "." {
            "method".to_owned()
        } else {
            format!("method.{path}")
        };
        Error::config(key, error.inner())
    })
}

/// JSON schema of an options type.
pub fn schema_of<C: JsonSchema>() -> Value {
    schemars::schema_for!(C).to_value()
}

/// Options of a type with its defaults.
pub fn defaults_of<C: Default + Serialize>() -> Value {
    serde_json::to_value(C::default()).unwrap_or(Value::Null)
}

/// Finds a row by id.
///
/// # Errors
/// An unknown id, with near matches.
pub fn find<'t, R: ?Sized>(
    tables: impl IntoIterator<Item = &'t Entry<R>>,
    id: &str,
) -> Result<&'t Entry<R>> {
    let mut known = Vec::new();
    for entry in tables {
        if entry.card.id == id {
            return Ok(entry);
        }
        known.push(entry.card.id);
    }
    Err(Error::config(
        "method.name",
        format!("unknown method `{id}`; {}", suggest(id, known)),
    ))
}
