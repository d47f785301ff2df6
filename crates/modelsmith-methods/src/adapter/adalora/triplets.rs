//! What does one site's adapter hold? Rows of A, values of E and columns of B, and how often each mattered.

use crate::adapter::common::attached::AtSite;
use crate::adapter::common::copies::Copies;
use crate::adapter::common::low_rank::LowRank;
use crate::adapter::common::pair::Plan;
use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use modelsmith_core::error::Result;
use modelsmith_core::hooks::{Hooks, LinearCall, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::{Flat, frozen, to_vec, trained};
use modelsmith_core::random::Stream;
use modelsmith_core::sites::Site;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Structure {
    /// Triplets, of which only E becomes 0, so that they may return.
    #[default]
    Triplets,
    /// Doublets of LoRA's factors, without singular values, for good (section 4.4's comparison).
    Doublets,
}

/// A, E and B of one site in the shapes of the file.
pub(super) struct Values {
    /// `[rank, in]`.
    pub(super) a: Tensor<2>,
    /// `[rank, 1]`.
    pub(super) e: Tensor<2>,
    /// `[out, rank]`.
    pub(super) b: Tensor<2>,
}

impl Structure {
    /// Triplets: E = 0, A and B normal with deviation 0.02. Doublets: E = 1, B = 0, A as in LoRA.
    pub(super) fn first_values(self, plan: &Plan, host: &dyn Host, seed: u64) -> Values {
        let (rank, inputs, outputs) = (plan.rank, plan.site.inputs, plan.site.outputs);
        let stream =
            |factor: &str| Stream::new(seed, &format!("adalora/{}/{factor}", plan.site.path));
        let device = host.device().without_autodiff();
        let matrix = |values, shape| Tensor::from_data(TensorData::new(values, shape), &device);
        let normal = |factor, count| stream(factor).normal(count, 0.0, 0.02);
        let bound = 1.0 / (inputs as f32).sqrt();
        let (a, e, b) = match self {
            Self::Triplets => (normal("A", rank * inputs), 0.0, normal("B", outputs * rank)),
            Self::Doublets => (
                stream("A").uniform(rank * inputs, -bound, bound),
                1.0,
                vec![0.0; outputs * rank],
            ),
        };
        Values {
            a: matrix(a, [rank, inputs]),
            e: matrix(vec![e; rank], [rank, 1]),
            b: matrix(b, [outputs, rank]),
        }
    }
}

/// The state of one site.
#[derive(Module, Debug)]
pub(super) struct Triplets {
    factors: Option<Factors>,
    #[module(skip)]
    plan: Plan,
    /// Which triplets of the beginning these are.
    #[module(skip)]
    earlier: Vec<bool>,
    #[module(skip)]
    structure: Structure,
}

/// What a site with a rank above 0 holds.
#[derive(Module, Debug)]
struct Factors {
    /// `[rank, in]`.
    lora_a: Param<Tensor<2>>,
    /// `[rank, 1]`.
    lora_e: Param<Tensor<2>>,
    /// `[out, rank]`.
    lora_b: Param<Tensor<2>>,
    history: Option<History>,
}

/// Averages that the budget is spent by, frozen parameters so that a checkpoint holds them.
#[derive(Module, Debug)]
struct History {
    /// `[rank]`: 1 where the last cut left the triplet.
    kept: Param<Tensor<1>>,
    a: Averages,
    e: Averages,
    b: Averages,
}

/// Averages of one factor, in its shape.
#[derive(Module, Debug)]
struct Averages {
    importance: Param<Tensor<2>>,
    uncertainty: Param<Tensor<2>>,
    /// The importance of the last step alone.
    latest: Param<Tensor<2>>,
}

impl Averages {
    fn zero(like: &Tensor<2>) -> Self {
        let zeros = || frozen(like.zeros_like());
        Self {
            importance: zeros(),
            uncertainty: zeros(),
            latest: zeros(),
        }
    }

    /// `I = |w · gradient|`, `Ī ← β₁ Ī + (1 − β₁) I`, `Ū ← β₂ Ū + (1 − β₂) |I − Ī|`.
    fn follow(&mut self, weight: Tensor<2>, gradient: Option<Tensor<2>>, betas: (f64, f64)) {
        let latest = match gradient {
            Some(gradient) => (weight * gradient).abs(),
            None => weight.zeros_like(),
        };
        let importance = self.importance.val() * betas.0 + latest.clone() * (1.0 - betas.0);
        let apart = (latest.clone() - importance.clone()).abs();
        let uncertainty = self.uncertainty.val() * betas.1 + apart * (1.0 - betas.1);
        self.importance = frozen(importance);
        self.uncertainty = frozen(uncertainty);
        self.latest = frozen(latest);
    }

    fn judged(&self, by: Judged) -> Tensor<2> {
        match by {
            Judged::Importance => self.importance.val() * self.uncertainty.val(),
            Judged::Sensitivity => self.importance.val(),
            Judged::Raw => self.latest.val(),
        }
    }
}

/// What elements are judged by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Judged {
    /// `Ī · Ū`.
    Importance,
    /// `Ī`.
    Sensitivity,
    /// `I`.
    Raw,
}

