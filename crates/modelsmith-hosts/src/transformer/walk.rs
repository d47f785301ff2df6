//! One walk through the network: every computation passes its site's hooks.

use super::Transformer;
use super::attention::{attend, join_heads};
use super::cache::LayerCache;
use super::config::Place;
use super::plan::{At, BlockPlan, Projections};
use super::prepare::Prepared;
use burn::module::Param;
use burn::tensor::{Int, Tensor};
use modelsmith_core::hooks::{Around, AttentionShape, Qkv};
use modelsmith_core::mask::{Band, Mask};
use std::cell::RefCell;

/// A model being visited: opens the hooks at its layers.
#[derive(Clone, Copy)]
pub(crate) struct Visit<'a> {
    pub(crate) model: &'a Transformer,
    pub(crate) around: Around<'a>,
}

/// A pass through all blocks, and what it carries from layer to layer.
pub(crate) struct Walk<'a> {
    pub(crate) visit: Visit<'a>,
    pub(crate) prepared: &'a Prepared,
    /// Key-value caches of the layers; hooks may run a block more than once, and each run
    /// overwrites the same columns.
    pub(crate) cache: Option<RefCell<&'a mut [LayerCache]>>,
}

/// Queries, keys and values of one layer, `[batch, time, heads, head_dim]`.
struct Heads {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
}

