//! Can one prompt serve several tasks (MPT, Wang et al., ICLR 2023, arXiv 2303.02861, section 3.1)?
//!
//! ```text
//! P(task) = P ∘ (C(task) R(task))        P [n, width] shared, C [n, rank] and R [rank, width] of each task
//! ```
//!
//! Column `task` of the data says which task a row is of. The files are PEFT's `MULTITASK_PROMPT_TUNING`. Departure from
//! PEFT: there all factors begin near 0, so that every prompt does; here `C R` begins near 1, so that every task begins
//! near the shared prompt. The distillation from single prompts of the paper's first stage is not here.

use super::common::peft::{PROMPT, SHAPE, check_pooling, check_submodules, once, saved_modules};
use super::common::produced::{Described, Produced, Producer};
use super::common::start::{Start, Words, check_count, first_vectors};
use crate::adapter::common::peft::{Taker, acted_on};
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Pass;
use modelsmith_core::host::Host;
use modelsmith_core::method::{Card, Family, Method, defaults_of, read_options};
use modelsmith_core::parameters::{Flat, trained};
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles, Encode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How far the factors begin from 1, or from 0: a standard deviation.
const DEVIATION: f32 = 0.02;

/// Names of the factors in the file.
const COLUMNS: &str = "prefix_task_cols";
const ROWS: &str = "prefix_task_rows";

/// Options of multi-task prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MultitaskPromptConfig {
    /// Vectors in front of every text, 1 to 65536; each takes one of the model's positions.
    pub virtual_tokens: usize,
    /// Names of the tasks, each once; column `task` of the data holds one of them, or its number from 0.
    pub tasks: Vec<String>,
    /// Rank of what a task multiplies the shared vectors by.
    pub rank: usize,
    /// How the shared vectors start.
    pub init: Start,
    /// The text to start from, for `init = "text"`.
    pub init_text: String,
    /// The labels to start from, for `init = "labels"`.
    pub init_labels: Vec<String>,
    /// Modules trained in full beside the prompt, by path suffix; the heads of classifiers are
    /// always among them.
    pub modules_to_save: Vec<String>,
    /// Tokens of the text, or of each label.
    #[serde(skip)]
    tokens: Vec<Vec<u32>>,
}

impl Default for MultitaskPromptConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 20,
            tasks: numbered(1),
            rank: 1,
            init: Start::Vocabulary,
            init_text: String::new(),
            init_labels: Vec::new(),
            modules_to_save: Vec::new(),
            tokens: Vec::new(),
        }
    }
}

impl Method for MultitaskPromptConfig {
    const CARD: Card = Card {
        id: "multitask_prompt",
        number: None,
        title: "Multi-task prompt tuning",
        family: Family::Prompt,
        paper: "Wang et al., ICLR 2023, arXiv 2303.02861",
        summary: "Trains one prompt for several tasks, and a few numbers for each that multiply it.",
    };
}

/// Twenty vectors, and a task.
pub(super) fn defaults() -> Value {
    defaults_of::<MultitaskPromptConfig>()
}

/// PEFT's type of the files.
pub(super) const TYPE: &str = "MULTITASK_PROMPT_TUNING";

/// Type of the files that PEFT would compute otherwise.
pub(super) const OWN_TYPE: &str = "MULTITASK_SOFT_PROMPT";

/// PEFT's keys of `adapter_config.json`.
#[derive(Deserialize)]
#[serde(default)]
struct Written {
    num_virtual_tokens: usize,
    num_transformer_submodules: usize,
    num_tasks: usize,
    num_ranks: usize,
    modules_to_save: Vec<String>,
    tasks: Vec<String>,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 0,
            num_transformer_submodules: 1,
            num_tasks: 1,
            num_ranks: 1,
            modules_to_save: Vec::new(),
            tasks: Vec::new(),
        }
    }
}

/// Reads the configuration of a saved prompt.
pub(super) fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(read(config)?))
}

