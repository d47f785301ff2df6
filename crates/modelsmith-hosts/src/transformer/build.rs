//! From a configuration to the plan of its model, in forward order.

use super::config::{Config, Head, Place, Positions};
use super::dialects::{Names, SequenceHead};
use super::plan::{
    At, BlockPlan, HeadPlan, Init, LinearSpec, NormSpec, Plan, Projections, WeightSpec,
};
use modelsmith_core::layers::NormKind;
use modelsmith_core::sites::{Site, SiteId, SiteKind};

/// A dense layer in words.
struct Dense<'a> {
    path: &'a str,
    inputs: usize,
    outputs: usize,
    bias: bool,
}

struct Builder<'a> {
    config: &'a Config,
    plan: Plan,
    /// Path of the bare model with its dot.
    model: String,
    /// Path of blocks and embeddings with its dot.
    root: String,
    in_head: bool,
}

impl Plan {
    /// Plans the model that a configuration describes.
    pub(crate) fn new(config: &Config) -> Self {
        let names = config.names;
        let model = match config.head {
            Head::Base => String::new(),
            _ => format!("{}.", names.prefix),
        };
        let root = match names.base {
            "" => model.clone(),
            base => format!("{model}{base}."),
        };
        let mut builder = Builder {
            config,
            plan: Self::default(),
            model,
            root,
            in_head: false,
        };
        builder.embeddings(names);
        for layer in 0..config.layers {
            builder.block(names, layer);
        }
        builder.top(names);
        builder.in_head = true;
        builder.head(names);
        builder.plan
    }
}

