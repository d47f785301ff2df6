//! Makes the layers of a plan one by one: sites, weights by name, and how each weight starts.

use super::config::Config;
use super::plan::{At, Init, LinearSpec, NormSpec, Plan, WeightSpec};
use modelsmith_core::layers::NormKind;
use modelsmith_core::sites::{Site, SiteId, SiteKind};

/// A dense layer in words.
pub(super) struct Dense<'a> {
    pub(super) path: &'a str,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) bias: bool,
}

/// A plan in the making.
pub(super) struct Builder<'a> {
    pub(super) config: &'a Config,
    pub(super) plan: Plan,
    /// Path of the bare model with its dot.
    pub(super) model: String,
    /// Path of blocks and embeddings with its dot.
    pub(super) root: String,
    pub(super) in_head: bool,
    /// Number of the weight that tokens are looked up in.
    pub(super) table: Option<usize>,
}

impl Builder<'_> {
    /// A projection to the vocabulary, tied to the token embedding where the model says so.
    pub(super) fn vocabulary(&mut self, path: &str, bias: Option<&str>) -> At {
        let (inputs, outputs) = (self.config.embedding_width, self.config.vocabulary);
        let site = self.site(path, SiteKind::Linear, inputs, outputs);
        let table = self.table.filter(|_| self.config.tied);
        let weight = match table {
            Some(table) => table,
            None => self.matrix(format!("{path}.weight"), [outputs, inputs]),
        };
        let bias = bias.map(|name| self.vector(name.to_owned(), outputs, Init::Zeros));
        let tied_to = table.map(|table| module_of(&self.plan.weights[table].name));
        let entry = &mut self.plan.sites[site];
        (entry.head, entry.bias, entry.tied_to) = (true, bias.is_some(), tied_to);
        self.push_linear(
            site,
            LinearSpec {
                weight,
                bias,
                fan_in_fan_out: false,
            },
        )
    }

    /// A layer that reads the residual stream.
    pub(super) fn reader(&mut self, path: &str, outputs: usize, bias: bool) -> At {
        self.dense(&Dense {
            path,
            inputs: self.config.width,
            outputs,
            bias,
        })
    }

    /// A layer that writes to the residual stream.
    pub(super) fn writer(&mut self, path: &str, inputs: usize, bias: bool) -> At {
        let at = self.dense(&Dense {
            path,
            inputs,
            outputs: self.config.width,
            bias,
        });
        self.start_at(at, self.config.start.residual);
        at
    }

    /// A layer that makes the queries of an attention.
    pub(super) fn query(&mut self, path: &str, outputs: usize, bias: bool) -> At {
        let at = self.reader(path, outputs, bias);
        if self.config.start.by_inputs {
            self.start_at(at, (self.config.attention.head_dim as f64).powf(-0.5));
        }
        at
    }

    /// Multiplies the deviation with which a layer's weight starts.
    fn start_at(&mut self, at: At, factor: f64) {
        let weight = self.plan.linears[at.layer].weight;
        if let Init::Normal { deviation, .. } = &mut self.plan.weights[weight].init {
            *deviation *= factor;
        }
    }

    pub(super) fn dense(&mut self, dense: &Dense<'_>) -> At {
        let Dense {
            path,
            inputs,
            outputs,
            bias,
        } = *dense;
        // GPT-2 stores every matrix of its blocks, and no other, as (in, out).
        let transposed = self.config.attention.fused && !self.in_head;
        let site = self.site(path, SiteKind::Linear, inputs, outputs);
        let shape = if transposed {
            [inputs, outputs]
        } else {
            [outputs, inputs]
        };
        let weight = self.matrix(format!("{path}.weight"), shape);
        if self.config.start.by_inputs {
            self.plan.weights[weight].init = Init::Normal {
                deviation: self.config.start.deviation * (inputs as f64).powf(-0.5),
                zero_row: None,
            };
        }
        let bias = bias.then(|| self.vector(format!("{path}.bias"), outputs, Init::Zeros));
        let entry = &mut self.plan.sites[site];
        (entry.bias, entry.fan_in_fan_out) = (bias.is_some(), transposed);
        self.push_linear(
            site,
            LinearSpec {
                weight,
                bias,
                fan_in_fan_out: transposed,
            },
        )
    }

    fn push_linear(&mut self, site: usize, spec: LinearSpec) -> At {
        self.plan.linears.push(spec);
        At {
            site,
            layer: self.plan.linears.len() - 1,
        }
    }

    /// The weight of a table, which no site looks anything up in yet.
    pub(super) fn table(
        &mut self,
        path: &str,
        rows: usize,
        width: usize,
        pad: Option<usize>,
    ) -> usize {
        let weight = self.matrix(format!("{path}.weight"), [rows, width]);
        self.plan.weights[weight].init = Init::Normal {
            deviation: self.config.start.deviation,
            zero_row: pad.filter(|_| self.config.start.zero_pad),
        };
        weight
    }

    /// A site that looks rows up in the table of tokens, which is that of the module `owner` where
    /// it is not the site's own.
    pub(super) fn lookup(&mut self, path: &str, owner: Option<String>) -> At {
        let table = self.table.unwrap_or_default();
        let at = self.embedding_of(path, table);
        self.plan.sites[at.site].tied_to = owner;
        at
    }

    pub(super) fn embedding(
        &mut self,
        path: &str,
        rows: usize,
        width: usize,
        pad: Option<usize>,
    ) -> At {
        let table = self.table(path, rows, width, pad);
        self.embedding_of(path, table)
    }

    fn embedding_of(&mut self, path: &str, table: usize) -> At {
        let shape = &self.plan.weights[table].shape;
        let (rows, width) = (shape[0], shape[1]);
        let site = self.site(path, SiteKind::Embedding, rows, width);
        self.plan.embeddings.push(table);
        At {
            site,
            layer: self.plan.embeddings.len() - 1,
        }
    }

    /// A table of one number a bucket and head.
    pub(super) fn distances(&mut self, path: &str, buckets: usize) -> At {
        let at = self.embedding(path, buckets, self.config.attention.heads, None);
        let width = self.config.width as f64;
        self.plan.weights[self.plan.embeddings[at.layer]].init = Init::Normal {
            deviation: self.config.start.deviation * width.powf(-0.5),
            zero_row: None,
        };
        at
    }

    pub(super) fn norm(&mut self, path: &str, width: usize) -> At {
        let site = self.site(path, SiteKind::Norm, width, width);
        let weight = self.vector(format!("{path}.weight"), width, Init::Ones);
        let bias = (self.config.norm == NormKind::Layer)
            .then(|| self.vector(format!("{path}.bias"), width, Init::Zeros));
        self.plan.sites[site].bias = bias.is_some();
        self.plan.norms.push(NormSpec { weight, bias });
        At {
            site,
            layer: self.plan.norms.len() - 1,
        }
    }

    pub(super) fn site(
        &mut self,
        path: &str,
        kind: SiteKind,
        inputs: usize,
        outputs: usize,
    ) -> usize {
        let id = self.plan.sites.len();
        self.plan.sites.push(Site {
            id: SiteId(id),
            path: path.to_owned(),
            kind,
            inputs,
            outputs,
            bias: false,
            fan_in_fan_out: false,
            head: false,
            tied_to: None,
        });
        id
    }

    fn matrix(&mut self, name: String, shape: [usize; 2]) -> usize {
        let init = Init::Normal {
            deviation: self.config.start.deviation,
            zero_row: None,
        };
        self.weight(name, shape.to_vec(), init)
    }

    fn vector(&mut self, name: String, length: usize, init: Init) -> usize {
        self.weight(name, vec![length], init)
    }

    fn weight(&mut self, name: String, shape: Vec<usize>, init: Init) -> usize {
        self.plan.weights.push(WeightSpec {
            name,
            shape,
            init,
            head: self.in_head,
        });
        self.plan.weights.len() - 1
    }
}

/// The module that a weight belongs to.
fn module_of(weight: &str) -> String {
    weight.strip_suffix(".weight").unwrap_or(weight).to_owned()
}
