//! A codebook at a layer of a host.

use super::codebook::Codebook;
use super::files::{GraceConfig, files};
use super::prompt_ends::PromptEnds;
use burn::tensor::{Bool, Gradients, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, LinearCall};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::{Flat, Named, Parameters, to_vec};
use modelsmith_core::roles::{Adapter, AdapterFiles};
use modelsmith_core::sites::Site;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which outputs of a prompt that hits get the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Replacement {
    /// That of the last prompt token.
    #[default]
    ReplaceLast,
    /// Those in front of it.
    ReplacePrompt,
    /// All of the row.
    ReplaceAll,
}

impl Replacement {
    /// The columns replaced in a row whose text begins at `first`, whose prompt ends with column `last`, of
    /// `time` columns.
    pub fn columns(self, first: usize, last: usize, time: usize) -> Range<usize> {
        match self {
            Self::ReplaceLast => last..last + 1,
            Self::ReplacePrompt => first..last,
            Self::ReplaceAll => first..time,
        }
    }
}

/// A codebook hooked to a dense layer.
#[derive(Debug)]
pub struct Grace {
    /// The codebook.
    pub book: Codebook,
    /// Options it was made with.
    pub config: GraceConfig,
    site: Site,
    ends: PromptEnds,
    /// How often each entry was used.
    hits: Vec<AtomicU64>,
    scale_is_zero: bool,
}

impl Clone for Grace {
    fn clone(&self) -> Self {
        Self {
            scale_is_zero: self.scale_is_zero,
            ..Self::new(self.book.clone(), self.config.clone(), self.site.clone())
        }
    }
}

impl Grace {
    /// `book` at `site`.
    pub fn new(book: Codebook, config: GraceConfig, site: Site) -> Self {
        Self {
            hits: book.entries().iter().map(|_| AtomicU64::new(0)).collect(),
            book,
            config,
            site,
            ends: PromptEnds::default(),
            scale_is_zero: false,
        }
    }

    /// The layer.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// How often each entry was used since it was loaded, by id.
    pub fn hits(&self) -> Vec<(&str, u64)> {
        let pairs = self.book.entries().iter().zip(&self.hits);
        pairs
            .map(|(entry, count)| (entry.id.as_str(), count.load(Ordering::Relaxed)))
            .collect()
    }

    /// Counts entries made since.
    pub fn recount(&mut self) {
        self.hits.resize_with(self.book.len(), || AtomicU64::new(0));
    }

    /// The entry of every row of `x` `[batch, time, width]` that hits one, with the columns it replaces.
    fn found(&self, x: &Tensor<3>, last: &[usize]) -> Vec<(usize, usize, Range<usize>)> {
        let [_, time, width] = x.dims();
        let queries = to_vec(PromptEnds::states(x, last));
        let hit = |(row, query): (usize, &[f32])| {
            let entry = self.book.hit(query)?;
            self.hits.get(entry)?.fetch_add(1, Ordering::Relaxed);
            Some((
                row,
                entry,
                self.config.replacement.columns(0, last[row], time),
            ))
        };
        queries
            .chunks_exact(width)
            .enumerate()
            .filter_map(hit)
            .collect()
    }

    /// Outputs `[batch, time, width]` with the entries' values in the columns found, all in one operation.
    fn replaced(&self, y: Tensor<3>, found: Vec<(usize, usize, Range<usize>)>) -> Tensor<3> {
        let [batch, time, width] = y.dims();
        let mut values = vec![0.0; batch * time * width];
        let mut mask = vec![false; batch * time * width];
        for (row, entry, columns) in found {
            for column in columns {
                let begin = (row * time + column) * width;
                values[begin..begin + width].copy_from_slice(self.book.value(entry));
                mask[begin..begin + width].fill(true);
            }
        }
        let (shape, device) = ([batch, time, width], y.device().without_autodiff());
        let values = Tensor::<3>::from_data(TensorData::new(values, shape), &device);
        let mask = Tensor::<3, Bool>::from_data(TensorData::new(mask, shape), &device);
        y.mask_where(mask, values)
    }
}

impl Hooks for Grace {
    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        if call.site.path != self.site.path {
            return call.run(x);
        }
        let [rows, time, _] = x.dims();
        let last = self.ends.take([rows, time]);
        // Tokens that are written later see the value through the cache.
        if self.scale_is_zero || self.book.is_empty() || call.pass.offset > 0 {
            return call.run(x);
        }
        let found = self.found(&x, &last);
        let y = call.run(x);
        match found.is_empty() {
            true => y,
            false => self.replaced(y, found),
        }
    }

    fn acts_at(&self, site: &Site) -> bool {
        site.path == self.site.path
    }

    fn given(&self, lengths: &[usize]) {
        self.ends.given(lengths);
    }
}

impl Parameters for Grace {
    fn parameters(&self) -> Vec<Named> {
        let [keys, values] = self.book.widths();
        let device = burn::tensor::Device::flex();
        let named = |name: &str, numbers: &[f32], width: usize| Named {
            name: name.to_owned(),
            value: Flat::from_vec(numbers.to_vec(), &[self.book.len(), width], &device),
            trainable: false,
        };
        vec![
            named("keys", self.book.keys(), keys),
            named("values", self.book.values(), values),
        ]
    }

    /// Keys decide which entries there are, so nothing is changed from outside.
    fn update(&mut self, change: &mut dyn FnMut(&mut [Named])) {
        change(&mut self.parameters());
    }

    fn take_gradients(&self, _gradients: &mut Gradients) -> BTreeMap<String, Flat> {
        BTreeMap::new()
    }

    fn set_trainable(&mut self, _trainable: &dyn Fn(&str) -> bool) {}
}

impl Adapter for Grace {
    fn hooks(&self) -> &dyn Hooks {
        self
    }

    fn files(&self, host: &dyn Host) -> Result<AdapterFiles> {
        files(self, host)
    }

    fn merged(&self, _host: &dyn Host, _name: &str) -> Result<Option<Flat>> {
        Err(Error::Usage(
            "a codebook of GRACE is no change of weights and does not merge; attach it with --adapter".into(),
        ))
    }

    fn is_mergeable(&self) -> bool {
        false
    }

    fn sites(&self) -> Vec<&Site> {
        vec![&self.site]
    }

    fn boxed(&self) -> Box<dyn Adapter> {
        Box::new(self.clone())
    }

    fn set_scale(&mut self, scale: f64) -> Result<()> {
        if scale != 0.0 && scale != 1.0 {
            return Err(Error::Usage(format!(
                "a codebook of GRACE is on or off; found a scale of {scale}, expected 0 or 1"
            )));
        }
        self.scale_is_zero = scale == 0.0;
        Ok(())
    }
}
