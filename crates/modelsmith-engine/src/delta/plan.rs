//! Which tensors does the result have, from which tensors of the models, with which parameters?

use super::config::{MergeConfig, Slice};
use super::layers::{Layer, is_in_front, stacks};
use super::setting::Settings;
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::files::{Checkpoint, DType, TensorSpec};
use modelsmith_methods::delta::Place;
use modelsmith_methods::delta::merge::{Job, Parameter, Scope, Values};
use std::collections::{BTreeMap, BTreeSet};

/// Entries that a tensor may have: counts of them are kept in 32 bits.
const MOST_ENTRIES: usize = u32::MAX as usize;

/// All tensors of the result, and what should be said about them.
pub(crate) struct Plan {
    /// By the name in the result.
    pub(crate) tensors: BTreeMap<String, Planned>,
    /// What was found that changes nothing or is left out.
    pub(crate) warnings: Vec<String>,
    /// Layers of the result, where layers are stacked.
    pub(crate) layers: Option<usize>,
}

/// One tensor of the result.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// Type and shape as written.
    pub(crate) spec: TensorSpec,
    /// The part of the configuration that it comes from.
    pub(crate) slice: usize,
    /// Model and name of every input.
    pub(crate) inputs: Vec<(usize, String)>,
    /// How far its layer is from the first (0) to the last (1) of its part.
    pub(crate) t: f64,
    /// Whether it is no float and so copied from the first input.
    pub(crate) copied: bool,
}

impl Plan {
    /// Plans all tensors.
    ///
    /// # Errors
    /// Tensors that a model lacks, that have other shapes, layers that it does not have.
    pub(crate) fn new(config: &MergeConfig, models: &[Checkpoint]) -> Result<Self> {
        let mut plan = Self {
            tensors: BTreeMap::new(),
            warnings: Vec::new(),
            layers: None,
        };
        if config.stacked {
            plan.stack(config, models)?;
        } else {
            plan.whole(config, models)?;
        }
        plan.warn_of_idle_parameters(config);
        Ok(plan)
    }

    fn whole(&mut self, config: &MergeConfig, models: &[Checkpoint]) -> Result<()> {
        let reference = &models[config.reference()];
        let counts = stacks(reference.names());
        for name in reference.names() {
            let t = Layer::of(name).map_or(0.0, |layer| part_of(layer.index, counts[layer.stack]));
            let inputs = config.slices[0]
                .sources
                .iter()
                .map(|source| (source.model, name.to_owned()));
            self.enter(config, models, name.to_owned(), 0, inputs.collect(), t)?;
        }
        self.warn_of_surplus(config, models);
        Ok(())
    }

    /// Layers one after the other; what stands outside them comes from the first or the last part.
    fn stack(&mut self, config: &MergeConfig, models: &[Checkpoint]) -> Result<()> {
        let mut next = 0;
        for (number, slice) in config.slices.iter().enumerate() {
            let ranges: Vec<_> = slice
                .sources
                .iter()
                .map(|source| {
                    let all = the_stack(&models[source.model])?.1;
                    let range = source.layers.clone().unwrap_or(0..all);
                    if range.end > all {
                        let key = format!("slices[{number}].sources");
                        let path = models[source.model].path().display();
                        return Err(Error::config(
                            key,
                            format!("layer_range ends at {}; {path} has {all} layers", range.end),
                        ));
                    }
                    Ok((source.model, range))
                })
                .collect::<Result<_>>()?;
            let count = ranges[0].1.len();
            for offset in 0..count {
                let (model, range) = &ranges[0];
                for name in models[*model].names() {
                    let Some(layer) =
                        Layer::of(name).filter(|layer| layer.index == range.start + offset)
                    else {
                        continue;
                    };
                    let inputs = ranges
                        .iter()
                        .map(|(model, range)| (*model, layer.at(range.start + offset)));
                    let t = part_of(offset, count);
                    self.enter(
                        config,
                        models,
                        layer.at(next + offset),
                        number,
                        inputs.collect(),
                        t,
                    )?;
                }
            }
            next += count;
        }
        self.layers = Some(next);
        self.outside(config, models)
    }

