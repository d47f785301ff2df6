//! What do the experts of one site hold, how are tokens sent to them, and what do they leave for the loss?

use super::contrast::{self, Origin};
use super::{MoeLoraConfig, Routing, Space};
use crate::adapter::common::attached::AtSite;
use crate::adapter::common::low_rank::LowRank;
use crate::adapter::common::pair::Plan;
use crate::adapter::common::peft::{Taker, key};
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData, activation};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Pass;
use modelsmith_core::host::Host;
use modelsmith_core::parameters::{Flat, frozen, to_vec, trained};
use modelsmith_core::random::Stream;
use modelsmith_core::sites::Site;
use modelsmith_kernels::linear;
use std::sync::{Mutex, PoisonError};

/// How slowly the mean gates follow those of each step.
const GATE_DECAY: f64 = 0.99;

/// The experts of one site.
#[derive(Module, Debug)]
pub(super) struct Experts {
    /// `[experts · rank, in]`, the experts one below the other.
    lora_a: Param<Tensor<2>>,
    /// `[out, experts · rank]`.
    lora_b: Param<Tensor<2>>,
    /// `[experts, in]`.
    lora_route: Param<Tensor<2>>,
    /// `[experts]`, followed and not trained.
    mean_gate: Param<Tensor<1>>,
    #[module(skip)]
    plan: Plan,
    #[module(skip)]
    config: MoeLoraConfig,
    /// One over the number of sites.
    #[module(skip)]
    share: f64,
    #[module(skip)]
    left: Left,
}

/// What the last pass of training left; a copy starts with nothing.
#[derive(Debug, Default)]
struct Left(Mutex<Leavings>);

#[derive(Debug, Default)]
struct Leavings {
    term: Option<Tensor<1>>,
    seen: Option<Seen>,
}

impl Clone for Left {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Figures of the routing at one site over the tokens of a batch.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// `N Σ f_i P_i`: 1 where all experts work alike.
    pub(super) balance: f64,
    /// Mean entropy of a token's probabilities, in nats.
    pub(super) entropy: f64,
    /// Entropy of the mean probabilities, in nats.
    pub(super) marginal: f64,
    /// The contrast, where it was computed.
    pub(super) contrast: Option<f64>,
    /// Share of the places that went to each expert.
    load: Vec<f32>,
    /// Mean gate of each expert.
    gates: Vec<f32>,
}

impl Seen {
    /// Deviation of the loads over their mean.
    pub(super) fn variation(&self) -> f64 {
        let count = self.load.len() as f64;
        let mean = 1.0 / count;
        let squares = self
            .load
            .iter()
            .map(|load| (f64::from(*load) - mean).powi(2));
        (squares.sum::<f64>() / count).sqrt() / mean
    }
}

/// Where the tokens of a batch go; rows are tokens.
pub(super) struct Routed {
    /// `[tokens, experts]`.
    pub(super) probabilities: Tensor<2>,
    /// `[tokens, experts]`: 1 where an expert was chosen.
    pub(super) chosen: Tensor<2>,
    /// `[tokens, experts]`: 0 where it was not.
    pub(super) gates: Tensor<2>,
}

impl Experts {
    /// Experts that change nothing yet: each A drawn on its own as LoRA's, B zero, the router normal
    /// with deviation 0.02.
    pub(super) fn fresh(
        config: &MoeLoraConfig,
        plan: Plan,
        share: f64,
        host: &dyn Host,
        seed: u64,
    ) -> Self {
        let device = host.device().without_autodiff();
        let (inputs, outputs, experts) = (plan.site.inputs, plan.site.outputs, config.num_experts);
        let bound = 1.0 / (inputs as f32).sqrt();
        let stream = |part: &str| Stream::new(seed, &format!("moelora/{}/{part}", plan.site.path));
        let drawn =
            |expert| stream(&format!("A/{expert}")).uniform(config.rank * inputs, -bound, bound);
        let a: Vec<f32> = (0..experts).flat_map(drawn).collect();
        let route = stream("route").normal(experts * inputs, 0.0, 0.02);
        let matrix = |values, shape| Tensor::from_data(TensorData::new(values, shape), &device);
        Self {
            lora_a: trained(matrix(a, [plan.rank, inputs])),
            lora_b: trained(Tensor::zeros([outputs, plan.rank], &device)),
            lora_route: trained(matrix(route, [experts, inputs])),
            mean_gate: frozen(Tensor::full([experts], 1.0 / experts as f32, &device)),
            plan,
            config: config.clone(),
            share,
            left: Left::default(),
        }
    }

