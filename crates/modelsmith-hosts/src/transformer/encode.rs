//! The encoder's side of a pass: its text is read once, and every block of the decoder makes keys
//! and values of the outcome.

use super::Transformer;
use super::attention::split;
use super::cache::KvCache;
use super::input::TokenInput;
use super::plan::{CrossPlan, StackPlan};
use super::prepare::Prepared;
use super::walk::{Visit, Walk};
use burn::tensor::Tensor;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Around, Hooks, Pass};

/// What a decoder reads of its encoder.
pub(crate) struct Encoded<'a> {
    /// Visits of layers that see the encoder's tokens.
    visit: Visit<'a>,
    /// The encoder's last state `[batch, time, width]`, its prompt first; absent where a cache
    /// holds all that is made of it.
    hidden: Option<Tensor<3>>,
    /// Hides the padding of the text, `[batch, 1, 1, time]`.
    pub(crate) bias: Option<Tensor<4>>,
}

impl Encoded<'_> {
    /// Keys and values `[batch, kv_heads, time, head_dim]` for a block of the decoder.
    pub(crate) fn keys_values(&self, plan: &CrossPlan, kv_heads: usize) -> (Tensor<4>, Tensor<4>) {
        let Some(hidden) = &self.hidden else {
            unreachable!("a cache that holds tokens holds the keys and values of every block");
        };
        let heads = |at| split(self.visit.linear(at, hidden.clone()), kv_heads).swap_dims(1, 2);
        (heads(plan.key), heads(plan.value))
    }
}

impl Transformer {
    /// The encoder's states for a text: the embedding and the output of every block, the last
    /// after the final norm, `[batch, time, width]` each; those of a prompt come first in all of
    /// them. `input` is the text itself.
    ///
    /// # Errors
    /// As [`Transformer::hidden`]; a model without an encoder beside its decoder.
    pub fn encoder_states(
        &self,
        input: &TokenInput,
        pass: &Pass,
        hooks: &[&dyn Hooks],
    ) -> Result<Vec<Tensor<3>>> {
        let Some(stack) = &self.plan.encoder else {
            return Err(Error::Usage(format!(
                "{} has no encoder beside its decoder",
                self.info.architecture
            )));
        };
        let pass = source_pass(pass, input);
        let around = Around { hooks, pass: &pass };
        let mut states = Vec::with_capacity(stack.blocks.len() + 1);
        let (last, _) = self.read_source(stack, input, around, &mut |x| states.push(x.clone()))?;
        states.pop();
        states.push(last);
        Ok(states)
    }

    /// What the decoder is to read: the encoder's outcome in the first pass, later what the cache
    /// knows of it; `None` for a model of one stack. `pass` is that of [`source_pass`].
    pub(crate) fn encoded<'a>(
        &'a self,
        input: &TokenInput,
        pass: &'a Pass,
        hooks: &'a [&'a dyn Hooks],
        cache: Option<&mut KvCache>,
    ) -> Result<Option<Encoded<'a>>> {
        let stack = match (&self.plan.encoder, &input.source) {
            (Some(stack), _) => stack,
            (None, None) => return Ok(None),
            (None, Some(_)) => {
                return Err(self.refuse("has no encoder to read the source; leave it out"));
            }
        };
        let around = Around { hooks, pass };
        let visit = Visit {
            model: self,
            around,
        };
        if around.prefix() > 0 {
            return Err(self.refuse(
                "takes no keys in front of its attentions, as prefix tuning puts there; train a \
                 prompt in front of the encoder's text, or an adapter",
            ));
        }
        self.check_source(input)?;
        let held = cache.as_deref().filter(|cache| !cache.is_empty());
        let (hidden, bias) = match (held, &input.source) {
            (Some(cache), None) => (None, cache.encoded_bias.clone()),
            (Some(_), Some(_)) => {
                return Err(
                    self.refuse("read a source already, which the cache holds; leave it out")
                );
            }
            (None, None) => {
                return Err(self.refuse("answers a text: give its encoder a source"));
            }
            (None, Some(source)) => {
                let (hidden, bias) = self.read_source(stack, source, around, &mut |_| ())?;
                (Some(hidden), bias)
            }
        };
        if let Some(cache) = cache {
            cache.encoded_bias.clone_from(&bias);
        }
        Ok(Some(Encoded {
            visit,
            hidden,
            bias,
        }))
    }

    /// The encoder's last state, and what hides the padding of its text.
    fn read_source(
        &self,
        stack: &StackPlan,
        source: &TokenInput,
        around: Around<'_>,
        seen: &mut dyn FnMut(&Tensor<3>),
    ) -> Result<(Tensor<3>, Option<Tensor<4>>)> {
        let prepared = Prepared::new(&self.config, source, Some(&around), None, &self.device)?;
        let visit = Visit {
            model: self,
            around,
        };
        let walk = Walk::new(visit, stack, &prepared, None, None);
        let mut x = walk.embed(source.ids.clone());
        seen(&x);
        for layer in 0..stack.blocks.len() {
            x = walk.block(layer, x);
            seen(&x);
        }
        Ok((walk.finish(x), prepared.bias.clone()))
    }

    fn check_source(&self, input: &TokenInput) -> Result<()> {
        let Some(source) = &input.source else {
            return Ok(());
        };
        if input.segments.is_some() || source.segments.is_some() {
            return Err(self.refuse("reads one text a row; turn packing off"));
        }
        if input.positions.is_some() || source.positions.is_some() {
            return Err(self.refuse("goes by distances, not by positions; leave these out"));
        }
        let [texts, answers] = [source, input].map(|rows| rows.dims()[0]);
        match texts == answers {
            true => Ok(()),
            false => Err(self.refuse(&format!(
                "was given {texts} texts and {answers} answers; each text has one answer"
            ))),
        }
    }

    fn refuse(&self, problem: &str) -> Error {
        Error::Failed(format!("{} {problem}", self.info.architecture))
    }
}

/// The part of a pass that the encoder's text goes through.
pub(crate) fn source_pass(pass: &Pass, source: &TokenInput) -> Pass {
    let mask = source.mask.clone();
    Pass {
        offset: 0,
        valid: mask.filter(|_| pass.training.is_some()),
        ..pass.clone()
    }
}
