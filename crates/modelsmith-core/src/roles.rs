//! Roles: what a driver asks of the methods of a family.

use crate::error::{Error, Result};
use crate::hooks::Hooks;
use crate::host::Host;
use crate::parameters::{Flat, Parameters};
use crate::sites::Site;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Where a training run stands, for methods that act on events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Optimizer steps finished so far.
    pub step: u64,
    /// Optimizer steps planned in all.
    pub total_steps: u64,
    /// Epochs finished so far.
    pub epoch: u64,
}

/// An adapter as files: PEFT's two, with names and keys as PEFT writes them.
#[derive(Clone, Debug, Default)]
pub struct AdapterFiles {
    /// Contents of `adapter_config.json`.
    pub config: Map<String, Value>,
    /// Contents of `adapter_model.safetensors` by key.
    pub tensors: BTreeMap<String, Flat>,
}

/// A figure that a method has for sites of the host, for reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteMap {
    /// What is shown, as a heading.
    pub title: String,
    /// How to read it, as a sentence.
    pub caption: String,
    /// Site path and value, in the host's order.
    pub values: Vec<(String, f64)>,
}

/// A tokenizer as methods use it: the ids of a text, with what it puts around one on request.
pub type Encode<'a> = dyn Fn(&str, bool) -> Result<Vec<u32>> + 'a;

/// A method that attaches trained state to a frozen host.
pub trait Adapt: Send + Sync {
    /// Turns words of the options into tokens of the host; called before [`Adapt::attach`].
    ///
    /// # Errors
    /// Words that the tokenizer cannot express.
    fn read_words(&mut self, _encode: &Encode<'_>) -> Result<()> {
        Ok(())
    }

    /// Positions of every row that the adapter takes up; texts must leave room for them.
    fn virtual_tokens(&self) -> usize {
        0
    }

    /// Names of the tasks that rows of the data may be of, where the method tells them apart.
    fn tasks(&self) -> &[String] {
        &[]
    }

    /// Checks the options against the host and creates the untrained adapter, whose random
    /// values are drawn under `seed` and the names of its sites.
    ///
    /// # Errors
    /// Options that do not fit the host, or that match no site.
    fn attach(&self, host: &dyn Host, seed: u64) -> Result<Box<dyn Adapter>>;

    /// Restores a saved adapter onto the host it was made for.
    ///
    /// # Errors
    /// Missing, surplus or misshapen tensors, with their keys; sites that the host lacks.
    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>>;

    /// The options as written, for records.
    fn options(&self) -> Value;

    /// Whether an untrained adapter leaves the host's output equal to the bit.
    fn starts_as_identity(&self) -> bool {
        true
    }
}

/// State attached at sites: hooks with named parameters, and the events of training.
pub trait Adapter: Parameters + Send + Sync {
    /// What it does at the host's sites, for the slice a host takes.
    fn hooks(&self) -> &dyn Hooks;

    /// The adapter as PEFT files, or as files of the same form where PEFT knows no such type.
    ///
    /// # Errors
    /// State that the file format cannot express.
    fn files(&self, host: &dyn Host) -> Result<AdapterFiles>;

    /// The adapter in the form that most programs read, where its own files are not in it: what is made
    /// anew from other numbers in each pass is computed once.
    ///
    /// # Errors
    /// As [`Adapter::files`].
    fn portable(&self, host: &dyn Host) -> Result<AdapterFiles> {
        self.files(host)
    }

    /// The host weight `name` with this adapter folded in, or `None` where it changes nothing.
    ///
    /// # Errors
    /// An adapter that cannot be expressed as a change of weights.
    fn merged(&self, host: &dyn Host, name: &str) -> Result<Option<Flat>>;

    /// Whether it is a change of weights at all; [`Adapter::merged`] says why not otherwise.
    fn is_mergeable(&self) -> bool {
        true
    }

    /// The host weight `name`, of a host that this adapter was folded into, with it taken out
    /// again; `None` where it changes nothing.
    ///
    /// # Errors
    /// An adapter whose merging cannot be undone from the merged weights alone.
    fn unmerged(&self, _host: &dyn Host, _name: &str) -> Result<Option<Flat>> {
        Err(Error::Usage(
            "this adapter cannot be taken out of merged weights; load the base model instead"
                .into(),
        ))
    }

    /// Sites it is attached to.
    fn sites(&self) -> Vec<&Site>;

    /// A copy, for running or comparing side by side.
    fn boxed(&self) -> Box<dyn Adapter>;