    /// Experts out of a file.
    pub(super) fn saved(
        config: &MoeLoraConfig,
        plan: Plan,
        share: f64,
        file: &mut Taker,
    ) -> Result<Self> {
        let [a, b, route, gate] = names(&plan.site);
        let (inputs, experts) = (plan.site.inputs, config.num_experts);
        Ok(Self {
            lora_a: trained(file.take(&a, &plan.a_shape())?.tensor()?),
            lora_b: trained(file.take(&b, &plan.b_shape())?.tensor()?),
            lora_route: trained(file.take(&route, &[experts, inputs])?.tensor()?),
            mean_gate: frozen(file.take(&gate, &[experts])?.tensor()?),
            plan,
            config: config.clone(),
            share,
            left: Left::default(),
        })
    }

    /// The tensors by their keys.
    pub(super) fn tensors(&self) -> [(String, Flat); 4] {
        let [a, b, route, gate] = names(&self.plan.site);
        let flat = |param: &Param<Tensor<2>>| Flat::new(param.val().without_autodiff());
        [
            (a, flat(&self.lora_a)),
            (b, flat(&self.lora_b)),
            (route, flat(&self.lora_route)),
            (gate, Flat::new(self.mean_gate.val())),
        ]
    }

    /// The site and the numbers it was made with; its rank is that of all experts together.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A `[N·r, in]` and B `[out, N·r]` with each expert at its mean gate.
    pub(super) fn dense(&self) -> (Tensor<2>, Tensor<2>) {
        let gates = self.spread(self.mean_gate.val().unsqueeze());
        let plain = |param: &Param<Tensor<2>>| param.val().without_autodiff();
        (plain(&self.lora_a), plain(&self.lora_b) * gates)
    }

    /// Mean cosine of `B_i A_i` and `B_j A_j` over all pairs, from `tr(B_iᵀ B_j A_j A_iᵀ)`; fresh
    /// experts are 0 and so are their cosines.
    pub(super) fn similarity(&self) -> f64 {
        let plain = |param: &Param<Tensor<2>>| param.val().without_autodiff();
        let (a, b) = (plain(&self.lora_a), plain(&self.lora_b));
        let grams = a.clone().matmul(a.transpose()) * b.clone().transpose().matmul(b);
        let values = to_vec(grams);
        let (experts, rank, width) = (self.config.num_experts, self.config.rank, self.plan.rank);
        let product = |i: usize, j: usize| -> f64 {
            let rows = (i * rank..(i + 1) * rank).map(|row| row * width);
            let cells = rows.flat_map(|row| row + j * rank..row + (j + 1) * rank);
            cells.map(|cell| f64::from(values[cell])).sum()
        };
        let (mut sum, mut pairs) = (0.0, 0);
        for i in 0..experts {
            for j in 0..i {
                let lengths = (product(i, i) * product(j, j)).sqrt();
                sum += if lengths > 0.0 {
                    product(i, j) / lengths
                } else {
                    0.0
                };
                pairs += 1;
            }
        }
        sum / f64::from(pairs.max(1))
    }

    /// This site's part of the loss, once.
    pub(super) fn take_term(&self) -> Option<Tensor<1>> {
        self.leavings().term.take()
    }

    /// What the last pass of training saw.
    pub(super) fn seen(&self) -> Option<Seen> {
        self.leavings().seen.clone()
    }

    fn leavings(&self) -> std::sync::MutexGuard<'_, Leavings> {
        let lock = self.left.0.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the mean gates on.
    pub(super) fn follow_gates(&mut self) {
        let Some(seen) = self.seen() else { return };
        let mean = self.mean_gate.val();
        let count = [seen.gates.len()];
        let now = Tensor::from_data(TensorData::new(seen.gates, count), &mean.device());
        self.mean_gate = frozen(mean * GATE_DECAY + now * (1.0 - GATE_DECAY));
    }

    /// `[tokens, experts]` as `[tokens, experts · rank]`, each value `rank` times.
    fn spread(&self, gates: Tensor<2>) -> Tensor<2> {
        let [tokens, experts] = gates.dims();
        let rank = self.config.rank;
        let each = gates.reshape([tokens, experts, 1]);
        let each = each.expand([tokens, experts, rank]);
        each.reshape([tokens, experts * rank])
    }

