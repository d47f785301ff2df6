//! What does one site's low-rank adapter hold, and how does it change the site's output?
//!
//! ```text
//! y = base(x) + s · [ drop(x) Aᵀ Bᵀ − x A₀ᵀ B₀ᵀ ] + s · bias
//! DoRA: y = base + (m/n − 1) · base' + m/n · s · drop(x) Aᵀ Bᵀ,   n = ‖W + s B A‖ per row, detached
//! ```
//!
//! `A₀ B₀` is there for inits that take their factors out of the weight (PiSSA, OLoRA). PEFT
//! subtracts them from the base weight; here the host stays as it is and the pair subtracts them,
//! which is the same sum and leaves an untrained adapter the identity to the bit.

use super::low_rank::LowRank;
use super::weights::weight_of;
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Pass;
use modelsmith_core::host::Host;
use modelsmith_core::layers::{Conv2d, Embedding, Linear, oriented, single};
use modelsmith_core::parameters::{Flat, trained};
use modelsmith_core::sites::{Site, SiteKind};
use modelsmith_kernels::linear;

/// One site's checked part of the options: everything known before anything is allocated.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where.
    pub(crate) site: Site,
    /// Rank of the pair.
    pub(crate) rank: usize,
    /// Multiplies `B A`.
    pub(crate) scale: f64,
    /// Dropout on the pair's input.
    pub(crate) dropout: f64,
    /// Shape of the host's weight as stored.
    pub(crate) shape: Vec<usize>,
}

impl Plan {
    /// Shape of A as in the file: `[rank, in]`, for convolutions `[rank, in, height, width]`.
    pub(crate) fn a_shape(&self) -> Vec<usize> {
        match self.shape[..] {
            [_, _, height, width] => vec![self.rank, self.site.inputs, height, width],
            _ => vec![self.rank, self.site.inputs],
        }
    }

    /// Shape of B as in the file: `[out, rank]`, for convolutions `[out, rank / groups, 1, 1]`.
    pub(crate) fn b_shape(&self) -> Vec<usize> {
        match self.shape.len() {
            4 => vec![self.site.outputs, self.rank / self.groups(), 1, 1],
            _ => vec![self.site.outputs, self.rank],
        }
    }

    /// Groups of a convolution, 1 for anything else.
    pub(crate) fn groups(&self) -> usize {
        match self.shape[..] {
            [_, per_group, _, _] => self.site.inputs / per_group.max(1),
            _ => 1,
        }
    }

    /// A weight in the host's storage seen as `[out, in]`.
    pub(crate) fn as_matrix(&self, weight: &Flat) -> Result<Tensor<2>> {
        if weight.shape.len() == 4 {
            let out = self.shape[0];
            return Ok(weight.values.clone().reshape([out, weight.len() / out]));
        }
        let transposed = self.site.fan_in_fan_out || self.site.kind == SiteKind::Embedding;
        Ok(oriented(weight.tensor::<2>()?, transposed))
    }

    /// `[out, in]` back in the host's storage.
    pub(crate) fn as_stored(&self, matrix: Tensor<2>) -> Flat {
        let transposed = self.site.fan_in_fan_out || self.site.kind == SiteKind::Embedding;
        let stored = Flat::new(oriented(matrix, transposed));
        Flat {
            shape: self.shape.clone(),
            values: stored.values,
        }
    }
}

/// The trained state of one site.
#[derive(Module, Debug)]
pub(crate) struct Pair {
    /// `[rank, in]`, kernels flattened into `in`.
    lora_a: Param<Tensor<2>>,
    /// `[out, rank]`, for grouped convolutions `[out, rank / groups]`.
    lora_b: Param<Tensor<2>>,
    /// `[out]`.
    lora_bias: Option<Param<Tensor<1>>>,
    /// `[out]`; DoRA only.
    magnitude: Option<Param<Tensor<1>>>,
    // Boxed: most pairs have none, and it is larger than the rest.
    #[module(skip)]
    start: Option<Box<LowRank>>,
    #[module(skip)]
    plan: Plan,
}

/// Values a pair is made of, in the shapes of the file.
pub(crate) struct Values {
    /// See [`Plan::a_shape`].
    pub(crate) a: Flat,
    /// See [`Plan::b_shape`].
    pub(crate) b: Flat,
    /// `[out]`.
    pub(crate) bias: Option<Flat>,
    /// `[out]`.
    pub(crate) magnitude: Option<Flat>,
    /// The factors at the start, where they came out of the weight.
    pub(crate) start: Option<LowRank>,
}