    /// Names of the tasks that it tells apart, in the order of their numbers.
    fn tasks(&self) -> &[String] {
        &[]
    }

    /// Chooses the task of rows that name none; the first one until then.
    ///
    /// # Errors
    /// An adapter that tells no tasks apart, or not this one.
    fn choose_task(&mut self, name: &str) -> Result<()> {
        let problem = format!("this adapter has no tasks; leave out task {name}");
        Err(Error::Usage(problem))
    }

    /// Multiplies its effect, as PEFT's `set_scale` does; 0 is the host alone.
    ///
    /// # Errors
    /// A method whose effect has no scale.
    fn set_scale(&mut self, _scale: f64) -> Result<()> {
        Err(Error::Usage("this adapter has no scale".into()))
    }

    /// Terms of the loss that the hooks met in the last pass of training, taken out: the loss of the
    /// pass's batch is the sum of both.
    fn take_terms(&self) -> Option<Tensor<1>> {
        None
    }

    /// A term added to the loss of every step.
    fn penalty(&self) -> Option<Tensor<1>> {
        None
    }

    /// Figures of the last step beside the loss, by name: curves of the report.
    fn measures(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// Figures of its sites, for the report.
    fn maps(&self) -> Vec<SiteMap> {
        Vec::new()
    }

    /// Called before the first micro-batch of a step.
    ///
    /// # Errors
    /// Whatever the method cannot go on with.
    fn before_step(&mut self, _progress: Progress) -> Result<()> {
        Ok(())
    }

    /// Called with the accumulated gradients, before clipping; they may be read or changed.
    ///
    /// # Errors
    /// Whatever the method cannot go on with.
    fn after_backward(
        &mut self,
        _progress: Progress,
        _gradients: &mut BTreeMap<String, Flat>,
    ) -> Result<()> {
        Ok(())
    }

    /// Called after the optimizer changed the parameters, with the gradients it used, to be
    /// multiplied by `scale`, the factor of clipping.
    ///
    /// # Errors
    /// Whatever the method cannot go on with.
    fn after_step(
        &mut self,
        _progress: Progress,
        _gradients: &BTreeMap<String, Flat>,
        _scale: f64,
    ) -> Result<()> {
        Ok(())
    }

    /// Called at the end of every epoch.
    ///
    /// # Errors
    /// Whatever the method cannot go on with.
    fn end_of_epoch(&mut self, _progress: Progress) -> Result<()> {
        Ok(())
    }
}

/// An optimizer's options.
pub trait Optimize: Send + Sync {
    /// A fresh optimizer.
    ///
    /// # Errors
    /// Options out of range.
    fn optimizer(&self) -> Result<Box<dyn Optimizer>>;

    /// The options as written, for records.
    fn options(&self) -> Value;
}

/// A parameter under its gradient, at the learning rate and weight decay of its group.
#[derive(Debug)]
pub struct Update<'a> {
    /// Name of the parameter, under which an optimizer keeps its state.
    pub name: &'a str,
    /// Its value, to be changed.
    pub value: &'a mut Flat,
    /// Its gradient, `[value.len()]`, before scaling.
    pub gradient: Tensor<1>,
    /// What multiplies the gradient: the factor of clipping.
    pub scale: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

impl Update<'_> {
    /// The scaled gradient.
    pub fn gradient(&self) -> Tensor<1> {
        let gradient = self.gradient.clone();
        match self.scale == 1.0 {
            true => gradient,
            false => gradient.mul_scalar(self.scale),
        }
    }
}

/// An optimizer with its state, which is keyed by parameter name and so survives in files.
pub trait Optimizer: Send {
    /// Changes one parameter.
    ///
    /// # Errors
    /// Whatever the method cannot go on with.
    fn update(&mut self, update: Update<'_>) -> Result<()>;

    /// Changes the parameters of a step; for optimizers that do better than one after the other.
    ///
    /// # Errors
    /// As [`Optimizer::update`].
    fn update_all(&mut self, updates: Vec<Update<'_>>) -> Result<()> {
        updates
            .into_iter()
            .try_for_each(|update| self.update(update))
    }

    /// All state as named tensors.
    fn state(&self) -> BTreeMap<String, Flat>;

    /// Puts back what [`Optimizer::state`] gave.
    ///
    /// # Errors
    /// Tensors that are not this optimizer's.
    fn restore(&mut self, state: BTreeMap<String, Flat>) -> Result<()>;
}
