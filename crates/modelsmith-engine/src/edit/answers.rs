//! What a model says at chosen places: logits are made there only.

use burn::tensor::{Int, Tensor, TensorData};
use modelsmith_core::error::Result;
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::host::Host;
use modelsmith_hosts::{TokenInput, Transformer};

/// Log-probabilities over the vocabulary `[places, vocabulary]` at flat places `row * time + column` of the
/// last hidden states `[batch, time, width]` of `input`.
pub(crate) fn log_probabilities(
    host: &Transformer,
    hidden: Tensor<3>,
    places: Vec<i64>,
    input: &TokenInput,
) -> Tensor<2> {
    let ([rows, time, width], count) = (hidden.dims(), places.len());
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &host.device());
    let states = hidden.reshape([rows * time, width]).select(0, places);
    let logits = host.logits(states.unsqueeze_dim(0), input, &Pass::default(), &[]);
    modelsmith_kernels::log_softmax(logits).squeeze_dim(0)
}

/// Prompts with an answer behind each, at least a token of both.
pub(crate) struct Answers {
    /// The texts, without the last token of each.
    pub(crate) input: TokenInput,
    /// Flat places at which tokens of answers are predicted, text by text.
    pub(crate) places: Vec<i64>,
    /// The tokens there, `[places, 1]`.
    pub(crate) targets: Tensor<2, Int>,
    /// Tokens of each answer.
    pub(crate) lengths: Vec<usize>,
}

impl Answers {
    /// Of prompts and answers in tokens.
    pub(crate) fn new(host: &Transformer, texts: &[(&[u32], &[u32])]) -> Self {
        let whole =
            |(prompt, answer): &(&[u32], &[u32])| [prompt, &answer[..answer.len() - 1]].concat();
        let ids: Vec<Vec<u32>> = texts.iter().map(whole).collect();
        let device = host.device();
        let input = TokenInput::from_ids(&ids, host.pad_token().unwrap_or(0), false, &device);
        let time = input.dims()[1];
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (row, (prompt, answer)) in texts.iter().enumerate() {
            let first = row * time + prompt.len() - 1;
            places.extend((first..first + answer.len()).map(|place| place as i64));
            targets.extend(answer.iter().map(|token| i64::from(*token)));
        }
        let count = places.len();
        Self {
            input,
            places,
            targets: Tensor::from_data(TensorData::new(targets, [count, 1]), &device),
            lengths: texts.iter().map(|(_, answer)| answer.len()).collect(),
        }
    }

    /// `Σ log p(token)` over the tokens of each answer: `[texts, 1]`.
    ///
    /// # Errors
    /// Texts that the model cannot read.
    pub(crate) fn log_likelihoods(
        &self,
        host: &Transformer,
        hooks: &[&dyn Hooks],
    ) -> Result<Tensor<2>> {
        let all = self.log_probabilities(host, hooks)?;
        let own = self.owners(&host.device());
        Ok(own.matmul(all.gather(1, self.targets.clone())))
    }

    /// Log-probabilities over the vocabulary at all places, `[places, vocabulary]`.
    ///
    /// # Errors
    /// As [`Answers::log_likelihoods`].
    pub(crate) fn log_probabilities(
        &self,
        host: &Transformer,
        hooks: &[&dyn Hooks],
    ) -> Result<Tensor<2>> {
        let hidden = host.hidden(&self.input, &Pass::default(), hooks, None)?;
        let places = self.places.clone();
        Ok(log_probabilities(host, hidden, places, &self.input))
    }

    /// `[texts, places]`: 1 where a place is a text's.
    fn owners(&self, device: &burn::tensor::Device) -> Tensor<2> {
        let (texts, count) = (self.lengths.len(), self.places.len());
        let mut own = vec![0.0_f32; texts * count];
        let mut first = 0;
        for (text, length) in self.lengths.iter().enumerate() {
            own[text * count + first..text * count + first + length].fill(1.0);
            first += length;
        }
        Tensor::from_data(TensorData::new(own, [texts, count]), device)
    }
}
