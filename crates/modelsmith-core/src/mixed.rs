//! Different hooks for different rows of one batch, as a server with many adapters needs them.
//!
//! A site at which no hook acts is computed once for all rows. At a dense layer whose hooks all work on what the
//! layer gave ([`Hooks::after_linear`]) the layer is computed once too; elsewhere each hook runs the rest of the
//! onion on its own rows.

use crate::error::{Error, Result};
use crate::hooks::{
    AttentionCall, Call, ConvCall, EmbeddingCall, Hooks, LinearCall, NormCall, OutputCall, Pass,
    ProbabilitiesCall, Qkv, ResidualCall, StateCall,
};
use crate::layers::Linear;
use crate::mask::Mask;
use crate::sites::Site;
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::sync::{PoisonError, RwLock};

/// Hooks by row.
pub struct Mixed<'a> {
    hooks: Vec<&'a dyn Hooks>,
    /// For each row of the batch as it is now, the number of its hooks; `None` for the host alone.
    rows: RwLock<Vec<Option<usize>>>,
}

/// Rows with the same hooks.
struct Group<'a> {
    hooks: Option<&'a dyn Hooks>,
    rows: Vec<usize>,
}

impl<'a> Mixed<'a> {
    /// The hooks of each row; rows with the same ones are computed together.
    ///
    /// # Errors
    /// Hooks that put different numbers of virtual tokens or keys in front of their rows; such rows
    /// belong into different batches.
    pub fn new(of_rows: &[Option<&'a dyn Hooks>]) -> Result<Self> {
        let pass = &Pass::default();
        let front = |hooks: Option<&dyn Hooks>| hooks.map_or([0; 2], |hooks| in_front(hooks, pass));
        let mut mixed = Self {
            hooks: Vec::new(),
            rows: RwLock::default(),
        };
        let mut rows = Vec::with_capacity(of_rows.len());
        let first = of_rows.first().map_or([0; 2], |first| front(*first));
        for hooks in of_rows {
            if front(*hooks) != first {
                return Err(Error::Usage(
                    "adapters with different numbers of virtual tokens share no batch".into(),
                ));
            }
            rows.push(hooks.map(|hooks| mixed.number(hooks)));
        }
        mixed.rows = RwLock::new(rows);
        Ok(mixed)
    }

    fn number(&mut self, hooks: &'a dyn Hooks) -> usize {
        let same = |known: &&dyn Hooks| std::ptr::addr_eq(*known, hooks);
        self.hooks.iter().position(same).unwrap_or_else(|| {
            self.hooks.push(hooks);
            self.hooks.len() - 1
        })
    }

    /// The rows by hooks, those that do nothing at the site as the host's.
    fn groups(&self, site: &Site) -> Vec<Group<'a>> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<Group<'a>> = Vec::new();
        let mut numbers: Vec<Option<usize>> = Vec::new();
        for (row, number) in rows.iter().enumerate() {
            let number = number.filter(|number| self.hooks[*number].acts_at(site));
            match numbers.iter().position(|known| *known == number) {
                Some(at) => found[at].rows.push(row),
                None => {
                    numbers.push(number);
                    found.push(Group {
                        hooks: number.map(|number| self.hooks[number]),
                        rows: vec![row],
                    });
                }
            }
        }
        found
    }

    /// Runs each group's hook on its rows of the input; `cut` takes rows out of it.
    fn split<Layer, In: Clone, const D: usize>(
        &self,
        call: Call<'_, Layer, In, Tensor<D>>,
        input: In,
        cut: impl Fn(&In, &Tensor<1, Int>) -> In,
        device: &Device,
        around: impl for<'c> Fn(&dyn Hooks, Call<'c, Layer, In, Tensor<D>>, In) -> Tensor<D>,
    ) -> Tensor<D> {
        let groups = self.groups(call.site);
        if let [Group { hooks, .. }] = &groups[..] {
            return match hooks {
                Some(hooks) => around(*hooks, call, input),
                None => call.run(input),
            };
        }
        let parts = groups.iter().map(|group| {
            let part = cut(&input, &indices(&group.rows, device));
            match group.hooks {
                Some(hooks) => around(hooks, call.again(), part),
                None => call.again().run(part),
            }
        });
        joined(&groups, parts.collect(), device)
    }
}

/// Virtual tokens and keys in front of a row.
fn in_front(hooks: &dyn Hooks, pass: &Pass) -> [usize; 2] {
    let prompt = hooks.prompt(pass).map_or(0, |prompt| prompt.dims()[1]);
    [prompt, hooks.prefix()]
}

