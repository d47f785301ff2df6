//! From a configuration to the plan of its model, in forward order.

use super::builder::{Builder, Dense};
use super::config::{Config, Head, Place, Positions};
use super::dialects::{AttentionNames, Names, SequenceHead, StackNames};
use super::plan::{
    At, AttentionPlan, BlockPlan, CrossPlan, HeadPlan, MixPlan, Plan, Projections, StackPlan,
};
use modelsmith_core::sites::SiteKind;

impl Plan {
    /// Plans the model that a configuration describes.
    pub(crate) fn new(config: &Config) -> Self {
        let names = config.names;
        let model = match config.head {
            Head::Base => String::new(),
            _ => names.prefix_dot(),
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
            table: None,
        };
        builder.embeddings(names);
        builder.stacks(names);
        builder.top();
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
        self.table = Some(self.table(&tokens, config.vocabulary, config.embedding_width, pad));
        if names.stack.tokens.is_empty() {
            self.plan.stack.tokens = Some(self.lookup(&tokens, None));
        }
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

    fn stacks(&mut self, names: &Names) {
        let config = self.config;
        if let (Some(encoder), Some(sizes)) = (&names.encoder, config.encoder) {
            self.plan.encoder = Some(StackPlan {
                name: "encoder.",
                ..self.stack(encoder, sizes.layers, false)
            });
        }
        self.plan.stack = StackPlan {
            name: config.encoder.map_or("", |_| "decoder."),
            ..self.stack(&names.stack, config.layers, config.attention.causal)
        };
    }

    fn stack(&mut self, names: &StackNames, layers: usize, causal: bool) -> StackPlan {
        let config = self.config;
        let blocks = format!("{}{}", self.root, names.blocks);
        let tokens = match names.tokens {
            "" => self.plan.stack.tokens,
            path => {
                let owner = format!("{}{}", self.root, config.names.tokens);
                Some(self.lookup(&format!("{}{path}", self.root), Some(owner)))
            }
        };
        let distances = match config.positions {
            Positions::Relative(relative) => {
                let path = format!("{blocks}.0.{}", names.distances);
                Some(self.distances(&path, relative.buckets))
            }
            _ => None,
        };
        let block = |layer| self.block(names, &format!("{blocks}.{layer}"));
        let blocks = (0..layers).map(block).collect();
        let final_norm = config.final_norm.then(|| {
            let path = format!("{}{}", self.root, names.final_norm);
            self.norm(&path, config.width)
        });
        StackPlan {
            name: "",
            causal,
            tokens,
            distances,
            blocks,
            final_norm,
        }
    }

    fn block(&mut self, names: &StackNames, block: &str) -> BlockPlan {
        let config = self.config;
        let at = |path: &str| format!("{block}.{path}");
        let width = config.width;
        let site = self.site(block, SiteKind::Residual, width, width);
        let pre = config.place == Place::Pre;
        let attention = self.attention(&names.attention, block);
        let cross = names.cross.as_ref().map(|names| self.cross(names, block));
        let before = pre.then(|| self.norm(&at(names.mlp_norm), width));
        let inner = config.inner;
        let gate = config
            .gated
            .then(|| self.reader(&at(names.gate), inner, config.mlp_bias));
        let up = self.reader(&at(names.up), inner, config.mlp_bias);
        let down = self.writer(&at(names.down), inner, config.mlp_bias);
        let mlp_norm = before.unwrap_or_else(|| self.norm(&at(names.mlp_norm), width));
        BlockPlan {
            site,
            attention,
            cross,
            mlp_norm,
            gate,
            up,
            down,
        }
    }

    fn attention(&mut self, names: &AttentionNames, block: &str) -> AttentionPlan {
        let (attention, width) = (&self.config.attention, self.config.width);
        let at = |path: &str| format!("{block}.{path}");
        let pre = self.config.place == Place::Pre;
        let before = pre.then(|| self.norm(&at(names.norm), width));
        let projections = self.projections(names, block);
        let qk_norms = attention.qk_norm.then(|| {
            let query = self.norm(&at("self_attn.q_norm"), attention.head_dim);
            (
                query,
                self.norm(&at("self_attn.k_norm"), attention.head_dim),
            )
        });
        let mix = self.mix(names, block);
        AttentionPlan {
            norm: before.unwrap_or_else(|| self.norm(&at(names.norm), width)),
            projections,
            qk_norms,
            mix,
        }
    }

    fn cross(&mut self, names: &AttentionNames, block: &str) -> CrossPlan {
        let attention = &self.config.attention;
        let at = |path: &str| format!("{block}.{path}");
        let (q, kv) = (
            attention.heads * attention.head_dim,
            attention.kv_heads * attention.head_dim,
        );
        let bias = attention.qkv_bias;
        CrossPlan {
            norm: self.norm(&at(names.norm), self.config.width),
            query: self.query(&at(names.query), q, bias),
            key: self.reader(&at(names.key), kv, bias),
            value: self.reader(&at(names.value), kv, bias),
            mix: self.mix(names, block),
        }
    }

    fn mix(&mut self, names: &AttentionNames, block: &str) -> MixPlan {
        let attention = &self.config.attention;
        let at = |path: &str| format!("{block}.{path}");
        let mixed = attention.heads * attention.head_dim;
        MixPlan {
            site: self.site(&at(names.site), SiteKind::Attention, mixed, mixed),
            out: self.writer(&at(names.out), mixed, attention.out_bias),
        }
    }

    fn projections(&mut self, names: &AttentionNames, block: &str) -> Projections {
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
            query: self.query(&at(names.query), q, bias),
            key: self.reader(&at(names.key), kv, bias),
            value: self.reader(&at(names.value), kv, bias),
        }
    }

    fn top(&mut self) {
        let (config, root) = (self.config, self.root.clone());
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
            Head::CausalLm | Head::Seq2SeqLm(_) => {
                HeadPlan::Causal(self.vocabulary("lm_head", None))
            }
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
}
