//! What becomes of tasks that no edit is about: six tasks, asked in words, answered in two ways.
//!
//! ```text
//! written    three tokens are written greedily; the first label found in them is the prediction
//! likeliest  the label of the largest exp(−ℓ(label | prompt))
//! ```
//!
//! The forms of the prompts are those of Gupta et al., arXiv 2502.01636. The first rows of a file are its
//! examples to show, the rest is the test.

use super::drift::{matthews, weighted_f1};
use super::forced::{Scored, forced};
use super::outcome::{Outcome, mean};
use super::query::{Query, prompt_ids};
use super::task_forms::{Item, TaskForm, items};
use crate::claim::bootstrap::{DRAWS, Interval};
use crate::generate::{GenerateOptions, generate, room};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::random::Stream;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Rows of a file that are shown as examples and never asked.
const POOL: usize = 10;
/// Tokens that an answer is searched in.
const WRITTEN: usize = 3;
/// Answers written at once.
const TOGETHER: usize = 16;

/// How many examples are shown and asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskOptions {
    /// Examples with their answers before each question, as many as fit the model's positions; at most 10.
    pub shots: usize,
    /// Questions, as evenly over the classes as the file allows.
    pub tests: usize,
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self {
            shots: 4,
            tests: 100,
        }
    }
}

/// A task with its examples and questions.
#[derive(Clone, Debug)]
pub struct Task {
    form: TaskForm,
    shown: Vec<Item>,
    asked: Vec<Item>,
}

/// Predictions of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The task.
    pub task: TaskForm,
    /// Right classes.
    pub labels: Vec<usize>,
    /// Classes that were written; `null` where none was.
    pub written: Vec<Option<usize>>,
    /// The likeliest classes.
    pub likeliest: Vec<Option<usize>>,
}

impl Task {
    /// Reads a file of the task: rows of JSON, CSV or Parquet, or lines that begin with their label.
    ///
    /// # Errors
    /// Rows that are not of the task, with their lines; too few of them.
    pub fn read(form: TaskForm, path: &Path, options: &TaskOptions) -> Result<Self> {
        let mut shown = items(form, path)?;
        if shown.len() <= POOL {
            return Err(Error::file(
                path,
                format!(
                    "has {} rows; the first {POOL} are examples, and none is left to ask",
                    shown.len()
                ),
            ));
        }
        let rest = shown.split_off(POOL);
        shown.truncate(options.shots);
        Ok(Self {
            form,
            shown,
            asked: balanced(rest, form.labels().len(), options.tests),
        })
    }

    /// The prompt of a question behind as many examples as leave room for the answer.
    fn prompt(&self, model: &Scored<'_>, item: &Item) -> Result<String> {
        let limit = room(model.host, model.hooks);
        let question = self.form.prompt(item);
        for shots in (0..=self.shown.len()).rev() {
            let shown = self.shown[..shots].iter();
            let blocks: String = shown
                .map(|item| {
                    format!(
                        "{} {}\n\n",
                        self.form.prompt(item),
                        self.form.labels()[item.label]
                    )
                })
                .collect();
            let text = format!("{blocks}{question}");
            if shots == 0 || prompt_ids(model.tokenizer, &text)?.len() + WRITTEN <= limit {
                return Ok(text);
            }
        }
        Ok(question)
    }

    /// Asks all questions.
    ///
    /// # Errors
    /// Questions that are longer than the model's positions without any example.
    pub fn measure(&self, model: &Scored<'_>) -> Result<TaskResult> {
        let prompts = self.asked.iter().map(|item| self.prompt(model, item));
        let prompts: Vec<String> = prompts.collect::<Result<_>>()?;
        Ok(TaskResult {
            task: self.form,
            labels: self.asked.iter().map(|item| item.label).collect(),
            written: self.written(model, &prompts)?,
            likeliest: self.likeliest(model, &prompts)?,
        })
    }

    fn likeliest(&self, model: &Scored<'_>, prompts: &[String]) -> Result<Vec<Option<usize>>> {
        let labels = self.form.labels();
        let mut queries = Vec::with_capacity(prompts.len() * labels.len());
        for prompt in prompts {
            for label in labels {
                queries.push(Query::new(model.tokenizer, prompt, label)?);
            }
        }
        let found = forced(model, &queries)?;
        let outcomes = found.iter().zip(&queries);
        let losses: Vec<f64> = outcomes
            .map(|(one, query)| Outcome::new(&one.log_probs, &one.best, query.target()).loss)
            .collect();
        let least = |losses: &[f64]| {
            let numbers = losses
                .iter()
                .enumerate()
                .filter(|(_, loss)| loss.is_finite());
            let best = numbers.min_by(|a, b| a.1.total_cmp(b.1));
            best.map(|(label, _)| label)
        };
        Ok(losses.chunks(labels.len()).map(least).collect())
    }

