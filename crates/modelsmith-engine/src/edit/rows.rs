//! Prompts up to their lookup tokens, kept at the input of a block, so that keys and outputs of layers
//! are read without running what lies below again.

use super::facts::Prompt;
use super::mlps::Mlp;
use super::span::Span;
use burn::tensor::{Int, Tensor, TensorData};
use faer::Mat;
use modelsmith_core::capture::{Capture, Side};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::to_vec;
use modelsmith_hosts::{TokenInput, Transformer};
use std::collections::BTreeMap;

/// Tokens of a pass, padding included, at most.
const TOKENS: usize = 8192;

/// Some prompts of similar lengths.
struct Chunk {
    /// Their numbers.
    numbers: Vec<usize>,
    input: TokenInput,
    /// Places of the lookup tokens among all tokens of the chunk.
    places: Tensor<1, Int>,
    /// The last block that was run, and what it gave.
    stream: Option<(usize, Tensor<3>)>,
}

/// Prompts, and the stream of each as far as it was run.
pub(crate) struct Rows<'m> {
    mlps: &'m [Mlp],
    blocks: BTreeMap<String, usize>,
    chunks: Vec<Chunk>,
    count: usize,
}

/// Which output of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// The stream behind the block.
    Block,
    /// What the MLP adds to it.
    Mlp,
}

/// Numbers of the blocks by their paths.
pub(crate) fn numbered(mlps: &[Mlp]) -> BTreeMap<String, usize> {
    let blocks = mlps.iter().enumerate();
    blocks
        .map(|(number, mlp)| (mlp.block.clone(), number))
        .collect()
}

impl<'m> Rows<'m> {
    /// Prompts that stop at their lookup tokens, run up to the input of block `first`.
    ///
    /// # Errors
    /// Prompts that are longer than the model's positions.
    pub(crate) fn new(
        host: &Transformer,
        mlps: &'m [Mlp],
        prompts: &[&Prompt],
        first: usize,
    ) -> Result<Self> {
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|number| prompts[*number].lookup);
        let mut chunks = Vec::new();
        let mut begin = 0;
        while begin < order.len() {
            let fits = |end: &usize| {
                let columns = prompts[order[*end - 1]].lookup + 1;
                *end == begin + 1 || columns * (end - begin) <= TOKENS
            };
            let end = (begin + 1..=order.len()).take_while(fits).last();
            let end = end.unwrap_or(begin + 1);
            chunks.push(chunk(host, prompts, &order[begin..end]));
            begin = end;
        }
        let mut rows = Self {
            mlps,
            blocks: numbered(mlps),
            chunks,
            count: prompts.len(),
        };
        if let Some(last) = first.checked_sub(1) {
            rows.advance(host, last)?;
        }
        Ok(rows)
    }

    /// Runs on behind block `last` and keeps the stream there.
    ///
    /// # Errors
    /// As [`Rows::new`].
    pub(crate) fn advance(&mut self, host: &Transformer, last: usize) -> Result<()> {
        let blocks = &self.blocks;
        for chunk in &mut self.chunks {
            let span = Span::new(blocks, chunk.stream.take(), last);
            run(host, &chunk.input, &[&span])?;
            chunk.stream = span.take().map(|stream| (last, stream));
        }
        Ok(())
    }

    /// What the MLP of block `layer` receives at the lookup tokens, `[inputs, prompts]`.
    ///
    /// # Errors
    /// As [`Rows::new`].
    pub(crate) fn keys(&self, host: &Transformer, layer: usize) -> Result<Mat<f64>> {
        let site = &self.mlps[layer].site;
        let mut keys = Mat::zeros(site.inputs, self.count);
        self.read(host, layer, (&site.path, Side::Input), &mut keys)?;
        Ok(keys)
    }

    /// What block `layer` or its MLP gives at the lookup tokens, `[outputs, prompts]`.
    ///
    /// # Errors
    /// As [`Rows::new`].
    pub(crate) fn outputs(
        &self,
        host: &Transformer,
        layer: usize,
        output: Output,
    ) -> Result<Mat<f64>> {
        let mlp = &self.mlps[layer];
        let path = match output {
            Output::Block => &mlp.block,
            Output::Mlp => &mlp.site.path,
        };
        let mut outputs = Mat::zeros(mlp.site.outputs, self.count);
        self.read(host, layer, (path, Side::Output), &mut outputs)?;
        Ok(outputs)
    }

    fn read(
        &self,
        host: &Transformer,
        until: usize,
        (path, side): (&String, Side),
        into: &mut Mat<f64>,
    ) -> Result<()> {
        for chunk in &self.chunks {
            let span = Span::new(&self.blocks, chunk.stream.clone(), until);
            let capture = Capture::new([path], side);
            // The capture is inside of the span, which passes blocks over.
            run(host, &chunk.input, &[&span, &capture])?;
            let seen = capture.take().remove(path);
            let seen = seen.ok_or_else(|| Error::Failed(format!("{path} was not visited")))?;
            let seen: Tensor<3> = seen.tensor()?;
            let [batch, time, width] = seen.dims();
            let chosen = seen
                .reshape([batch * time, width])
                .select(0, chunk.places.clone());
            let values = to_vec(chosen);
            for (row, number) in values.chunks_exact(width).zip(&chunk.numbers) {
                for (place, value) in row.iter().enumerate() {
                    into[(place, *number)] = f64::from(*value);
                }
            }
        }
        Ok(())
    }
}

fn chunk(host: &Transformer, prompts: &[&Prompt], numbers: &[usize]) -> Chunk {
    let rows: Vec<Vec<u32>> = numbers
        .iter()
        .map(|number| prompts[*number].ids[..=prompts[*number].lookup].to_vec())
        .collect();
    let pad = host.pad_token().unwrap_or(0);
    let input = TokenInput::from_ids(&rows, pad, false, &host.device());
    let [batch, time] = input.dims();
    let place = |(row, number): (usize, &usize)| (row * time + prompts[*number].lookup) as i64;
    let places: Vec<i64> = numbers.iter().enumerate().map(place).collect();
    Chunk {
        numbers: numbers.to_vec(),
        input,
        places: Tensor::from_data(TensorData::new(places, [batch]), &host.device()),
        stream: None,
    }
}

fn run(host: &Transformer, input: &TokenInput, hooks: &[&dyn Hooks]) -> Result<()> {
    host.hidden(input, &Pass::default(), hooks, None)?;
    Ok(())
}