/// The groups' results in the order of the rows.
fn joined<const D: usize>(
    groups: &[Group<'_>],
    parts: Vec<Tensor<D>>,
    device: &Device,
) -> Tensor<D> {
    let order: Vec<usize> = groups.iter().flat_map(|group| group.rows.clone()).collect();
    let mut places = vec![0; order.len()];
    for (place, row) in order.into_iter().enumerate() {
        places[row] = place;
    }
    Tensor::cat(parts, 0).select(0, indices(&places, device))
}

fn indices(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    let count = [rows.len()];
    Tensor::from_data(TensorData::new(rows, count), device)
}

/// Rows of a tensor; one that is the same for all rows, as the positions are, is repeated.
macro_rules! rows {
    ($x:expr, $at:expr) => {{
        let (x, at) = ($x.clone(), $at.clone());
        let mut shape = x.dims();
        match shape[0] {
            1 => {
                shape[0] = at.dims()[0];
                x.expand(shape)
            }
            _ => x.select(0, at),
        }
    }};
}

fn rows<const D: usize>(x: &Tensor<D>, at: &Tensor<1, Int>) -> Tensor<D> {
    rows!(x, at)
}

fn rows_of_attention(qkv: &Qkv, at: &Tensor<1, Int>) -> Qkv {
    let bias = qkv.mask.bias.as_ref().map(|bias| match bias.dims()[0] {
        1 => bias.clone(),
        _ => rows(bias, at),
    });
    Qkv {
        q: rows(&qkv.q, at),
        k: rows(&qkv.k, at),
        v: rows(&qkv.v, at),
        mask: Mask {
            band: qkv.mask.band,
            bias,
        },
    }
}

macro_rules! splits {
    ($name:ident, $call:ty, $input:ty, $output:ty) => {
        fn $name(&self, call: $call, x: $input) -> $output {
            let device = x.device().without_autodiff();
            self.split(
                call,
                x,
                |x, at| rows!(x, at),
                &device,
                |hooks, call, x| hooks.$name(call, x),
            )
        }
    };
}

impl Hooks for Mixed<'_> {
    splits!(embedding, EmbeddingCall<'_>, Tensor<2, Int>, Tensor<3>);
    splits!(conv, ConvCall<'_>, Tensor<4>, Tensor<4>);
    splits!(norm, NormCall<'_>, Tensor<3>, Tensor<3>);
    splits!(probabilities, ProbabilitiesCall<'_>, Tensor<4>, Tensor<4>);
    splits!(residual, ResidualCall<'_>, Tensor<3>, Tensor<3>);
    splits!(state, StateCall<'_>, Tensor<4>, Tensor<4>);
    splits!(output, OutputCall<'_>, Tensor<3>, Tensor<3>);

    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let groups = self.groups(call.site);
        let device = x.device().without_autodiff();
        if let [Group { hooks, .. }] = &groups[..] {
            return match hooks {
                Some(hooks) => hooks.linear(call, x),
                None => call.run(x),
            };
        }
        let y = call.again().run(x.clone());
        let after = |group: &Group<'_>| {
            let at = indices(&group.rows, &device);
            let y = rows(&y, &at);
            match group.hooks {
                Some(hooks) => hooks.after_linear(&call, &rows(&x, &at), y),
                None => Some(y),
            }
        };
        let parts: Option<Vec<Tensor<3>>> = groups.iter().map(after).collect();
        match parts {
            Some(parts) => joined(&groups, parts, &device),
            None => self.split(call, x, rows, &device, |hooks, call, x| {
                hooks.linear(call, x)
            }),
        }
    }

    fn attention(&self, call: AttentionCall<'_>, qkv: Qkv) -> Tensor<4> {
        let device = qkv.q.device().without_autodiff();
        self.split(call, qkv, rows_of_attention, &device, |hooks, call, qkv| {
            hooks.attention(call, qkv)
        })
    }

    fn head_weight(&self, site: &Site, _layer: &Linear, weight: Tensor<2>) -> Option<Tensor<2>> {
        let groups = self.groups(site);
        let alone = groups.iter().all(|group| group.hooks.is_none());
        alone.then_some(weight)
    }

    fn needs_probabilities(&self) -> bool {
        self.hooks.iter().any(|hooks| hooks.needs_probabilities())
    }

    fn prompt(&self, pass: &Pass) -> Option<Tensor<3>> {
        let of_rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let prompts = of_rows.iter().enumerate().map(|(number, row)| {
            let prompt = self.hooks[(*row)?].prompt(pass)?;
            let own = if prompt.dims()[0] == 1 { 0 } else { number };
            Some(prompt.narrow(0, own, 1))
        });
        let prompts: Option<Vec<Tensor<3>>> = prompts.collect();
        prompts
            .filter(|prompts| !prompts.is_empty())
            .map(|prompts| Tensor::cat(prompts, 0))
    }

    fn prefix(&self) -> usize {
        self.hooks.first().map_or(0, |hooks| hooks.prefix())
    }

    fn given(&self, lengths: &[usize]) {
        let of_rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        for (number, hooks) in self.hooks.iter().enumerate() {
            let own = of_rows.iter().zip(lengths);
            let own = own.filter(|(row, _)| **row == Some(number));
            let own: Vec<usize> = own.map(|(_, length)| *length).collect();
            hooks.given(&own);
        }
    }

    fn keep_rows(&self, kept: &[usize]) {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        *rows = kept.iter().map(|row| rows[*row]).collect();
    }
}