    fn written(&self, model: &Scored<'_>, prompts: &[String]) -> Result<Vec<Option<usize>>> {
        let rows = prompts
            .iter()
            .map(|prompt| prompt_ids(model.tokenizer, prompt));
        let rows: Vec<Vec<u32>> = rows.collect::<Result<_>>()?;
        let options = GenerateOptions {
            max_new_tokens: WRITTEN,
            eos: model.tokenizer.special().eos.into_iter().collect(),
            ..GenerateOptions::default()
        };
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|number| rows[*number].len());
        let mut found = vec![None; rows.len()];
        for numbers in order.chunks(TOGETHER) {
            let batch: Vec<Vec<u32>> = numbers.iter().map(|number| rows[*number].clone()).collect();
            let new = generate(model.host, &batch, &options, model.hooks, &mut |_, _| true)?;
            for (number, tokens) in numbers.iter().zip(new) {
                let text = model.tokenizer.decode(&tokens, true)?;
                found[*number] = self.form.label_in(&text);
            }
        }
        Ok(found)
    }
}

/// The first rows of each class in turn, until there are enough.
fn balanced(rows: Vec<Item>, classes: usize, count: usize) -> Vec<Item> {
    let mut by_class = vec![Vec::new(); classes];
    for row in rows {
        by_class[row.label].push(row);
    }
    let longest = by_class.iter().map(Vec::len).max().unwrap_or(0);
    let turns = (0..longest).flat_map(|turn| by_class.iter().filter_map(move |own| own.get(turn)));
    turns.take(count).cloned().collect()
}

impl TaskResult {
    /// Weighted F1 of what was written.
    pub fn f1_written(&self) -> f64 {
        weighted_f1(&self.labels, &self.written)
    }

    /// Weighted F1 of the likeliest labels.
    pub fn f1_likeliest(&self) -> f64 {
        weighted_f1(&self.labels, &self.likeliest)
    }

    /// Matthews correlation of what was written.
    pub fn matthews_written(&self) -> f64 {
        matthews(&self.labels, &self.written)
    }

    /// Later less earlier weighted F1 of what was written, with the 95 % interval of drawing the questions
    /// anew, the same for both.
    ///
    /// # Errors
    /// Results of different questions.
    pub fn change_since(&self, earlier: &Self) -> Result<Interval> {
        if self.task != earlier.task || self.labels != earlier.labels || self.labels.is_empty() {
            return Err(Error::Usage(
                "results of different questions are compared; measure the same task twice".into(),
            ));
        }
        let difference = |numbers: &[usize]| {
            let labels: Vec<usize> = numbers.iter().map(|at| self.labels[*at]).collect();
            let f1 = |of: &Self| {
                let found: Vec<Option<usize>> = numbers.iter().map(|at| of.written[*at]).collect();
                weighted_f1(&labels, &found)
            };
            f1(self) - f1(earlier)
        };
        let count = self.labels.len();
        let mut stream = Stream::new(0, &format!("edit/tasks/{:?}", self.task));
        let mut draw = || {
            (0..count)
                .map(|_| stream.below(count))
                .collect::<Vec<usize>>()
        };
        let mut drawn: Vec<f64> = (0..DRAWS).map(|_| difference(&draw())).collect();
        drawn.sort_by(f64::total_cmp);
        let cut = DRAWS / 40;
        Ok(Interval {
            difference: difference(&(0..count).collect::<Vec<usize>>()),
            low: drawn[cut],
            high: drawn[DRAWS - 1 - cut],
        })
    }
}

/// Mean of the weighted F1 of what was written, over tasks: the curve of papers on long sequences.
pub fn mean_f1(results: &[TaskResult]) -> Option<f64> {
    mean(results.iter().map(TaskResult::f1_written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_even_over_the_classes() {
        let row = |label| Item {
            texts: Vec::new(),
            label,
        };
        let rows = [0, 0, 0, 1, 0, 1].map(row).to_vec();
        let labels: Vec<usize> = balanced(rows, 2, 5).iter().map(|row| row.label).collect();
        assert_eq!(labels, [0, 1, 0, 1, 0]);
    }

    #[test]
    fn changes_are_of_the_same_questions() {
        let result = |written: Vec<Option<usize>>| TaskResult {
            task: TaskForm::Rte,
            labels: vec![0, 1, 0, 1],
            likeliest: written.clone(),
            written,
        };
        let all = result(vec![Some(0), Some(1), Some(0), Some(1)]);
        let none = result(vec![None; 4]);
        let change = none.change_since(&all).unwrap();
        assert_eq!(
            (change.difference, change.low, change.high),
            (-1.0, -1.0, -1.0)
        );
        assert_eq!(mean_f1(&[all.clone(), none]), Some(0.5));
        let fewer = TaskResult {
            labels: vec![0],
            ..all.clone()
        };
        assert!(fewer.change_since(&all).is_err());
    }
}
