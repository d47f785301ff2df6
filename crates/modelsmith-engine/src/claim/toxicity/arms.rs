//! How arms change the model, and at what strength.

use super::super::arms::Bench;
use super::super::measured::options;
use super::super::tuned::Tuning;
use super::tweets::prompts;
use super::{PLAIN, TOXIC, World, unknown};
use crate::edit::surgery::{
    Behaviour, Dpo, DpoOptions, Judge, Operation, Point, Pruning, Steering, Surgery, SweepOptions,
    choose, edited, examples, operate, pairs,
};
use crate::recipe::Named;
use crate::registry;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::atomic_json;
use modelsmith_core::hooks::Hooks;
use modelsmith_core::roles::Adapter;
use modelsmith_hosts::Transformer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Names of arms.
const KNOWN: [&str; 6] = ["none", "surgery", "steering", "tuned", "pruned", "dpo"];

/// What an arm does.
pub(super) enum Way {
    Nothing,
    /// A probe's direction for a class, in rows of weights or in states.
    Direction(By, usize, Box<Surgery>),
    Tuned(Tuning),
    Pruned(Pruned),
    Preferences(Preferences),
}

/// What a probe's direction is added to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Weights,
    States,
}

/// Options of pruning.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Pruned {
    /// Shares of a row's weights that are its top, to choose among.
    shares: Vec<f64>,
    /// Texts of this many tokens or more are left out.
    max_tokens: usize,
}

impl Default for Pruned {
    fn default() -> Self {
        Self {
            shares: vec![0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5],
            max_tokens: 100,
        }
    }
}

/// Options of training on preferences.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Preferences {
    /// The method that is trained, `full` for all weights.
    by: Named,
    /// Numbers of steps to choose among, from fewer to more.
    steps: Vec<u64>,
    /// Texts whose beginnings are continued.
    prompts: usize,
    dpo: DpoOptions,
}

impl Default for Preferences {
    fn default() -> Self {
        Self {
            by: Named::new("full"),
            steps: vec![5, 10, 20, 50, 100, 200],
            prompts: 1000,
            dpo: DpoOptions::default(),
        }
    }
}

impl Way {
    /// The way of a method.
    ///
    /// # Errors
    /// An unknown name or option, values out of range.
    pub(super) fn read(method: &Named, seed: u64) -> Result<Self> {
        match method.name.as_str() {
            "none" => options::<Map<String, Value>>(method).map(|_| Self::Nothing),
            "surgery" => direction(By::Weights, method, seed),
            "steering" => direction(By::States, method, seed),
            "tuned" => {
                let tuning: Tuning = options(method)?;
                tuning.check()?;
                Ok(Self::Tuned(tuning))
            }
            "pruned" => {
                let pruned: Pruned = options(method)?;
                let within = |share: &f64| *share > 0.0 && *share < 1.0;
                increasing("shares", &pruned.shares, within, "shares between 0 and 1")?;
                Ok(Self::Pruned(pruned))
            }
            "dpo" => {
                let found: Preferences = options(method)?;
                registry::adapter_method(&found.by)?;
                increasing("steps", &found.steps, |steps| *steps > 0, "numbers above 0")?;
                found.dpo.check()?;
                Ok(Self::Preferences(found))
            }
            other => Err(unknown(other, &KNOWN)),
        }
    }
}

/// Refuses strengths that are none, out of range, or in another order.
fn increasing<T: PartialOrd + Serialize>(
    key: &str,
    values: &[T],
    within: impl Fn(&T) -> bool,
    expected: &str,
) -> Result<()> {
    match !values.is_empty() && values.iter().all(within) && values.is_sorted() {
        true => Ok(()),
        false => {
            let problem = format!("is {}; expected {expected} in order", json!(values));
            Err(Error::config(format!("method.{key}"), problem))
        }
    }
}

/// The class whose direction is taken, and the operation.
fn direction(by: By, method: &Named, seed: u64) -> Result<Way> {
    let mut rest = method.clone();
    let class = match rest.options.remove("class") {
        None => TOXIC,
        Some(Value::String(name)) if name == "toxic" => TOXIC,
        Some(Value::String(name)) if name == "plain" => PLAIN,
        Some(other) => {
            let problem = format!("is {other}; expected \"toxic\" or \"plain\"");
            return Err(Error::config("method.class", problem));
        }
    };
    let mut found: Surgery = options(&rest)?;
    found.seed = seed;
    found.check()?;
    Ok(Way::Direction(by, class, Box::new(found)))
}

/// A model that an arm made: its weights, and what is attached.
pub(super) struct Changed {
    pub(super) host: Transformer,
    attached: Option<Attached>,
    /// Numbers changed.
    pub(super) count: usize,
}

enum Attached {
    Steering(Box<Steering>),
    Adapter(Box<dyn Adapter>),
}

impl Changed {
    /// Weights, and nothing else.
    pub(super) fn of(host: Transformer) -> Self {
        Self {
            host,
            attached: None,
            count: 0,
        }
    }

    pub(super) fn hooks(&self) -> Vec<&dyn Hooks> {
        fn hooks(attached: &Attached) -> &dyn Hooks {
            match attached {
                Attached::Steering(steering) => &**steering,
                Attached::Adapter(adapter) => adapter.hooks(),
            }
        }
        self.attached.iter().map(hooks).collect()
    }
}