impl Walk<'_> {
    /// Token, type and position embeddings, with what the family does to their sum.
    pub(crate) fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let (config, plan) = (&self.visit.model.config, &self.visit.model.plan);
        let ids = ids.without_autodiff();
        let x = self.visit.embedding(plan.tokens, ids);
        let mut x = self.behind_prompt(x);
        if plan.types.is_some()
            && let Some(types) = &self.prepared.types
        {
            x = x + self
                .visit
                .embedding(plan.types, types.clone().without_autodiff());
        }
        if let Some(at) = plan.project_in {
            x = self.visit.linear(at, x);
        }
        if let Some(places) = &self.prepared.places {
            x = x + self.visit.embedding(plan.positions, places.clone());
        }
        if let Some(at) = plan.embedding_norm {
            x = self.visit.norm(at, x);
        }
        self.visit
            .dropout("embeddings", config.dropouts.embedding, x)
    }

    /// Block `layer`, with everything around it.
    pub(crate) fn block(&self, layer: usize, x: Tensor<3>) -> Tensor<3> {
        let site = &self.visit.model.plan.sites[self.visit.model.plan.blocks[layer].site];
        self.visit
            .around
            .residual(site, &(), x, &|x| self.inside(layer, x))
    }

    /// The embedded tokens behind the prompt, if there is one.
    fn behind_prompt(&self, x: Tensor<3>) -> Tensor<3> {
        let Some(prompt) = &self.prepared.prompt else {
            return x;
        };
        let ([batch, _, width], count) = (x.dims(), prompt.dims()[1]);
        Tensor::cat(vec![prompt.clone().expand([batch, count, width]), x], 1)
    }

    /// The columns of the tokens alone.
    pub(crate) fn tokens(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.prepared.prompt {
            Some(prompt) => {
                let lead = prompt.dims()[1];
                x.narrow(1, lead, self.prepared.columns - lead)
            }
            None => x,
        }
    }

    /// What follows the last block: the prompt ends there.
    pub(crate) fn top(&self, x: Tensor<3>) -> Tensor<3> {
        let mut x = self.tokens(x);
        let plan = &self.visit.model.plan;
        if let Some(at) = plan.final_norm {
            x = self.visit.norm(at, x);
        }
        match plan.project_out {
            Some(at) => self.visit.linear(at, x),
            None => x,
        }
    }

    fn inside(&self, layer: usize, x: Tensor<3>) -> Tensor<3> {
        let block = &self.visit.model.plan.blocks[layer];
        match self.visit.model.config.place {
            Place::Pre => {
                let y = self.visit.norm(block.attention_norm, x.clone());
                let x = x + self.attention(layer, block, y);
                let y = self.visit.norm(block.mlp_norm, x.clone());
                x + self.mlp(block, y)
            }
            Place::Post => {
                let x = x.clone() + self.attention(layer, block, x);
                let x = self.visit.norm(block.attention_norm, x);
                let x = x.clone() + self.mlp(block, x);
                self.visit.norm(block.mlp_norm, x)
            }
        }
    }

    fn attention(&self, layer: usize, block: &BlockPlan, x: Tensor<3>) -> Tensor<3> {
        let config = &self.visit.model.config.attention;
        let shape = config.shape(layer);
        let Heads { q, k, v } = self.heads(block, x);
        let (k, v) = (k.swap_dims(1, 2), v.swap_dims(1, 2));
        let (k, v) = match &self.cache {
            Some(cache) => {
                let offset = self.visit.around.pass.offset;
                cache.borrow_mut()[layer].append(offset, k, v)
            }
            None => (k, v),
        };
        let qkv = Qkv {
            q: q.swap_dims(1, 2),
            k,
            v,
            mask: Mask {
                band: Band {
                    causal: config.causal,
                    window: config.windows[layer],
                },
                bias: self.prepared.bias.clone(),
            },
        };
        let site = &self.visit.model.plan.sites[block.attention];
        let y = self.visit.around.attention(site, &shape, qkv, &|qkv| {
            if !self.sees_probabilities() {
                let Qkv { q, k, v, mask } = qkv;
                return modelsmith_kernels::attention(q, k, v, shape.scale, &mask);
            }
            attend(&shape, qkv, |p| {
                self.probabilities(block.attention, &shape, p)
            })
        });
        let y = self.visit.linear(block.attention_out, join_heads(y));
        self.visit.dropout_at(block.attention_out, y)
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
    fn heads(&self, block: &BlockPlan, x: Tensor<3>) -> Heads {
        let config = &self.visit.model.config.attention;
        let [batch, time, _] = x.dims();
        let split = |x: Tensor<3>, heads: usize| x.reshape([batch, time, heads, config.head_dim]);
        let mut heads = match block.projections {
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
        if let Some((query, key)) = block.qk_norms {
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

    fn mlp(&self, block: &BlockPlan, x: Tensor<3>) -> Tensor<3> {
        let activation = self.visit.model.config.activation;
        let y = match block.gate {
            Some(gate) => {
                let gate = self.visit.linear(gate, x.clone());
                activation.gated(gate, self.visit.linear(block.up, x))
            }
            None => activation.apply(self.visit.linear(block.up, x)),
        };
        self.visit
            .dropout_at(block.down, self.visit.linear(block.down, y))
    }
}

impl Visit<'_> {
    /// A dense layer at its site.
    pub(crate) fn linear(&self, at: At, x: Tensor<3>) -> Tensor<3> {
        let layer = &self.model.network.linears[at.layer];
        let site = &self.model.plan.sites[at.site];
        self.around.linear(site, layer, x, &|x| {
            let bias = layer.bias.as_ref().map(Param::val);
            modelsmith_kernels::linear(x, layer.stored(), bias, None)
        })
    }

    /// A norm at its site.
    pub(crate) fn norm(&self, at: At, x: Tensor<3>) -> Tensor<3> {
        let layer = &self.model.network.norms[at.layer];
        let site = &self.model.plan.sites[at.site];
        self.around.norm(site, layer, x, &|x| {
            let bias = layer.bias.as_ref().map(Param::val);
            modelsmith_kernels::norm(x, layer.weight.val(), bias, layer.kind, layer.epsilon)
        })
    }

    pub(crate) fn embedding(&self, at: Option<At>, ids: Tensor<2, Int>) -> Tensor<3> {
        let Some(at) = at else {
            unreachable!("the plan of a model that embeds has the table");
        };
        let layer = &self.model.network.embeddings[at.layer];
        let site = &self.model.plan.sites[at.site];
        self.around
            .embedding(site, layer, ids, &|ids| layer.forward(ids))
    }

    pub(crate) fn dropout_at(&self, at: At, x: Tensor<3>) -> Tensor<3> {
        let path = &self.model.plan.sites[at.site].path;
        self.dropout(path, self.model.config.dropouts.hidden, x)
    }

    /// Dropout while training, drawn under the name of the site it follows.
    pub(crate) fn dropout<const D: usize>(&self, name: &str, rate: f64, x: Tensor<D>) -> Tensor<D> {
        if rate <= 0.0 || self.around.pass.training.is_none() {
            return x;
        }
        self.around
            .pass
            .dropout(&format!("{name}.dropout"), rate, x)
    }
}