impl AtSite for Triplets {
    fn site(&self) -> &Site {
        &self.plan.site
    }

    fn linear(
        &self,
        call: LinearCall<'_>,
        effect: f64,
        copies: &Copies,
        x: Tensor<3>,
    ) -> Tensor<3> {
        let Some(change) = self.low_rank(effect) else {
            return copies.linear(call, x);
        };
        let (site, layer, pass) = (call.site, call.layer, call.pass);
        let dropping = self.plan.dropout > 0.0 && pass.training.is_some();
        if call.is_last() && !copies.has_weight(site.id) && !dropping {
            let bias = layer.bias.as_ref().map(Param::val);
            return change.added_to(x, layer.stored(), copies.bias(site.id, bias));
        }
        let y = copies.linear(call, x.clone());
        self.after(pass, effect, &x, y.clone()).unwrap_or(y)
    }

    fn after(&self, pass: &Pass, effect: f64, x: &Tensor<3>, y: Tensor<3>) -> Option<Tensor<3>> {
        let name = format!("adalora/{}", self.plan.site.path);
        let dropped = pass.dropout(&name, self.plan.dropout, x.clone());
        Some(match self.low_rank(effect) {
            Some(change) => y + change.dense(dropped),
            None => y,
        })
    }

    fn fold(&self, weight: &Flat, effect: f64, sign: f64) -> Result<Flat> {
        let Some(change) = self.low_rank(effect) else {
            return Ok(weight.clone());
        };
        let base = self.plan.as_matrix(weight)?;
        Ok(self.plan.as_stored(base + change.delta() * sign))
    }
}

impl Triplets {
    /// The state with these values; with `counts`, what the allocator needs besides. A rank of 0 is
    /// a site that changes nothing.
    pub(super) fn new(
        plan: Plan,
        values: Option<Values>,
        structure: Structure,
        counts: bool,
    ) -> Self {
        let factors = values.map(|Values { a, e, b }| Factors {
            history: counts.then(|| History {
                kept: frozen(Tensor::ones([plan.rank], &a.device())),
                a: Averages::zero(&a),
                e: Averages::zero(&e),
                b: Averages::zero(&b),
            }),
            lora_a: trained(a),
            lora_e: match structure {
                Structure::Triplets => trained(e),
                Structure::Doublets => frozen(e),
            },
            lora_b: trained(b),
        });
        Self {
            factors,
            earlier: vec![true; plan.rank],
            plan,
            structure,
        }
    }

    /// The same, as what is left of the triplets `earlier`.
    pub(super) fn left_of(self, earlier: Vec<bool>) -> Self {
        Self { earlier, ..self }
    }

    /// The site and the numbers it was made with.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// `A ⊙ E` and B as a low-rank pair; `None` at rank 0.
    pub(super) fn low_rank(&self, effect: f64) -> Option<LowRank> {
        let factors = self.factors.as_ref()?;
        Some(LowRank {
            a: factors.lora_a.val() * factors.lora_e.val(),
            b: factors.lora_b.val(),
            scale: self.plan.scale * effect,
        })
    }

    /// `‖A Aᵀ − I‖` and `‖Bᵀ B − I‖`, over all triplets, cut or not.
    pub(super) fn distances_from_orthogonal(&self) -> Vec<Tensor<1>> {
        let Some(factors) = &self.factors else {
            return Vec::new();
        };
        let (a, b) = (factors.lora_a.val(), factors.lora_b.val());
        let distance = |gram: Tensor<2>| {
            let identity = Tensor::<2>::eye(self.plan.rank, &gram.device().without_autodiff());
            // So small that it changes no norm, and yet the gradient at 0 is 0 and not 0/0.
            ((gram - identity).powi_scalar(2).sum() + 1e-24).sqrt()
        };
        vec![
            distance(a.clone().matmul(a.transpose())),
            distance(b.clone().transpose().matmul(b)),
        ]
    }

    /// Moves the averages on, with gradients under the names of this site's parameters.
    pub(super) fn follow(
        &mut self,
        gradients: &BTreeMap<String, Flat>,
        scale: f64,
        betas: (f64, f64),
    ) -> Result<()> {
        let prefix = format!("attached.sites.{}.factors", self.plan.site.id.0);
        let Some(factors) = &mut self.factors else {
            return Ok(());
        };
        let Some(history) = &mut factors.history else {
            return Ok(());
        };
        for (name, param, averages) in [
            ("lora_a", &factors.lora_a, &mut history.a),
            ("lora_e", &factors.lora_e, &mut history.e),
            ("lora_b", &factors.lora_b, &mut history.b),
        ] {
            let gradient = gradients.get(&format!("{prefix}.{name}"));
            let gradient = gradient.map(Flat::tensor::<2>).transpose()?;
            let gradient = gradient.map(|gradient| gradient.without_autodiff() * scale);
            averages.follow(param.val().without_autodiff(), gradient, betas);
        }
        Ok(())
    }