fn read(config: &Map<String, Value>) -> Result<MultitaskPromptConfig> {
    let mut known = vec![
        "tasks",
        "num_virtual_tokens",
        "num_transformer_submodules",
        "num_tasks",
        "num_ranks",
        "modules_to_save",
        // How a finished prompt started changes nothing.
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "prompt_tuning_init_state_dict_path",
        "prompt_tuning_init_task",
        "tokenizer_name_or_path",
        "tokenizer_kwargs",
    ];
    known.extend(SHAPE);
    let written: Written = read_options(&Value::Object(acted_on(config, &known)?))?;
    check_submodules(written.num_transformer_submodules)?;
    let tasks = match written.tasks.is_empty() {
        true => numbered(written.num_tasks),
        false => written.tasks,
    };
    if tasks.len() != written.num_tasks {
        let problem = format!("is {}; {} tasks are named", written.num_tasks, tasks.len());
        return Err(Error::config("num_tasks", problem));
    }
    let found = MultitaskPromptConfig {
        virtual_tokens: written.num_virtual_tokens,
        tasks,
        rank: written.num_ranks,
        init: Start::Random,
        modules_to_save: once(written.modules_to_save),
        ..MultitaskPromptConfig::default()
    };
    found.check()?;
    Ok(found)
}

/// Names of tasks that nobody named.
fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|task| task.to_string()).collect()
}