impl Pair {
    /// A pair with the given values.
    pub(crate) fn new(plan: Plan, values: Values) -> Result<Self> {
        let flat = |value: &Flat| {
            let rows = value.shape[0];
            value.values.clone().reshape([rows, value.len() / rows])
        };
        let vector = |value: Option<Flat>| {
            let value: Option<Tensor<1>> = value.map(|flat| flat.tensor()).transpose()?;
            Ok::<_, Error>(value.map(trained))
        };
        Ok(Self {
            lora_a: trained(flat(&values.a)),
            lora_b: trained(flat(&values.b)),
            lora_bias: vector(values.bias)?,
            magnitude: vector(values.magnitude)?,
            start: values.start.map(Box::new),
            plan,
        })
    }

    /// The site and the numbers it was made with.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The values in the shapes of the file.
    pub(crate) fn values(&self) -> Values {
        let shaped = |param: &Param<Tensor<2>>, shape| Flat {
            shape,
            values: Flat::new(param.val().without_autodiff()).values,
        };
        let vector = |param: &Option<Param<Tensor<1>>>| {
            param
                .as_ref()
                .map(|param| Flat::new(param.val().without_autodiff()))
        };
        Values {
            a: shaped(&self.lora_a, self.plan.a_shape()),
            b: shaped(&self.lora_b, self.plan.b_shape()),
            bias: vector(&self.lora_bias),
            magnitude: vector(&self.magnitude),
            start: self.start.as_deref().cloned(),
        }
    }

    /// The pair as no more than a change `s B A` of the weight; `None` in this pass where dropout
    /// gives it another input, or where it has a magnitude, a start to take away or a bias.
    pub(crate) fn plain(&self, pass: &Pass, effect: f64) -> Option<LowRank> {
        let dropping = self.plan.dropout > 0.0 && pass.training.is_some();
        let more = self.magnitude.is_some() || self.start.is_some() || self.lora_bias.is_some();
        (!dropping && !more).then(|| self.low_rank(effect))
    }

