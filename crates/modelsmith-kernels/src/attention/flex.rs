//! From tensors to memory and back.

use super::forward::Normaliser;
use super::gradient::{self, Gradients, Known};
use super::view::{Problem, View};
use super::{Attention, few, forward};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::FloatTensor;
use burn::backend::{DType, Flex, Shape, TensorMetadata};
use burn::tensor::Bytes;
use modelsmith_core::mask::Band;

impl Attention for Flex {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        band: Band,
        scale: f32,
    ) -> FloatTensor<Self> {
        Inputs::new([q, k, v], None, band, scale).forward()
    }

    fn fused_attention_biased(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        band: Band,
        scale: f32,
    ) -> FloatTensor<Self> {
        Inputs::new([q, k, v], Some(bias), band, scale).forward()
    }
}

/// What attention is computed from.
#[derive(Clone, Debug)]
pub(super) struct Inputs {
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    bias: Option<FlexTensor>,
    band: Band,
    scale: f32,
}

impl Inputs {
    pub(super) fn new(
        [q, k, v]: [FlexTensor; 3],
        bias: Option<FlexTensor>,
        band: Band,
        scale: f32,
    ) -> Self {
        Self {
            q: readable(q),
            k: readable(k),
            v: readable(v),
            bias: bias.map(readable),
            band,
            scale,
        }
    }

    /// The result alone.
    pub(super) fn forward(&self) -> FlexTensor {
        let problem = self.problem();
        let mut out = room(&self.out_lengths());
        if !out.is_empty() && problem.keys() > 0 {
            match problem.rows() {
                0..=few::FEW => few::forward(&problem, &mut out),
                _ => forward::forward(&problem, &mut out, None),
            }
        }
        heads(out, self.out_lengths())
    }

    /// The result, and what its gradients need.
    pub(super) fn forward_tracked(&self) -> (FlexTensor, Normaliser) {
        let problem = self.problem();
        let mut out = room(&self.out_lengths());
        let mut normaliser = Normaliser::default();
        if !out.is_empty() && problem.keys() > 0 {
            forward::forward(&problem, &mut out, Some(&mut normaliser));
        }
        (heads(out, self.out_lengths()), normaliser)
    }

    /// Those gradients of `q`, `k` and `v` that are wanted, from the result and its gradient.
    pub(super) fn backward(
        &self,
        y: &FlexTensor,
        normaliser: &Normaliser,
        grad: FlexTensor,
        wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let problem = self.problem();
        let grad = readable(grad);
        let lengths = [&self.q, &self.k, &self.v].map(lengths);
        let mut out: [Option<Vec<f32>>; 3] =
            std::array::from_fn(|at| wanted[at].then(|| room(&lengths[at])));
        let [q, k, v] = &mut out;
        if grad.shape().num_elements() > 0 && problem.keys() > 0 {
            let known = Known {
                y: view(y, &self.out_lengths()),
                grad: view(&grad, &self.out_lengths()),
                normaliser,
            };
            let out = Gradients {
                q: q.as_deref_mut(),
                k: k.as_deref_mut(),
                v: v.as_deref_mut(),
            };
            gradient::backward(&problem, &known, out);
        }
        let mut lengths = lengths.into_iter();
        out.map(|values| {
            let lengths = lengths.next().unwrap_or_default();
            values.map(|values| heads(values, lengths))
        })
    }

    fn out_lengths(&self) -> [usize; 4] {
        let ([batch, heads, time, _], [.., width]) = (lengths(&self.q), lengths(&self.v));
        [batch, heads, time, width]
    }

    fn problem(&self) -> Problem<'_> {
        let [batch, heads, time, _] = lengths(&self.q);
        let scores = [batch, heads, time, lengths(&self.k)[2]];
        Problem {
            q: view(&self.q, &lengths(&self.q)),
            k: view(&self.k, &lengths(&self.k)),
            v: view(&self.v, &lengths(&self.v)),
            bias: self.bias.as_ref().map(|bias| view(bias, &scores)),
            band: self.band,
            scale: self.scale,
        }
    }
}

/// The tensor, copied where its rows do not lie side by side.
fn readable(x: FlexTensor) -> FlexTensor {
    let layout = x.layout();
    let forward = layout.strides().iter().all(|step| *step >= 0);
    match forward && (layout.strides()[3] == 1 || layout.shape()[3] <= 1) {
        true => x,
        false => x.to_contiguous(),
    }
}

fn lengths(x: &FlexTensor) -> [usize; 4] {
    std::array::from_fn(|axis| x.shape()[axis])
}

/// A tensor in memory, repeated along axes of length 1 to the lengths given.
fn view<'a>(x: &'a FlexTensor, lengths: &[usize; 4]) -> View<'a> {
    let layout = x.layout();
    let step = |axis: usize| match layout.shape()[axis] {
        1 => 0,
        _ => layout.strides()[axis].unsigned_abs(),
    };
    View {
        values: &x.storage::<f32>()[layout.start_offset()..],
        lengths: *lengths,
        steps: std::array::from_fn(step),
    }
}

/// Memory for a tensor of these lengths.
fn room(lengths: &[usize; 4]) -> Vec<f32> {
    vec![0.0; lengths.iter().product()]
}

/// Values that lie as `[batch, time, heads, dim]`, as `[batch, heads, time, dim]`.
fn heads(values: Vec<f32>, [batch, heads, time, dim]: [usize; 4]) -> FlexTensor {
    let layout = Layout::contiguous(Shape::new([batch, time, heads, dim]));
    FlexTensor::new(
        Bytes::from_elems(values),
        layout.transpose(1, 2),
        DType::F32,
    )
}