    fn outside(&mut self, config: &MergeConfig, models: &[Checkpoint]) -> Result<()> {
        let last = config.slices.len() - 1;
        let names: BTreeSet<(usize, &str)> = [(0, true), (last, false)]
            .into_iter()
            .flat_map(|(slice, front)| {
                let model = &models[config.slices[slice].sources[0].model];
                let outside = model.names().filter(|name| Layer::of(name).is_none());
                outside
                    .filter(move |name| is_in_front(name) == front)
                    .map(move |name| (slice, name))
            })
            .collect();
        for (slice, name) in names {
            let sources = config.slices[slice].sources.iter();
            let inputs = sources
                .map(|source| (source.model, name.to_owned()))
                .collect();
            self.enter(config, models, name.to_owned(), slice, inputs, 0.0)?;
        }
        Ok(())
    }

    fn enter(
        &mut self,
        config: &MergeConfig,
        models: &[Checkpoint],
        name: String,
        slice: usize,
        inputs: Vec<(usize, String)>,
        t: f64,
    ) -> Result<()> {
        let reference = config.slices[slice].base.unwrap_or(0);
        let (model, source) = &inputs[reference];
        let expected = models[*model].info(source)?.clone();
        for (model, name) in &inputs {
            let found = models[*model].info(name)?;
            if found.shape != expected.shape {
                let problem = format!(
                    "tensor {name} has shape {:?}; {} has {:?}. Tensors of different shapes are not merged: bring the models to one vocabulary and size first",
                    found.shape,
                    models[inputs[reference].0].path().display(),
                    expected.shape
                );
                return Err(Error::file(models[*model].path(), problem));
            }
        }
        if expected.shape.iter().product::<usize>() > MOST_ENTRIES {
            let problem = format!("tensor {name} has more than {MOST_ENTRIES} entries");
            return Err(Error::file(models[*model].path(), problem));
        }
        let float = |dtype: DType| dtype.is_readable_as_f32();
        let copied = !float(expected.dtype);
        let dtype = if copied {
            expected.dtype
        } else {
            config.dtype.unwrap_or(expected.dtype)
        };
        let planned = Planned {
            spec: TensorSpec::new(name.clone(), dtype, expected.shape),
            slice,
            inputs: if copied {
                vec![inputs[reference].clone()]
            } else {
                inputs
            },
            t,
            copied,
        };
        self.tensors.insert(name, planned);
        Ok(())
    }

    fn warn_of_surplus(&mut self, config: &MergeConfig, models: &[Checkpoint]) {
        for source in &config.slices[0].sources {
            let model = &models[source.model];
            let surplus: Vec<&str> = model
                .names()
                .filter(|name| !self.tensors.contains_key(*name))
                .collect();
            if let Some(first) = surplus.first() {
                let path = model.path().display();
                self.warnings.push(format!("{} tensors of {path} are left out, the reference has none of these names: {first}, ...", surplus.len()));
            }
        }
    }

    fn warn_of_idle_parameters(&mut self, config: &MergeConfig) {
        let known: BTreeSet<&str> = config
            .method
            .parameters
            .iter()
            .map(|one| one.name)
            .collect();
        let of_sources = config.slices.iter().flat_map(|slice| {
            let own = slice.sources.iter().map(|source| &source.parameters);
            own.chain([&slice.parameters])
        });
        let idle: BTreeSet<&str> = of_sources
            .chain([&config.parameters])
            .flat_map(Settings::keys)
            .map(String::as_str)
            .filter(|name| !known.contains(name))
            .collect();
        for name in idle {
            let id = config.method.card.id;
            self.warnings.push(format!(
                "parameter {name} has no effect: {id} does not read it"
            ));
        }
    }
}