    /// Where each token `[batch, time, in]` goes.
    pub(super) fn route(&self, pass: &Pass, x: &Tensor<3>) -> Routed {
        let [batch, time, _] = x.dims();
        let shape = [batch * time, self.config.num_experts];
        match self.config.routing {
            Routing::Learned => {
                let logits = linear(x.clone(), self.lora_route.val(), None, None).reshape(shape);
                let probabilities = activation::softmax(logits, 1);
                let chosen = largest(probabilities.clone().without_autodiff(), self.config.top_k);
                let gates = probabilities.clone() * chosen.clone();
                let gates = match self.config.normalises() {
                    true => gates.clone() / gates.sum_dim(1),
                    false => gates,
                };
                Routed {
                    probabilities,
                    chosen,
                    gates,
                }
            }
            Routing::Random => {
                let name = format!("moelora/{}/random", self.plan.site.path);
                let anew = || Stream::new(0, &format!("{name}/{}", pass.offset));
                let mut stream = pass.stream(&name).unwrap_or_else(anew);
                let device = x.device().without_autodiff();
                let drawn = stream.uniform(shape[0] * shape[1], 0.0, 1.0);
                let drawn = Tensor::from_data(TensorData::new(drawn, shape), &device);
                let chosen = largest(drawn, self.config.top_k);
                Routed {
                    probabilities: Tensor::full(shape, 1.0 / shape[1] as f32, &device),
                    gates: chosen.clone() / self.config.top_k as f64,
                    chosen,
                }
            }
        }
    }

    /// Leaves this site's share of the losses and what was seen. `inner` is `A x`, `[tokens, N·r]`.
    fn leave(&self, pass: &Pass, routed: &Routed, inner: Tensor<2>, [batch, time]: [usize; 2]) {
        let valid = valid_tokens(pass, [batch, time]);
        let mask: Vec<f32> = valid
            .iter()
            .map(|real| f32::from(u8::from(*real)))
            .collect();
        let count = mask.iter().sum::<f32>().max(1.0);
        let device = inner.device().without_autodiff();
        let tokens = mask.len();
        let mask: Tensor<2> = Tensor::from_data(TensorData::new(mask, [tokens, 1]), &device);
        let mean = |x: Tensor<2>| (x * mask.clone()).sum_dim(0) / f64::from(count);
        let load = mean(routed.chosen.clone()) / self.config.top_k as f64;
        let probabilities = mean(routed.probabilities.clone());
        let experts = self.config.num_experts as f64;
        let balance = (probabilities.clone() * load.clone()).sum() * experts;
        let contrast = match self.config.contrast_weight > 0.0 {
            true => self.contrast(pass, routed, inner, &valid),
            false => None,
        };
        let plain =
            |term: &Tensor<1>| f64::from(term.clone().without_autodiff().into_scalar::<f32>());
        let spread = routed.probabilities.clone().without_autodiff();
        let entropies = -(spread.clone() * (spread + 1e-30).log()).sum_dim(1);
        let entropy = to_vec(mean(entropies))[0];
        let gates = to_vec(mean(routed.gates.clone().without_autodiff()));
        let seen = Seen {
            balance: plain(&balance),
            entropy: f64::from(entropy),
            marginal: entropy_of(&to_vec(probabilities.without_autodiff())),
            contrast: contrast.as_ref().map(plain),
            load: to_vec(load),
            gates,
        };
        let mut term = balance * (self.config.balance_weight * self.share);
        if let Some(contrast) = contrast {
            term = term + contrast * (self.config.contrast_weight * self.share);
        }
        *self.leavings() = Leavings {
            term: term.is_tracked().then_some(term),
            seen: Some(seen),
        };
    }

    fn contrast(
        &self,
        pass: &Pass,
        routed: &Routed,
        inner: Tensor<2>,
        valid: &[bool],
    ) -> Option<Tensor<1>> {
        let name = format!("moelora/{}/contrast", self.plan.site.path);
        let mut stream = pass.stream(&name)?;
        let experts = self.config.num_experts;
        let chosen = to_vec(routed.chosen.clone()).into_iter().enumerate();
        let active = chosen.filter(|(at, one)| *one > 0.0 && valid[at / experts]);
        let active = active.map(|(at, _)| Origin {
            token: at / experts,
            expert: at % experts,
        });
        let origins = contrast::sample(active.collect(), self.config.contrast_samples, &mut stream);
        if origins.len() < 2 {
            return None;
        }
        let outputs = self.outputs(inner, &origins);
        let kept = contrast::comparable(&outputs);
        if kept.len() < 2 {
            return None;
        }
        let origins: Vec<Origin> = kept.iter().map(|at| origins[*at]).collect();
        let outputs = outputs.select(0, indices(&kept, &routed.chosen.device()));
        contrast::loss(&self.config, outputs, &origins, &mut stream)
    }