    /// Around a dense layer: `y` is its output for `x`, `bias` what it added.
    pub(crate) fn linear(
        &self,
        layer: &Linear,
        pass: &Pass,
        effect: f64,
        x: Tensor<3>,
        y: Tensor<3>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<3> {
        let rate = self.plan.dropout;
        let name = format!("lora/{}", self.plan.site.path);
        let dropped = pass.dropout(&name, rate, x.clone());
        let dropping = rate > 0.0 && pass.training.is_some();
        let added = self.low_rank(effect).dense(dropped.clone());
        let taken = |x: &Tensor<3>| self.start_at(effect).map(|start| start.dense(x.clone()));
        let change = match &self.magnitude {
            None => less(added, taken(&x)),
            Some(_) => {
                let base = match bias {
                    _ if dropping => linear(dropped.clone(), layer.stored(), None, None),
                    Some(bias) => y.clone() - bias.unsqueeze(),
                    None => y.clone(),
                };
                let weight = layer.matrix();
                let scaled = self.rescaled(weight, effect, less(base, taken(&dropped)), added);
                less(scaled, taken(&x))
            }
        };
        let change = match &self.lora_bias {
            Some(bias) => change + (bias.val() * (self.plan.scale * effect)).unsqueeze(),
            None => change,
        };
        y + change
    }

    /// Around an embedding: `y` are its rows at `ids`. Embeddings have no dropout.
    pub(crate) fn embedding(
        &self,
        layer: &Embedding,
        effect: f64,
        ids: Tensor<2, Int>,
        y: Tensor<3>,
    ) -> Tensor<3> {
        let added = self.low_rank(effect).embedding(ids);
        match &self.magnitude {
            None => y + added,
            Some(_) => {
                let weight = single(layer.weight.val()).transpose();
                y.clone() + self.rescaled(weight, effect, y, added)
            }
        }
    }

    /// Around a convolution: `y` is its output for `x`.
    pub(crate) fn conv(
        &self,
        layer: &Conv2d,
        pass: &Pass,
        effect: f64,
        x: Tensor<4>,
        y: Tensor<4>,
    ) -> Tensor<4> {
        let name = format!("lora/{}", self.plan.site.path);
        let dropped = pass.dropout(&name, self.plan.dropout, x);
        let added = self.low_rank(effect).conv(dropped, layer);
        match &self.lora_bias {
            None => y + added,
            Some(bias) => {
                let bias = bias.val() * (self.plan.scale * effect);
                let channels = bias.dims()[0];
                y + (added + bias.reshape([1, channels, 1, 1]))
            }
        }
    }

    /// DoRA's change of a base output without bias: `(m/n − 1) · base + m/n · added`.
    fn rescaled(
        &self,
        weight: Tensor<2>,
        effect: f64,
        base: Tensor<3>,
        added: Tensor<3>,
    ) -> Tensor<3> {
        let Some(ratio) = self.ratio(weight, effect) else {
            return added;
        };
        let ratio: Tensor<3> = ratio.unsqueeze();
        (ratio.clone() - 1.0) * base + ratio * added
    }

    /// `m / n` for a host weight `[out, in]`; the norm is outside the graph.
    fn ratio(&self, weight: Tensor<2>, effect: f64) -> Option<Tensor<1>> {
        let magnitude = self.magnitude.as_ref()?.val();
        Some(magnitude / self.change(effect).row_norms(weight))
    }

    /// The host weight as stored with this pair folded in (`sign` 1) or taken out again (−1).
    ///
    /// # Errors
    /// A grouped convolution, whose pair mixes the groups; DoRA taken out, since the norm that it
    /// divided by is lost in the merged weight.
    pub(crate) fn fold(&self, weight: &Flat, effect: f64, sign: f64) -> Result<Flat> {
        let path = &self.plan.site.path;
        if self.plan.groups() > 1 {
            return Err(Error::Failed(format!(
                "the adapter at {path} cannot be merged: its factor A spans the {} groups of the \
                 convolution; keep it as an adapter",
                self.plan.groups()
            )));
        }
        if effect == 0.0 {
            return Ok(weight.clone());
        }
        let base = self.plan.as_matrix(weight)?;
        let change = self.change(effect).delta();
        if self.magnitude.is_none() {
            return Ok(self.plan.as_stored(base + change * sign));
        }
        if sign < 0.0 {
            return Err(Error::Failed(format!(
                "the DoRA adapter at {path} cannot be taken out of a merged weight; load the base \
                 model instead"
            )));
        }
        let ratio = self
            .ratio(base.clone(), effect)
            .map(Tensor::without_autodiff);
        let merged = base + change;
        Ok(self.plan.as_stored(match ratio {
            Some(ratio) => merged * ratio.unsqueeze_dim::<2>(1),
            None => merged,
        }))
    }

    /// What the pair adds to the site's bias, if anything.
    pub(crate) fn bias_delta(&self, effect: f64) -> Option<Tensor<1>> {
        let bias = self.lora_bias.as_ref()?.val().without_autodiff();
        Some(bias * (self.plan.scale * effect))
    }

    fn low_rank(&self, effect: f64) -> LowRank {
        LowRank {
            a: self.lora_a.val(),
            b: self.lora_b.val(),
            scale: self.plan.scale * effect,
        }
    }

    fn start_at(&self, effect: f64) -> Option<LowRank> {
        let start = self.start.as_deref().cloned()?;
        Some(LowRank {
            scale: self.plan.scale * effect,
            ..start
        })
    }

    /// The pair less its start, as one pair.
    fn change(&self, effect: f64) -> LowRank {
        let now = self.low_rank(effect);
        match self.start_at(effect) {
            Some(start) => now.joined(&start, -1.0),
            None => now,
        }
    }
}

/// DoRA's magnitude at the start: the row norms `[out]` of the weight as the pair leaves it.
pub(crate) fn first_magnitude(host: &dyn Host, plan: &Plan, values: &Values) -> Result<Flat> {
    let weight = plan.as_matrix(&weight_of(host, &plan.site)?)?;
    let now = LowRank {
        a: values.a.tensor()?,
        b: values.b.tensor()?,
        scale: plan.scale,
    };
    let change = match &values.start {
        Some(start) => now.joined(start, -1.0),
        None => now,
    };
    Ok(Flat::new(change.row_norms(weight)))
}

fn less(x: Tensor<3>, taken: Option<Tensor<3>>) -> Tensor<3> {
    match taken {
        Some(taken) => x - taken,
        None => x,
    }
}
