//! Hooks: how anything attached to a host sees and changes what happens at its sites.
//!
//! There is one *around* method per kind of site. It receives a [`Call`] and the input; calling
//! [`Call::run`] continues with the next hook and at last with the host's own computation, so a
//! hook can act before, after, instead of, or several times around it. The slice of hooks is an
//! onion: the first is the outermost. With no hooks a host computes directly.

use crate::layers::{BatchNorm, Conv2d, Embedding, Linear, Norm};
use crate::mask::Mask;
use crate::random::Stream;
use crate::sites::Site;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use std::sync::Arc;

/// What is common to one forward pass.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// Present while training: the key under which random draws are made.
    pub training: Option<DrawKey>,
    /// Positions already in the key-value cache before this pass.
    pub offset: usize,
    /// While training, which tokens `[batch, time]` are no padding, at a site of an encoder those of
    /// its text; all where absent.
    pub valid: Option<Tensor<2, Bool>>,
    /// Number of each row's task, for hooks that know several; their own choice where absent.
    pub tasks: Option<Arc<[u32]>>,
}

/// Key of the random draws of one training micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrawKey {
    /// Seed of the run.
    pub seed: u64,
    /// Optimizer step.
    pub step: u64,
    /// Micro-batch within the step.
    pub micro: u64,
}

impl Pass {
    /// A random stream for `name` in this pass; `None` outside training.
    pub fn stream(&self, name: &str) -> Option<Stream> {
        let key = self.training?;
        let name = format!("{name}/{}/{}", key.step, key.micro);
        Some(Stream::new(key.seed, &name))
    }

    /// Inverted dropout at `rate`, drawn under `name`; the identity outside training.
    pub fn dropout<const D: usize>(&self, name: &str, rate: f64, x: Tensor<D>) -> Tensor<D> {
        if rate <= 0.0 {
            return x;
        }
        let Some(mut stream) = self.stream(name) else {
            return x;
        };
        let shape = x.dims();
        let mask = stream.dropout(shape.iter().product(), rate as f32);
        let device: Device = x.device().without_autodiff();
        let mask = Tensor::<D>::from_data(TensorData::new(mask, shape), &device);
        x * mask
    }
}

/// One visit of a site: what is there, and how to go on.
pub struct Call<'a, Layer: ?Sized, In, Out> {
    /// The site visited.
    pub site: &'a Site,
    /// The host's layer, for its weights.
    pub layer: &'a Layer,
    /// The forward pass this belongs to.
    pub pass: &'a Pass,
    rest: &'a [&'a dyn Hooks],
    base: &'a dyn Fn(In) -> Out,
    next: fn(&dyn Hooks, Self, In) -> Out,
}

impl<Layer: ?Sized, In, Out> Call<'_, Layer, In, Out> {
    /// The next hook, at last the host's own computation.
    pub fn run(self, input: In) -> Out {
        match self.rest.split_first() {
            Some((hook, rest)) => (self.next)(*hook, Self { rest, ..self }, input),
            None => (self.base)(input),
        }
    }

    /// Whether [`Call::run`] is the host's own computation, so that a hook that knows the layer may
    /// do it together with its own part.
    pub fn is_last(&self) -> bool {
        self.rest.is_empty()
    }

    /// The same call again, for a hook that runs the rest more than once.
    pub fn again(&self) -> Self {
        Self {
            site: self.site,
            layer: self.layer,
            pass: self.pass,
            rest: self.rest,
            base: self.base,
            next: self.next,
        }
    }
}

/// Queries, keys and values of one attention, after positions were applied.
#[derive(Clone, Debug)]
pub struct Qkv {
    /// `[batch, heads, time, head_dim]`.
    pub q: Tensor<4>,
    /// `[batch, kv_heads, keys, head_dim]`, cached keys first.
    pub k: Tensor<4>,
    /// `[batch, kv_heads, keys, head_dim]`.
    pub v: Tensor<4>,
    /// Which keys a query sees; [`Mask::dense`] has it as a tensor.
    pub mask: Mask,
}

/// Shape and scale of an attention site.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Multiplies the scores.
    pub scale: f64,
}