    /// Un-gated outputs `s B_i A_i x` of some tokens and experts, a row each; in the space of the rank
    /// `A_i x` in its expert's columns.
    fn outputs(&self, inner: Tensor<2>, origins: &[Origin]) -> Tensor<2> {
        let device = inner.device().without_autodiff();
        let tokens: Vec<usize> = origins.iter().map(|origin| origin.token).collect();
        let rows = inner.select(0, indices(&tokens, &device));
        let (rank, width) = (self.config.rank, self.plan.rank);
        if self.config.contrast_space == Space::Rank {
            let columns = origins
                .iter()
                .flat_map(|origin| origin.expert * rank..(origin.expert + 1) * rank);
            let columns: Vec<usize> = columns.collect();
            let at = indices(&columns, &device).reshape([origins.len(), rank]);
            return rows.gather(1, at);
        }
        let own = origins.iter().flat_map(|origin| {
            let block = origin.expert * rank..(origin.expert + 1) * rank;
            (0..width).map(move |column| f32::from(u8::from(block.contains(&column))))
        });
        let own = TensorData::new(own.collect::<Vec<f32>>(), [origins.len(), width]);
        let own = rows * Tensor::from_data(own, &device);
        own.matmul(self.lora_b.val().transpose()) * self.plan.scale
    }
}

impl AtSite for Experts {
    fn site(&self) -> &Site {
        &self.plan.site
    }

    fn after(&self, pass: &Pass, effect: f64, x: &Tensor<3>, y: Tensor<3>) -> Option<Tensor<3>> {
        let [batch, time, _] = x.dims();
        let routed = self.route(pass, x);
        let name = format!("moelora/{}", self.plan.site.path);
        let dropped = pass.dropout(&name, self.plan.dropout, x.clone());
        let inner = linear(dropped, self.lora_a.val(), None, None);
        let flat = inner.reshape([batch * time, self.plan.rank]);
        let gated = flat.clone() * self.spread(routed.gates.clone()) * (self.plan.scale * effect);
        let gated = gated.reshape([batch, time, self.plan.rank]);
        let added = linear(gated, self.lora_b.val(), None, None);
        if pass.training.is_some() {
            self.leave(pass, &routed, flat, [batch, time]);
        }
        Some(y + added)
    }

    fn fold(&self, weight: &Flat, effect: f64, sign: f64) -> Result<Flat> {
        if self.config.num_experts > 1 {
            return Err(Error::Usage(
                "experts are chosen by the input and cannot be merged".into(),
            ));
        }
        let change = LowRank {
            a: self.lora_a.val(),
            b: self.lora_b.val(),
            scale: self.plan.scale * effect,
        };
        let base = self.plan.as_matrix(weight)?;
        Ok(self.plan.as_stored(base + change.delta() * sign))
    }
}

/// Keys of A, B, router and mean gates.
fn names(site: &Site) -> [String; 4] {
    [
        "lora_A.weight",
        "lora_B.weight",
        "lora_route.weight",
        "lora_route.mean_gate",
    ]
    .map(|tensor| key(&format!("{}.{tensor}", site.path)))
}

/// 1 at the `k` largest values of each row, the first of equal ones.
fn largest(mut values: Tensor<2>, k: usize) -> Tensor<2> {
    let [rows, columns] = values.dims();
    let device = values.device();
    let lanes = Tensor::<1, Int>::arange(0..columns as i64, &device);
    let lanes = lanes.reshape([1, columns]).expand([rows, columns]);
    let mut chosen = Tensor::zeros([rows, columns], &device);
    for _ in 0..k {
        let at = values.clone().argmax(1).expand([rows, columns]);
        let hit = lanes.clone().equal(at);
        chosen = chosen.mask_fill(hit.clone(), 1.0);
        values = values.mask_fill(hit, -1.0);
    }
    chosen
}

/// Which tokens count. A site that sees other places than the tokens', as behind a pooler, counts all.
fn valid_tokens(pass: &Pass, [batch, time]: [usize; 2]) -> Vec<bool> {
    match &pass.valid {
        Some(valid) if valid.dims() == [batch, time] => {
            let numbers = valid.clone().int().into_data().convert::<i64>();
            let numbers: Vec<i64> = numbers.try_into_vec().unwrap_or_default();
            numbers.into_iter().map(|real| real != 0).collect()
        }
        _ => vec![true; batch * time],
    }
}

fn indices(values: &[usize], device: &burn::tensor::Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|value| *value as i64).collect();
    let count = [values.len()];
    Tensor::from_data(TensorData::new(values, count), device)
}

fn entropy_of(probabilities: &[f32]) -> f64 {
    let positive = probabilities
        .iter()
        .map(|p| f64::from(*p))
        .filter(|p| *p > 0.0);
    -positive.map(|p| p * p.ln()).sum::<f64>()
}