/// How far a layer is from the first (0) to the last (1).
fn part_of(index: usize, count: usize) -> f64 {
    match count {
        0 | 1 => 1.0,
        count => index as f64 / (count - 1) as f64,
    }
}

/// The one stack of blocks of a model.
fn the_stack(model: &Checkpoint) -> Result<(&str, usize)> {
    let found = stacks(model.names());
    let mut iterator = found.iter();
    match (iterator.next(), iterator.next()) {
        (Some((name, count)), None) => Ok((name, *count)),
        (None, _) => Err(Error::file(
            model.path(),
            "no numbered layers, which slices need",
        )),
        (Some((a, _)), Some((b, _))) => Err(Error::file(
            model.path(),
            format!("has several stacks of layers ({a}, {b}); slices need one"),
        )),
    }
}

impl Planned {
    /// The parameters of this tensor.
    ///
    /// # Errors
    /// A parameter that has to be given and is not.
    pub(crate) fn job<'a>(
        &'a self,
        config: &MergeConfig,
        models: &[Checkpoint],
        seed: u64,
    ) -> Result<Job<'a>> {
        let slice = &config.slices[self.slice];
        let name = self.spec.name.as_str();
        let mut job = Job {
            place: Place::new(name, &self.spec.shape, seed),
            base: slice.base,
            common: Values::new(),
            inputs: Vec::new(),
        };
        for parameter in with_scope(config, Scope::Tensor) {
            let value = self.value(parameter, None, config, slice);
            job.common.insert(parameter.name, value.unwrap_or(0.0));
        }
        for (number, (model, _)) in self.inputs.iter().enumerate() {
            let mut values = Values::new();
            for parameter in with_scope(config, Scope::Model).filter(|_| Some(number) != slice.base)
            {
                let value = self
                    .value(parameter, Some(number), config, slice)
                    .ok_or_else(|| {
                        let path = models[*model].path().display();
                        let problem = format!(
                            "is missing for {name} of {path}; {} needs it",
                            config.method.card.id
                        );
                        Error::config(format!("parameters.{}", parameter.name), problem)
                    })?;
                values.insert(parameter.name, value);
            }
            job.inputs.push(values);
        }
        Ok(job)
    }

    /// A model's own value, else the part's, else everything's, else the method's.
    fn value(
        &self,
        parameter: &Parameter,
        input: Option<usize>,
        config: &MergeConfig,
        slice: &Slice,
    ) -> Option<f64> {
        let own = input.map(|input| &slice.sources[input].parameters);
        let places = own
            .into_iter()
            .chain([&slice.parameters, &config.parameters]);
        // Filters and gradients are told by the name in the model that the tensor comes from.
        let name = &self.inputs[input.unwrap_or(0)].1;
        let found = places
            .filter_map(|settings| settings.get(parameter.name)?.value(name, self.t))
            .next();
        found.or(parameter.default)
    }
}

fn with_scope(config: &MergeConfig, scope: Scope) -> impl Iterator<Item = &'static Parameter> {
    config
        .method
        .parameters
        .iter()
        .filter(move |one| one.scope == scope)
}

/// Refuses models that lack tensors of the reference, all of them at once.
pub(crate) fn check_names(config: &MergeConfig, models: &[Checkpoint]) -> Result<()> {
    if config.stacked {
        return Ok(());
    }
    let reference = &models[config.reference()];
    for source in &config.slices[0].sources {
        let model = &models[source.model];
        let missing: Vec<&str> = reference
            .names()
            .filter(|name| !model.contains(name))
            .collect();
        if let Some(first) = missing.first() {
            let near = suggest(first, model.names());
            let problem = format!(
                "lacks {} tensors of {}: {first}, ...; {near}",
                missing.len(),
                reference.path().display()
            );
            return Err(Error::file(model.path(), problem));
        }
    }
    Ok(())
}