/// Call at an embedding: ids `[batch, time]` to `[batch, time, width]`.
pub type EmbeddingCall<'a> = Call<'a, Embedding, Tensor<2, Int>, Tensor<3>>;
/// Call at a dense layer: `[batch, time, in]` to `[batch, time, out]`.
pub type LinearCall<'a> = Call<'a, Linear, Tensor<3>, Tensor<3>>;
/// Call at a convolution: `[batch, channels, height, width]`.
pub type ConvCall<'a> = Call<'a, Conv2d, Tensor<4>, Tensor<4>>;
/// Call at a normalisation: `[batch, time, width]`.
pub type NormCall<'a> = Call<'a, Norm, Tensor<3>, Tensor<3>>;
/// Call at a normalisation of channels by kept statistics: `[batch, channels, height, width]`.
pub type BatchNormCall<'a> = Call<'a, BatchNorm, Tensor<4>, Tensor<4>>;
/// Call at an attention: queries, keys, values to `[batch, heads, time, head_dim]`.
pub type AttentionCall<'a> = Call<'a, AttentionShape, Qkv, Tensor<4>>;
/// Call at the attention probabilities `[batch, heads, time, keys]`; the base is the identity.
pub type ProbabilitiesCall<'a> = Call<'a, AttentionShape, Tensor<4>, Tensor<4>>;
/// Call around a whole block: `[batch, time, width]` to the same.
pub type ResidualCall<'a> = Call<'a, (), Tensor<3>, Tensor<3>>;
/// Call at a recurrent state `[batch, channels, state, 1]`.
pub type StateCall<'a> = Call<'a, (), Tensor<4>, Tensor<4>>;
/// Call at the output projection: last hidden state to logits.
pub type OutputCall<'a> = Call<'a, (), Tensor<3>, Tensor<3>>;

/// What an attachment does around each kind of site; every default is "nothing".
pub trait Hooks: Send + Sync {
    /// Around an embedding.
    fn embedding(&self, call: EmbeddingCall<'_>, ids: Tensor<2, Int>) -> Tensor<3> {
        call.run(ids)
    }
    /// Around a dense layer.
    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        call.run(x)
    }
    /// Around a convolution.
    fn conv(&self, call: ConvCall<'_>, x: Tensor<4>) -> Tensor<4> {
        call.run(x)
    }
    /// Around a normalisation.
    fn norm(&self, call: NormCall<'_>, x: Tensor<3>) -> Tensor<3> {
        call.run(x)
    }
    /// Around a normalisation of channels by kept statistics.
    fn batch_norm(&self, call: BatchNormCall<'_>, x: Tensor<4>) -> Tensor<4> {
        call.run(x)
    }
    /// Around an attention; queries, keys, values and mask can be read, replaced or extended.
    fn attention(&self, call: AttentionCall<'_>, qkv: Qkv) -> Tensor<4> {
        call.run(qkv)
    }
    /// Around the attention probabilities; called only where [`Hooks::needs_probabilities`].
    fn probabilities(&self, call: ProbabilitiesCall<'_>, p: Tensor<4>) -> Tensor<4> {
        call.run(p)
    }
    /// Around a block of the residual stream.
    fn residual(&self, call: ResidualCall<'_>, x: Tensor<3>) -> Tensor<3> {
        call.run(x)
    }
    /// Around a recurrent state update.
    fn state(&self, call: StateCall<'_>, h: Tensor<4>) -> Tensor<4> {
        call.run(h)
    }
    /// Around the output projection.
    fn output(&self, call: OutputCall<'_>, hidden: Tensor<3>) -> Tensor<3> {
        call.run(hidden)
    }
    /// What the hook makes of the last dense layer of a head, where the outcome is again a dense
    /// layer without a bias: its weight `[out, in]`, given that of the rest of the onion. `None`,
    /// the default, where the hook does or may do anything else there, in [`Hooks::linear`] or in
    /// [`Hooks::output`]; losses that need no logits are computed from such weights alone.
    fn head_weight(&self, site: &Site, layer: &Linear, weight: Tensor<2>) -> Option<Tensor<2>> {
        let _ = (site, layer, weight);
        None
    }
    /// Whether the full matrix of attention probabilities must be formed for this hook.
    fn needs_probabilities(&self) -> bool {
        false
    }
    /// Virtual tokens `[1 or batch, count, width of the token embedding]` that go through the
    /// network in front of the embedded tokens of every row, those of the text where an encoder reads
    /// one for a decoder; `None`, the default, where there are none. Asked once in the pass that reads the first tokens; a cache holds them from then on.
    fn prompt(&self, pass: &Pass) -> Option<Tensor<3>> {
        let _ = pass;
        None
    }
    /// Keys that [`Hooks::attention`] puts in front of every row: positions begin behind them.
    fn prefix(&self) -> usize {
        0
    }
    /// Whether anything is done at a site; where it is not, other rows of a mixed batch may be computed
    /// together with this hook's.
    fn acts_at(&self, site: &Site) -> bool {
        let _ = site;
        true
    }
    /// What [`Hooks::linear`] gives for `x` `[batch, time, in]`, where the rest of the onion gives `y`
    /// `[batch, time, out]` for the same `x`; `None`, the default, where the rest sees another input.
    fn after_linear(
        &self,
        call: &LinearCall<'_>,
        x: &Tensor<3>,
        y: Tensor<3>,
    ) -> Option<Tensor<3>> {
        let _ = (call, x, y);
        None
    }
    /// Told before a pass over prompts with their answers behind them how many tokens of each row, from its
    /// first real one, are the prompt. It speaks of that pass only; of others all tokens are the prompt.
    fn given(&self, lengths: &[usize]) {
        let _ = lengths;
    }
    /// Told between two passes with one cache that only these rows of the batch go on, in this order.
    fn keep_rows(&self, kept: &[usize]) {
        let _ = kept;
    }
}

