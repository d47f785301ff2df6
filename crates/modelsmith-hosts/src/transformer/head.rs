//! From the last hidden state to logits.

use super::config::Activation;
use super::input::{TokenInput, bool_rows, int_rows};
use super::plan::{At, HeadPlan};
use super::walk::Visit;
use burn::tensor::{Tensor, TensorData};

impl Visit<'_> {
    /// The head's logits, through its output site. A head that is absent gives the hidden state.
    pub(crate) fn head(&self, hidden: Tensor<3>, input: &TokenInput) -> Tensor<3> {
        let plan = &self.model.plan;
        let Some(output) = plan.output else {
            return hidden;
        };
        let site = &plan.sites[output];
        self.around
            .output(site, &(), hidden, &|hidden| self.project(hidden, input))
    }

    fn project(&self, hidden: Tensor<3>, input: &TokenInput) -> Tensor<3> {
        let rate = self.model.config.dropouts.classifier;
        match self.model.plan.head {
            None | Some(HeadPlan::None) => hidden,
            Some(HeadPlan::Causal(at)) => match self.model.config.output_scale() {
                1.0 => self.linear(at, hidden),
                scale => self.linear(at, hidden * scale),
            },
            Some(HeadPlan::Masked {
                dense,
                norm,
                decoder,
            }) => {
                let y = self.masked_activation().apply(self.linear(dense, hidden));
                self.linear(decoder, self.norm(norm, y))
            }
            Some(HeadPlan::Last(at)) => {
                let last = self.last_real(input);
                self.linear(at, pick(hidden, &last))
            }
            Some(HeadPlan::Pooled { pooler, classifier }) => {
                let pooled = self.pool(pooler, hidden);
                self.linear(classifier, self.dropout("classifier", rate, pooled))
            }
            Some(HeadPlan::First { dense, classifier }) => {
                let first = self.dropout("classifier.dense", rate, first(hidden));
                let y = self.linear(dense, first).tanh();
                self.linear(classifier, self.dropout("classifier.out_proj", rate, y))
            }
            Some(HeadPlan::Tokens(at)) => self.linear(at, self.dropout("classifier", rate, hidden)),
        }
    }

    /// `tanh` of a dense layer at the first token, `[batch, 1, width]`.
    pub(crate) fn pool(&self, pooler: At, hidden: Tensor<3>) -> Tensor<3> {
        self.linear(pooler, first(hidden)).tanh()
    }

    /// The head's function: RoBERTa uses the exact GELU whatever the blocks use.
    fn masked_activation(&self) -> Activation {
        match self.model.config.names.heads.exact_gelu {
            true => Activation::Gelu,
            false => self.model.config.activation,
        }
    }

    /// The last token of each row that is not the padding token; without a padding token the last
    /// that the mask holds for real.
    fn last_real(&self, input: &TokenInput) -> Vec<usize> {
        let [batch, time] = input.dims();
        let last_of = |rows: Vec<Vec<bool>>| -> Vec<usize> {
            let last = |row: &Vec<bool>| row.iter().rposition(|real| *real).unwrap_or(0);
            rows.iter().map(last).collect()
        };
        match (self.model.config.pad, &input.mask) {
            (Some(pad), _) => {
                let real = |row: &Vec<i64>| row.iter().map(|id| *id != pad as i64).collect();
                last_of(int_rows(&input.ids).iter().map(real).collect())
            }
            (None, Some(mask)) => last_of(bool_rows(mask)),
            (None, None) => vec![time - 1; batch],
        }
    }
}

/// The first token, `[batch, 1, width]`.
fn first(hidden: Tensor<3>) -> Tensor<3> {
    hidden.narrow(1, 0, 1)
}

/// One column of each row, `[batch, 1, width]`.
fn pick(hidden: Tensor<3>, columns: &[usize]) -> Tensor<3> {
    let [batch, time, width] = hidden.dims();
    let lines: Vec<i64> = columns
        .iter()
        .enumerate()
        .map(|(row, column)| (row * time + column) as i64)
        .collect();
    let device = hidden.device().without_autodiff();
    let lines = Tensor::from_data(TensorData::new(lines, [batch]), &device);
    hidden
        .reshape([batch * time, width])
        .select(0, lines)
        .reshape([batch, 1, width])
}