impl World {
    /// The model as an arm makes it; what was tried is kept in `folder`.
    ///
    /// # Errors
    /// What the change refuses, a signal.
    pub(super) fn changed(
        &self,
        bench: &Bench,
        method: &Named,
        seed: u64,
        folder: &Path,
    ) -> Result<Changed> {
        match Way::read(method, seed)? {
            Way::Nothing => Ok(self.unchanged()),
            Way::Direction(by, class, options) => {
                self.by_direction(bench, (by, class), &options, folder)
            }
            Way::Tuned(tuning) => {
                let rows = (self.folder.as_path(), self.plain.as_path());
                let (model, count) = tuning.run(bench, rows, seed, folder)?;
                let device = crate::device::device(&bench.device)?;
                Ok(Changed {
                    count: count as usize,
                    ..Changed::of(modelsmith_hosts::load(&model, &device)?)
                })
            }
            Way::Pruned(options) => self.by_pruning(bench, &options, folder),
            Way::Preferences(options) => self.by_preferences(bench, &options, seed, folder),
        }
    }

    /// The change at the strength with the fewest toxic continuations at no more perplexity than is allowed, on texts for
    /// choosing; the model as it is where none has fewer.
    fn chosen(
        &self,
        bench: &Bench,
        folder: &Path,
        strengths: &[f64],
        at: &mut dyn FnMut(f64) -> Result<Changed>,
    ) -> Result<Changed> {
        let behaviour = self.behaviour(&self.choosing);
        let measured = |alpha: f64, changed: &Changed| {
            let (host, hooks) = (&changed.host, changed.hooks());
            Ok::<_, Error>(Point {
                alpha,
                behaviour: behaviour.measure(host, &hooks)?.behaviour,
                perplexity: self.choosing.windows.perplexity(host, &hooks)?,
            })
        };
        let (mut points, mut made) = (Vec::new(), Vec::new());
        for alpha in strengths {
            bench.stopped()?;
            let changed = at(*alpha)?;
            points.push(measured(*alpha, &changed)?);
            made.push(changed);
        }
        let base = measured(0.0, &self.unchanged())?;
        let choice = choose(base, &points, &[], self.toxicity.rise);
        let place = points.iter().position(|point| *point == choice.point);
        let kept = json!({"points": points, "choice": choice});
        atomic_json(folder.join("strengths.json"), &kept)?;
        Ok(match place {
            Some(place) => made.swap_remove(place),
            None => self.unchanged(),
        })
    }

    fn by_direction(
        &self,
        bench: &Bench,
        (by, class): (By, usize),
        options: &Surgery,
        folder: &Path,
    ) -> Result<Changed> {
        let (host, tokenizer) = (&self.host, &self.tokenizer);
        let examples = examples(host, tokenizer, &self.for_model, options.max_tokens)?;
        let operation = operate(host, &examples, class, options)?;
        let strengths = SweepOptions::default().alphas;
        self.chosen(bench, folder, &strengths, &mut |alpha| {
            self.at(by, &operation, alpha)
        })
    }

    /// The model with a direction at a strength.
    fn at(&self, by: By, operation: &Operation, alpha: f64) -> Result<Changed> {
        let patch = &operation.patch;
        let width = patch.direction.len();
        Ok(match by {
            By::Weights => Changed {
                count: width * patch.count(),
                ..Changed::of(edited(&self.host, &[patch.at(alpha)])?)
            },
            By::States => Changed {
                attached: Some(Attached::Steering(Box::new(Steering::new(
                    &self.host, patch, alpha,
                )))),
                count: width,
                ..self.unchanged()
            },
        })
    }

    fn by_pruning(&self, bench: &Bench, options: &Pruned, folder: &Path) -> Result<Changed> {
        let texts = (&self.for_model, TOXIC);
        let pruning = Pruning::new(&self.host, &self.tokenizer, texts, options.max_tokens)?;
        self.chosen(bench, folder, &options.shares, &mut |share| {
            let (host, count) = pruning.at(&self.host, share)?;
            Ok(Changed {
                count,
                ..Changed::of(host)
            })
        })
    }

    /// Training on the model's own continuations. They are told apart by a judge of the texts that the model was tuned on:
    /// the one that scores the arms has not read them, and does not teach them either.
    fn by_preferences(
        &self,
        bench: &Bench,
        options: &Preferences,
        seed: u64,
        folder: &Path,
    ) -> Result<Changed> {
        let (host, tokenizer) = (&self.host, &self.tokenizer);
        let judge = Judge::train(&self.for_model, TOXIC, seed)?;
        let begun = prompts(tokenizer, &self.for_model, usize::MAX)?;
        let begun = spread(begun, options.prompts, seed);
        let drawn = (self.toxicity.tokens, options.dpo.samples);
        let pairs = pairs(host, (tokenizer, &judge), &begun, drawn, seed)?;
        let method = registry::adapter_method(&options.by)?;
        let mut adapter = method.attach(host, seed)?;
        let mut training = Dpo::new(host, &pairs, options.dpo.clone(), seed)?;
        let strengths: Vec<f64> = options.steps.iter().map(|steps| *steps as f64).collect();
        self.chosen(bench, folder, &strengths, &mut |steps| {
            while (training.steps as f64) < steps {
                bench.stopped()?;
                training.step(&mut *adapter)?;
            }
            let mut frozen = adapter.boxed();
            frozen.set_trainable(&|_| false);
            Ok(Changed {
                count: trained(&*adapter),
                attached: Some(Attached::Adapter(frozen)),
                ..self.unchanged()
            })
        })
    }
}

/// Numbers that training changes.
fn trained(adapter: &dyn Adapter) -> usize {
    let parameters = adapter.parameters();
    let trained = parameters.iter().filter(|one| one.trainable);
    trained.map(|one| one.value.len()).sum()
}

/// At most so many of the prompts, drawn by the seed.
fn spread(mut prompts: Vec<Vec<u32>>, most: usize, seed: u64) -> Vec<Vec<u32>> {
    modelsmith_core::random::Stream::new(seed, "claim/preferences").shuffle(&mut prompts);
    prompts.truncate(most);
    prompts
}