/// Positions of every row that hooks leave no room for tokens at.
pub fn virtual_tokens(hooks: &[&dyn Hooks]) -> usize {
    let pass = &Pass::default();
    Around { hooks, pass }.virtual_tokens()
}

/// A host's side of the hooks: opens the calls at its sites.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// The onion, outermost first.
    pub hooks: &'a [&'a dyn Hooks],
    /// The forward pass.
    pub pass: &'a Pass,
}

macro_rules! opens {
    ($(#[$doc:meta])* $name:ident, $layer:ty, $input:ty, $output:ty) => {
        $(#[$doc])*
        pub fn $name(
            &self,
            site: &Site,
            layer: &$layer,
            input: $input,
            base: &dyn Fn($input) -> $output,
        ) -> $output {
            if self.hooks.is_empty() {
                return base(input);
            }
            let next = |hook: &dyn Hooks, call: Call<'_, $layer, $input, $output>, input| {
                hook.$name(call, input)
            };
            Call { site, layer, pass: self.pass, rest: self.hooks, base, next }.run(input)
        }
    };
}

impl Around<'_> {
    opens!(
        /// Opens an embedding site.
        embedding, Embedding, Tensor<2, Int>, Tensor<3>
    );
    opens!(
        /// Opens a dense site.
        linear, Linear, Tensor<3>, Tensor<3>
    );
    opens!(
        /// Opens a convolution site.
        conv, Conv2d, Tensor<4>, Tensor<4>
    );
    opens!(
        /// Opens a normalisation site.
        norm, Norm, Tensor<3>, Tensor<3>
    );
    opens!(
        /// Opens a site that normalises channels by kept statistics.
        batch_norm, BatchNorm, Tensor<4>, Tensor<4>
    );
    opens!(
        /// Opens an attention site.
        attention, AttentionShape, Qkv, Tensor<4>
    );
    opens!(
        /// Opens the attention probabilities.
        probabilities, AttentionShape, Tensor<4>, Tensor<4>
    );
    opens!(
        /// Opens a block of the residual stream.
        residual, (), Tensor<3>, Tensor<3>
    );
    opens!(
        /// Opens a recurrent state.
        state, (), Tensor<4>, Tensor<4>
    );
    opens!(
        /// Opens the output projection.
        output, (), Tensor<3>, Tensor<3>
    );

    /// The weight `[out, in]`, `f32` or `bf16`, that the hooks make of a head's last dense layer; `None` where the
    /// layer has a bias or a hook makes something else of it.
    pub fn head_weight(&self, site: &Site, layer: &Linear) -> Option<Tensor<2>> {
        if layer.bias.is_some() {
            return None;
        }
        let inside_out = self.hooks.iter().rev();
        inside_out
            .copied()
            .try_fold(layer.stored(), |weight, hook| {
                hook.head_weight(site, layer, weight)
            })
    }

    /// Whether any hook wants the attention probabilities formed.
    pub fn needs_probabilities(&self) -> bool {
        self.hooks.iter().any(|hook| hook.needs_probabilities())
    }

    /// The prompts of all hooks one behind the other, that of the outermost first.
    pub fn prompt(&self) -> Option<Tensor<3>> {
        let prompts = self.hooks.iter().filter_map(|hook| hook.prompt(self.pass));
        let prompts: Vec<Tensor<3>> = prompts.collect();
        let batch = prompts.iter().map(|prompt| prompt.dims()[0]).max()?;
        let whole = prompts.into_iter().map(|prompt| match prompt.dims() {
            [1, count, width] => prompt.expand([batch, count, width]),
            _ => prompt,
        });
        Some(Tensor::cat(whole.collect(), 1))
    }

    /// The keys that the hooks put in front.
    pub fn prefix(&self) -> usize {
        self.hooks.iter().map(|hook| hook.prefix()).sum()
    }

    /// Positions of a row that are not left for its tokens.
    pub fn virtual_tokens(&self) -> usize {
        self.prefix() + self.prompt().map_or(0, |prompt| prompt.dims()[1])
    }
}