impl MultitaskPromptConfig {
    fn words(&self) -> Words<'_> {
        Words {
            init: self.init,
            text: &self.init_text,
            labels: &self.init_labels,
        }
    }

    fn check(&self) -> Result<()> {
        check_count("method.virtual_tokens", self.virtual_tokens)?;
        self.words().check()?;
        if self.rank == 0 {
            return Err(Error::config("method.rank", "is 0; must be at least 1"));
        }
        let names: BTreeSet<&String> = self.tasks.iter().collect();
        match self.tasks.is_empty() || names.len() < self.tasks.len() {
            true => {
                let problem = format!("is {}; name each task once", json!(self.tasks));
                Err(Error::config("method.tasks", problem))
            }
            false => Ok(()),
        }
    }

    /// PEFT's keys, and names of tasks that are no plain numbers.
    fn described(&self, host: &dyn Host) -> Described {
        let mut further = Map::new();
        if self.tasks != numbered(self.tasks.len()) {
            further.insert("tasks".into(), json!(self.tasks));
        }
        further.extend(
            [
                ("num_tasks", json!(self.tasks.len())),
                ("num_ranks", json!(self.rank)),
                (
                    "modules_to_save",
                    saved_modules(host.info(), &self.modules_to_save),
                ),
                ("prompt_tuning_init", json!("RANDOM")),
                ("prompt_tuning_init_task", json!(0)),
                ("prompt_tuning_init_state_dict_path", Value::Null),
                ("prompt_tuning_init_text", Value::Null),
                ("tokenizer_name_or_path", Value::Null),
                ("tokenizer_kwargs", Value::Null),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        Described {
            kind: match host.info().pools_first {
                true => OWN_TYPE,
                false => TYPE,
            },
            virtual_tokens: self.virtual_tokens,
            modules_to_save: self.modules_to_save.clone(),
            options: Value::Null,
            further,
        }
    }

    /// The untrained producer.
    fn producer(&self, host: &dyn Host, width: usize, seed: u64) -> Result<Multitask> {
        let (tasks, rank, device) = (self.tasks.len(), self.rank, host.device());
        // Of the first rank all are near 1, of the others near 0: their product is near 1.
        let draw = |name: &str, shape: [usize; 3], rank_of: &dyn Fn(usize) -> usize| {
            let count = shape.iter().product();
            let draws = Stream::new(seed, &format!("prompt/{name}")).normal(count, 0.0, DEVIATION);
            let near = |(place, draw): (usize, f32)| match rank_of(place) {
                0 => 1.0 + draw,
                _ => draw,
            };
            let values = draws.into_iter().enumerate().map(near).collect();
            Flat::from_vec(values, &shape, &device).tensor::<3>()
        };
        let columns = [tasks, self.virtual_tokens, rank];
        let columns = draw(COLUMNS, columns, &|place| place % rank)?;
        let rows = draw(ROWS, [tasks, rank, width], &|place| place / width % rank)?;
        let shared = first_vectors(host, self.init, self.virtual_tokens, &self.tokens, seed)?;
        Ok(Multitask {
            shared: trained(shared.tensor()?),
            columns: trained(columns),
            rows: trained(rows),
            tasks: self.tasks.clone(),
            chosen: 0,
        })
    }
}

impl Adapt for MultitaskPromptConfig {
    fn read_words(&mut self, encode: &Encode<'_>) -> Result<()> {
        self.tokens = self.words().tokens(encode)?;
        Ok(())
    }

    fn virtual_tokens(&self) -> usize {
        self.virtual_tokens
    }

    fn tasks(&self) -> &[String] {
        &self.tasks
    }

    fn attach(&self, host: &dyn Host, seed: u64) -> Result<Box<dyn Adapter>> {
        self.check()?;
        let make = |width| self.producer(host, width, seed);
        let fresh = Produced::fresh(host, self.described(host), make)?;
        Ok(Box::new(fresh))
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let config = read(&files.config)?;
        check_pooling(host, &files.config, TYPE)?;
        let (count, tasks) = (config.virtual_tokens, config.tasks.len());
        let take = |file: &mut Taker, width: usize| {
            let shared = file.take(PROMPT, &[count, width])?;
            let columns = file.take(COLUMNS, &[tasks, count, config.rank])?;
            let rows = file.take(ROWS, &[tasks, config.rank, width])?;
            Ok(Multitask {
                shared: trained(shared.tensor()?),
                columns: trained(columns.tensor()?),
                rows: trained(rows.tensor()?),
                tasks: config.tasks.clone(),
                chosen: 0,
            })
        };
        let restored = Produced::saved(host, files, config.described(host), take)?;
        Ok(Box::new(restored))
    }

    fn options(&self) -> Value {
        json!(self)
    }

    fn starts_as_identity(&self) -> bool {
        false
    }
}

/// The shared vectors, and the factors of all tasks.
#[derive(Module, Debug)]
struct Multitask {
    /// `[virtual_tokens, width]`.
    shared: Param<Tensor<2>>,
    /// `[tasks, virtual_tokens, rank]`.
    columns: Param<Tensor<3>>,
    /// `[tasks, rank, width]`.
    rows: Param<Tensor<3>>,
    #[module(skip)]
    tasks: Vec<String>,
    /// The task of rows that name none.
    #[module(skip)]
    chosen: usize,
}

impl Multitask {
    /// The vectors of some tasks, `[tasks, virtual_tokens, width]`.
    fn of(&self, tasks: &[u32]) -> Tensor<3> {
        let (columns, rows) = (self.columns.val(), self.rows.val());
        let tasks: Vec<i64> = tasks.iter().map(|task| i64::from(*task)).collect();
        let count = tasks.len();
        let data = TensorData::new(tasks, [count]);
        let tasks = Tensor::<1, Int>::from_data(data, &columns.device());
        let by = columns
            .select(0, tasks.clone())
            .matmul(rows.select(0, tasks));
        self.shared.val().unsqueeze::<3>() * by
    }
}

impl Producer for Multitask {
    fn vectors(&self, _: &Pass) -> Tensor<2> {
        self.of(&[self.chosen as u32]).squeeze_dim(0)
    }

    fn prompts(&self, pass: &Pass) -> Tensor<3> {
        match &pass.tasks {
            Some(tasks) => self.of(tasks),
            None => self.of(&[self.chosen as u32]),
        }
    }

    fn tasks(&self) -> &[String] {
        &self.tasks
    }

    fn choose(&mut self, task: usize) {
        self.chosen = task;
    }

    fn tensors(&self) -> BTreeMap<String, Flat> {
        BTreeMap::from([
            (
                PROMPT.to_owned(),
                Flat::new(self.shared.val().without_autodiff()),
            ),
            (
                COLUMNS.to_owned(),
                Flat::new(self.columns.val().without_autodiff()),
            ),
            (
                ROWS.to_owned(),
                Flat::new(self.rows.val().without_autodiff()),
            ),
        ])
    }
}

#[cfg(test)]
mod tests;
