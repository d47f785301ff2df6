//! One walk through the network: every computation passes its site's hooks.

use super::Transformer;
use super::cache::LayerCache;
use super::config::{Place, Positions};
use super::encode::Encoded;
use super::plan::{At, BlockPlan, StackPlan};
use super::prepare::Prepared;
use burn::module::Param;
use burn::tensor::{Int, Tensor};
use modelsmith_core::hooks::Around;
use std::cell::RefCell;

/// A model being visited: opens the hooks at its layers.
#[derive(Clone, Copy)]
pub(crate) struct Visit<'a> {
    pub(crate) model: &'a Transformer,
    pub(crate) around: Around<'a>,
}

/// A pass through all blocks of a stack, and what it carries from layer to layer.
pub(crate) struct Walk<'a> {
    pub(crate) visit: Visit<'a>,
    pub(crate) stack: &'a StackPlan,
    pub(crate) prepared: &'a Prepared,
    /// Added to the scores of every block, each axis as long as that of `[batch, heads, time,
    /// keys]` or 1.
    pub(crate) bias: Option<Tensor<4>>,
    /// Key-value caches of the layers; hooks may run a block more than once, and each run
    /// overwrites the same columns.
    pub(crate) cache: Option<RefCell<&'a mut [LayerCache]>>,
    /// What a decoder reads of its encoder.
    pub(crate) encoded: Option<&'a Encoded<'a>>,
}

impl<'a> Walk<'a> {
    /// A walk through `stack`, of a decoder where `encoded` is there.
    pub(crate) fn new(
        visit: Visit<'a>,
        stack: &'a StackPlan,
        prepared: &'a Prepared,
        cache: Option<&'a mut [LayerCache]>,
        encoded: Option<&'a Encoded<'a>>,
    ) -> Self {
        Self {
            visit,
            stack,
            prepared,
            bias: visit.bias(stack, prepared),
            cache: cache.map(RefCell::new),
            encoded,
        }
    }
}

impl Walk<'_> {
    /// Token, type and position embeddings, with what the family does to their sum.
    pub(crate) fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let (config, plan) = (&self.visit.model.config, &self.visit.model.plan);
        let ids = ids.without_autodiff();
        let x = self.visit.embedding(self.stack.tokens, ids);
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
        let name = format!("{}embeddings", self.stack.name);
        self.visit.dropout(&name, config.dropouts.embedding, x)
    }

    /// Block `layer`, with everything around it.
    pub(crate) fn block(&self, layer: usize, x: Tensor<3>) -> Tensor<3> {
        let site = &self.visit.model.plan.sites[self.stack.blocks[layer].site];
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
        let x = self.finish(self.tokens(x));
        match self.visit.model.plan.project_out {
            Some(at) => self.visit.linear(at, x),
            None => x,
        }
    }

    /// The last norm of the stack.
    pub(crate) fn finish(&self, x: Tensor<3>) -> Tensor<3> {
        let Some(at) = self.stack.final_norm else {
            return x;
        };
        let name = format!("{}top", self.stack.name);
        let rate = self.visit.model.config.dropouts.top;
        self.visit.dropout(&name, rate, self.visit.norm(at, x))
    }

    fn inside(&self, layer: usize, x: Tensor<3>) -> Tensor<3> {
        let block = &self.stack.blocks[layer];
        let attention = &block.attention;
        match self.visit.model.config.place {
            Place::Pre => {
                let y = self.visit.norm(attention.norm, x.clone());
                let mut x = x + self.attention(layer, attention, y);
                if let (Some(cross), Some(encoded)) = (&block.cross, self.encoded) {
                    let y = self.visit.norm(cross.norm, x.clone());
                    x = x + self.cross(layer, cross, encoded, y);
                }
                let y = self.visit.norm(block.mlp_norm, x.clone());
                x + self.mlp(block, y)
            }
            Place::Post => {
                let x = x.clone() + self.attention(layer, attention, x);
                let x = self.visit.norm(attention.norm, x);
                let x = x.clone() + self.mlp(block, x);
                self.visit.norm(block.mlp_norm, x)
            }
        }
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
        let path = &self.visit.model.plan.sites[block.down.site].path;
        let rate = self.visit.model.config.dropouts.inner;
        let y = self.visit.dropout(&format!("{path}.input"), rate, y);
        self.visit
            .dropout_at(block.down, self.visit.linear(block.down, y))
    }
}

impl Visit<'_> {
    /// What padding, segments and distances add to the scores of a stack.
    fn bias(&self, stack: &StackPlan, prepared: &Prepared) -> Option<Tensor<4>> {
        let hidden = prepared.bias.clone();
        let Positions::Relative(relative) = &self.model.config.positions else {
            return hidden;
        };
        let Prepared { columns, keys, .. } = *prepared;
        let sizes = [columns, keys];
        let buckets = relative.table(keys - columns, sizes, !stack.causal, &self.model.device);
        let by_head = self.embedding(stack.distances, buckets);
        // All rows share the biases, unless hooks give them their own.
        let [rows, _, heads] = by_head.dims();
        let distant = by_head
            .reshape([rows, columns, keys, heads])
            .permute([0, 3, 1, 2]);
        Some(match hidden {
            Some(hidden) => hidden + distant,
            None => distant,
        })
    }

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