    /// `s(E) + mean over the row of s(A) + mean over the column of s(B)`, one per triplet; the first
    /// part is missing for doublets.
    pub(super) fn scores(&self, by: Judged) -> Vec<f32> {
        let history = self.factors.as_ref().and_then(|f| f.history.as_ref());
        let Some(history) = history else {
            return Vec::new();
        };
        let rows = history.a.judged(by).mean_dim(1).reshape([self.plan.rank]);
        let columns = history.b.judged(by).mean_dim(0).reshape([self.plan.rank]);
        let sum: Tensor<1> = rows + columns;
        to_vec(match self.structure {
            Structure::Triplets => sum + history.e.judged(by).reshape([self.plan.rank]),
            Structure::Doublets => sum,
        })
    }

    /// `|E|`, for doublets the product of the norms of both vectors.
    pub(super) fn magnitudes(&self) -> Vec<f32> {
        let Some(factors) = &self.factors else {
            return Vec::new();
        };
        let norm = |x: Tensor<2>, dim| -> Tensor<1> {
            let squares = x.without_autodiff().powi_scalar(2).sum_dim(dim);
            squares.sqrt().reshape([self.plan.rank])
        };
        match self.structure {
            Structure::Triplets => to_vec(factors.lora_e.val().without_autodiff().abs()),
            Structure::Doublets => {
                to_vec(norm(factors.lora_a.val(), 1) * norm(factors.lora_b.val(), 0))
            }
        }
    }

    /// Sets E to 0 where `kept` says so, and remembers it.
    pub(super) fn cut(&mut self, kept: &[bool]) {
        if let Some(history) = self.factors.as_mut().and_then(|f| f.history.as_mut()) {
            let device = history.kept.val().device();
            let mask: Vec<f32> = kept.iter().map(|kept| f32::from(u8::from(*kept))).collect();
            let shape = [mask.len()];
            history.kept = frozen(Tensor::from_data(TensorData::new(mask, shape), &device));
        }
        self.cut_again();
    }

    /// Sets E to 0 where the last cut did.
    pub(super) fn cut_again(&mut self) {
        let Some(factors) = &mut self.factors else {
            return;
        };
        let Some(history) = &factors.history else {
            return;
        };
        let mask = history.kept.val().reshape([self.plan.rank, 1]);
        let e = factors.lora_e.val().without_autodiff() * mask;
        factors.lora_e = match self.structure {
            Structure::Triplets => trained(e),
            Structure::Doublets => frozen(e),
        };
    }

    /// Whether each triplet counts: the last cut left it, or it has grown again since.
    pub(super) fn pattern(&self) -> Vec<bool> {
        let Some(factors) = &self.factors else {
            return Vec::new();
        };
        let Some(history) = &factors.history else {
            return vec![true; self.plan.rank];
        };
        let values = to_vec(factors.lora_e.val().without_autodiff());
        let kept = to_vec(history.kept.val());
        let pairs = kept.into_iter().zip(values);
        pairs
            .map(|(kept, value)| kept != 0.0 || value != 0.0)
            .collect()
    }

    /// [`Triplets::pattern`] over the triplets of the beginning.
    pub(super) fn whole_pattern(&self) -> Vec<bool> {
        let mut pattern = self.pattern().into_iter();
        let earlier = self.earlier.iter();
        earlier
            .map(|kept| *kept && pattern.next().unwrap_or(false))
            .collect()
    }

    /// How many triplets the last cut left.
    pub(super) fn kept(&self) -> usize {
        let history = self.factors.as_ref().and_then(|f| f.history.as_ref());
        match history {
            Some(history) => to_vec(history.kept.val()).iter().sum::<f32>() as usize,
            None => self.plan.rank,
        }
    }

    /// A, E and B without the triplets that `pattern` leaves out; `None` where none is left.
    pub(super) fn values(&self, pattern: &[bool]) -> Option<Values> {
        let factors = self.factors.as_ref()?;
        let kept = pattern.iter().enumerate().filter(|(_, kept)| **kept);
        let kept: Vec<i64> = kept.map(|(at, _)| at as i64).collect();
        if kept.is_empty() {
            return None;
        }
        let plain = |param: &Param<Tensor<2>>| param.val().without_autodiff();
        let (a, e, b) = (
            plain(&factors.lora_a),
            plain(&factors.lora_e),
            plain(&factors.lora_b),
        );
        if kept.len() == pattern.len() {
            return Some(Values { a, e, b });
        }
        let count = [kept.len()];
        let at = Tensor::from_data(TensorData::new(kept, count), &a.device());
        Some(Values {
            a: a.select(0, at.clone()),
            e: e.select(0, at.clone()),
            b: b.select(1, at),
        })
    }
}