impl Builder<'_> {
    fn embeddings(&mut self, names: &Names) {
        let config = self.config;
        let at = |path: &str| format!("{}{path}", self.root);
        let (tokens, positions) = (at(names.tokens), at(names.positions));
        let (types, norm) = (at(names.types), at(names.embedding_norm));
        let (project_in, width) = (at("project_in"), config.width);
        let pad = config.pad;
        self.plan.tokens =
            Some(self.embedding(&tokens, config.vocabulary, config.embedding_width, pad));
        if let Some(rows) = config.token_types {
            self.plan.types = Some(self.embedding(&types, rows, width, None));
        }
        if config.embedding_width != width {
            self.plan.project_in = Some(self.dense(&Dense {
                path: &project_in,
                inputs: config.embedding_width,
                outputs: width,
                bias: false,
            }));
        }
        if let Positions::Learned { rows, .. } = config.positions {
            // Of the learned tables only RoBERTa's has a padding row.
            let pad = pad.filter(|_| names.heads.sequence == SequenceHead::First);
            self.plan.positions = Some(self.embedding(&positions, rows, width, pad));
        }
        if config.embedding_norm {
            self.plan.embedding_norm = Some(self.norm(&norm, width));
        }
    }

    fn block(&mut self, names: &Names, layer: usize) {
        let (config, attention) = (self.config, &self.config.attention);
        let block = format!("{}{}.{layer}", self.root, names.blocks);
        let at = |path: &str| format!("{block}.{path}");
        let width = config.width;
        let mixed = attention.heads * attention.head_dim;
        let site = self.site(&block, SiteKind::Residual, width, width);
        let pre = config.place == Place::Pre;
        let before = pre.then(|| self.norm(&at(names.attention_norm), width));
        let projections = self.projections(names, &block);
        let qk_norms = attention.qk_norm.then(|| {
            let query = self.norm(&at("self_attn.q_norm"), attention.head_dim);
            (
                query,
                self.norm(&at("self_attn.k_norm"), attention.head_dim),
            )
        });
        let core = self.site(&at(names.attention), SiteKind::Attention, mixed, mixed);
        let attention_out = self.writer(&at(names.attention_out), mixed, attention.out_bias);
        let attention_norm = before.unwrap_or_else(|| self.norm(&at(names.attention_norm), width));
        let before = pre.then(|| self.norm(&at(names.mlp_norm), width));
        let inner = config.inner;
        let gate = config
            .gated
            .then(|| self.reader(&at(names.gate), inner, config.mlp_bias));
        let up = self.reader(&at(names.up), inner, config.mlp_bias);
        let down = self.writer(&at(names.down), inner, config.mlp_bias);
        let mlp_norm = before.unwrap_or_else(|| self.norm(&at(names.mlp_norm), width));
        self.plan.blocks.push(BlockPlan {
            site,
            attention_norm,
            projections,
            qk_norms,
            attention: core,
            attention_out,
            mlp_norm,
            gate,
            up,
            down,
        });
    }

    fn projections(&mut self, names: &Names, block: &str) -> Projections {
        let attention = &self.config.attention;
        let (q, kv) = (
            attention.heads * attention.head_dim,
            attention.kv_heads * attention.head_dim,
        );
        let bias = attention.qkv_bias;
        let at = |path: &str| format!("{block}.{path}");
        if attention.fused {
            return Projections::Fused(self.reader(&at(names.fused), q + 2 * kv, bias));
        }
        Projections::Split {
            query: self.reader(&at(names.query), q, bias),
            key: self.reader(&at(names.key), kv, bias),
            value: self.reader(&at(names.value), kv, bias),
        }
    }

    fn top(&mut self, names: &Names) {
        let (config, root) = (self.config, self.root.clone());
        if config.final_norm {
            let path = format!("{root}{}", names.final_norm);
            self.plan.final_norm = Some(self.norm(&path, config.width));
        }
        if config.embedding_width != config.width {
            self.plan.project_out = Some(self.dense(&Dense {
                path: &format!("{root}project_out"),
                inputs: config.width,
                outputs: config.embedding_width,
                bias: false,
            }));
        }
        if config.pooler {
            self.plan.pooler = Some(self.pooler());
        }
    }

    fn pooler(&mut self) -> At {
        let path = format!("{}pooler.dense", self.model);
        let width = self.config.width;
        self.dense(&Dense {
            path: &path,
            inputs: width,
            outputs: width,
            bias: true,
        })
    }

    fn head(&mut self, names: &Names) {
        let width = self.config.embedding_width;
        let plan = match self.config.head {
            Head::Base => HeadPlan::None,
            Head::CausalLm => HeadPlan::Causal(self.vocabulary("lm_head", None)),
            Head::MaskedLm => self.masked(names),
            Head::SequenceClasses(classes) => self.sequence(names, width, classes),
            Head::TokenClasses(classes) => {
                HeadPlan::Tokens(self.classifier(names.heads.token, width, classes, true))
            }
        };
        let last = match plan {
            HeadPlan::None => None,
            HeadPlan::Causal(at) | HeadPlan::Last(at) | HeadPlan::Tokens(at) => Some(at),
            HeadPlan::Masked { decoder, .. } => Some(decoder),
            HeadPlan::Pooled { classifier, .. } | HeadPlan::First { classifier, .. } => {
                Some(classifier)
            }
        };
        self.plan.head = Some(plan);
        if let Some(at) = last {
            let path = format!("{}:output", self.plan.sites[at.site].path);
            let outputs = self.plan.sites[at.site].outputs;
            self.plan.output = Some(self.site(&path, SiteKind::Output, width, outputs));
        }
    }

    fn masked(&mut self, names: &Names) -> HeadPlan {
        let width = self.config.width;
        let [dense, norm, decoder, bias] = names.heads.masked.unwrap_or_default();
        HeadPlan::Masked {
            dense: self.dense(&Dense {
                path: dense,
                inputs: width,
                outputs: width,
                bias: true,
            }),
            norm: self.norm(norm, width),
            decoder: self.vocabulary(decoder, Some(bias)),
        }
    }

    fn sequence(&mut self, names: &Names, width: usize, classes: usize) -> HeadPlan {
        match names.heads.sequence {
            SequenceHead::Last => HeadPlan::Last(self.classifier("score", width, classes, false)),
            SequenceHead::Pooled => HeadPlan::Pooled {
                pooler: self.pooler(),
                classifier: self.classifier("classifier", width, classes, true),
            },
            SequenceHead::First => HeadPlan::First {
                dense: self.dense(&Dense {
                    path: "classifier.dense",
                    inputs: width,
                    outputs: width,
                    bias: true,
                }),
                classifier: self.classifier("classifier.out_proj", width, classes, true),
            },
        }
    }

    fn classifier(&mut self, path: &str, inputs: usize, outputs: usize, bias: bool) -> At {
        let at = self.dense(&Dense {
            path,
            inputs,
            outputs,
            bias,
        });
        self.plan.sites[at.site].head = true;
        at
    }

    /// A projection to the vocabulary, tied to the token embedding where the model says so.
    fn vocabulary(&mut self, path: &str, bias: Option<&str>) -> At {
        let (inputs, outputs) = (self.config.embedding_width, self.config.vocabulary);
        let site = self.site(path, SiteKind::Linear, inputs, outputs);
        let owner = self.plan.tokens.filter(|_| self.config.tied);
        let weight = match owner {
            Some(owner) => self.plan.embeddings[owner.layer],
            None => self.matrix(format!("{path}.weight"), [outputs, inputs]),
        };
        let bias = bias.map(|name| self.vector(name.to_owned(), outputs, Init::Zeros));
        let tied_to = owner.map(|owner| self.plan.sites[owner.site].path.clone());
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
    fn reader(&mut self, path: &str, outputs: usize, bias: bool) -> At {
        self.dense(&Dense {
            path,
            inputs: self.config.width,
            outputs,
            bias,
        })
    }

    /// A layer that writes to the residual stream.
    fn writer(&mut self, path: &str, inputs: usize, bias: bool) -> At {
        let at = self.dense(&Dense {
            path,
            inputs,
            outputs: self.config.width,
            bias,
        });
        let weight = self.plan.linears[at.layer].weight;
        self.plan.weights[weight].init = Init::Normal {
            deviation: self.config.start.deviation * self.config.start.residual,
            zero_row: None,
        };
        at
    }

    fn dense(&mut self, dense: &Dense<'_>) -> At {
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

    fn embedding(&mut self, path: &str, rows: usize, width: usize, pad: Option<usize>) -> At {
        let site = self.site(path, SiteKind::Embedding, rows, width);
        let weight = self.matrix(format!("{path}.weight"), [rows, width]);
        self.plan.weights[weight].init = Init::Normal {
            deviation: self.config.start.deviation,
            zero_row: pad.filter(|_| self.config.start.zero_pad),
        };
        self.plan.embeddings.push(weight);
        At {
            site,
            layer: self.plan.embeddings.len() - 1,
        }
    }

    fn norm(&mut self, path: &str, width: usize) -> At {
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

    fn site(&mut self, path: &str, kind: SiteKind, inputs: usize, outputs: usize) -> usize {
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
