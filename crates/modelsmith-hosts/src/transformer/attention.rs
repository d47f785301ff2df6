//! Attention in a block: projections, keys held from before, the site, the layer behind.

use super::encode::Encoded;
use super::plan::{At, AttentionPlan, CrossPlan, MixPlan, Projections};
use super::walk::Walk;
use burn::tensor::Tensor;
use modelsmith_core::hooks::{AttentionShape, Qkv};
use modelsmith_core::mask::{Band, Mask};
use modelsmith_kernels::reference;

/// Queries, keys and values of one layer, `[batch, time, heads, head_dim]`.
struct Heads {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
}

impl Walk<'_> {
    /// Attention to the tokens of the same text, `[batch, time, width]` to the same.
    pub(crate) fn attention(&self, layer: usize, plan: &AttentionPlan, x: Tensor<3>) -> Tensor<3> {
        let Heads { q, k, v } = self.heads(plan, x);
        let (k, v) = (k.swap_dims(1, 2), v.swap_dims(1, 2));
        let (k, v) = match &self.cache {
            Some(cache) => {
                let offset = self.visit.around.pass.offset;
                cache.borrow_mut()[layer].append(offset, k, v)
            }
            None => (k, v),
        };
        let mask = Mask {
            band: Band {
                causal: self.stack.causal,
                window: self.visit.model.config.attention.windows[layer],
            },
            bias: self.bias.clone(),
        };
        let q = q.swap_dims(1, 2);
        self.mix(layer, &plan.mix, Qkv { q, k, v, mask })
    }

    /// Attention to what the encoder read.
    pub(crate) fn cross(
        &self,
        layer: usize,
        plan: &CrossPlan,
        encoded: &Encoded<'_>,
        x: Tensor<3>,
    ) -> Tensor<3> {
        let config = &self.visit.model.config.attention;
        let q = split(self.visit.linear(plan.query, x), config.heads);
        let held = self.cache.as_ref();
        let held = held.and_then(|cache| cache.borrow()[layer].encoded.clone());
        let (k, v) = held.unwrap_or_else(|| {
            let (k, v) = encoded.keys_values(plan, config.kv_heads);
            if let Some(cache) = &self.cache {
                // A cache serves inference: what it holds never belongs to a graph.
                let plain = (k.clone().without_autodiff(), v.clone().without_autodiff());
                cache.borrow_mut()[layer].encoded = Some(plain);
            }
            (k, v)
        });
        let mask = Mask {
            band: Band::default(),
            bias: encoded.bias.clone(),
        };
        let q = q.swap_dims(1, 2);
        self.mix(layer, &plan.mix, Qkv { q, k, v, mask })
    }

    /// The attention site and the layer behind it.
    fn mix(&self, layer: usize, plan: &MixPlan, qkv: Qkv) -> Tensor<3> {
        let shape = self.visit.model.config.attention.shape(layer);
        let site = &self.visit.model.plan.sites[plan.site];
        let y = self.visit.around.attention(site, &shape, qkv, &|qkv| {
            if !self.sees_probabilities() {
                let Qkv { q, k, v, mask } = qkv;
                return modelsmith_kernels::attention(q, k, v, shape.scale, &mask);
            }
            attend(&shape, qkv, |p| self.probabilities(plan.site, &shape, p))
        });
        let y = self.visit.linear(plan.out, join_heads(y));
        self.visit.dropout_at(plan.out, y)
    }

    /// Whether anything is done to the probabilities, so that they must be formed.
    fn sees_probabilities(&self) -> bool {
        let drops = self.visit.model.config.dropouts.attention > 0.0;
        let training = self.visit.around.pass.training.is_some();
        self.visit.around.needs_probabilities() || (drops && training)
    }

    /// The probabilities as the hooks leave them, with dropout.
    fn probabilities(&self, site: usize, shape: &AttentionShape, p: Tensor<4>) -> Tensor<4> {
        let site = &self.visit.model.plan.sites[site];
        let p = match self.visit.around.needs_probabilities() {
            true => self.visit.around.probabilities(site, shape, p, &|p| p),
            false => p,
        };
        self.visit
            .dropout(&site.path, self.visit.model.config.dropouts.attention, p)
    }

    /// Projects, splits, normalises and rotates.
    fn heads(&self, plan: &AttentionPlan, x: Tensor<3>) -> Heads {
        let config = &self.visit.model.config.attention;
        let mut heads = match plan.projections {
            Projections::Fused(at) => {
                let (q, kv) = (config.heads, config.kv_heads);
                let all = split(self.visit.linear(at, x), q + 2 * kv);
                Heads {
                    q: all.clone().narrow(2, 0, q),
                    k: all.clone().narrow(2, q, kv),
                    v: all.narrow(2, q + kv, kv),
                }
            }
            Projections::Split { query, key, value } => Heads {
                q: split(self.visit.linear(query, x.clone()), config.heads),
                k: split(self.visit.linear(key, x.clone()), config.kv_heads),
                v: split(self.visit.linear(value, x), config.kv_heads),
            },
        };
        if let Some((query, key)) = plan.qk_norms {
            heads.q = self.norm_heads(query, heads.q);
            heads.k = self.norm_heads(key, heads.k);
        }
        if let Some(rotation) = &self.prepared.rotation {
            heads.q = rotation.apply(heads.q);
            heads.k = rotation.apply(heads.k);
        }
        heads
    }

    fn norm_heads(&self, at: At, x: Tensor<4>) -> Tensor<4> {
        let [batch, time, heads, dim] = x.dims();
        let y = self.visit.norm(at, x.reshape([batch, time * heads, dim]));
        y.reshape([batch, time, heads, dim])
    }
}

/// Attends: `[batch, heads, time, head_dim]`. `inspect` sees the probabilities
/// `[batch, heads, time, keys]` before the values are mixed and returns those to use.
fn attend(
    shape: &AttentionShape,
    qkv: Qkv,
    inspect: impl FnOnce(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let Qkv { q, k, v, mask } = qkv;
    reference::attention(q, k, v, shape.scale, &mask, inspect)
}

/// `[batch, time, heads * dim]` to `[batch, time, heads, dim]`.
pub(crate) fn split(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, time, width] = x.dims();
    x.reshape([batch, time, heads, width / heads])
}

/// `[batch, heads, time, dim]` to `[batch, time, heads * dim]`.
fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, time, dim] = x.dims();
    x.swap_dims(1, 2).reshape([batch, time, heads * dim])
}
