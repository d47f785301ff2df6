//! The networks that turn gradients into edits.
//!
//! ```text
//! z  = [u; δ], each entry less its mean over all training, divided by its deviation
//! h  = z + relu(s₁ ⊙ (U₁ V₁ z + b₁) + o₁)
//! z' = h + s₂ ⊙ (U₂ V₂ h + b₂) + o₂            [u'; δ'] = z'
//! ```
//!
//! `u` is what a layer reads at a token and `δ` the gradient of the loss by what it gives there. Layers of one shape share
//! a network, and have scales `s` and offsets `o` of their own. `U` begin at 0, so that the first edit is along the
//! standardised gradient.

use super::Rows;
use burn::tensor::{Device, Tensor};
use modelsmith_core::parameters::Flat;
use modelsmith_core::random::Stream;

/// Tensors of a network.
pub(super) const PARTS: usize = 10;

/// Shapes and statistics of a network; its tensors are kept with those of the others.
#[derive(Clone, Debug)]
pub(super) struct Network {
    /// What a layer reads and gives.
    pub(super) sizes: [usize; 2],
    /// Paths of its layers.
    pub(super) layers: Vec<String>,
    statistics: Statistics,
}

/// Running mean and squared deviation of each entry (Welford).
#[derive(Clone, Debug)]
struct Statistics {
    count: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Network {
    pub(super) fn new(sizes: [usize; 2]) -> Self {
        let width = sizes[0] + sizes[1];
        Self {
            sizes,
            layers: Vec::new(),
            statistics: Statistics {
                count: 0.0,
                mean: vec![0.0; width],
                squares: vec![0.0; width],
            },
        }
    }

    /// Numbers of a row.
    pub(super) fn width(&self) -> usize {
        self.sizes[0] + self.sizes[1]
    }

    /// `V₁ U₁ b₁ s₁ o₁ V₂ U₂ b₂ s₂ o₂`, as they begin.
    pub(super) fn start(
        &self,
        rank: usize,
        number: usize,
        seed: u64,
        device: &Device,
    ) -> Vec<Flat> {
        let (width, layers) = (self.width(), self.layers.len());
        let constant = |value: f32, shape: [usize; 2]| {
            Flat::from_vec(vec![value; shape[0] * shape[1]], &shape, device)
        };
        let stage = |stage: usize| {
            let name = format!("edit/mend/{number}/{stage}");
            // Glorot and Bengio's uniform bound.
            let bound = (6.0 / (width + rank) as f32).sqrt();
            let draws = Stream::new(seed, &name).uniform(rank * width, -bound, bound);
            [
                Flat::from_vec(draws, &[rank, width], device),
                constant(0.0, [width, rank]),
                constant(0.0, [1, width]),
                constant(1.0, [layers, width]),
                constant(0.0, [layers, width]),
            ]
        };
        [stage(1), stage(2)].into_iter().flatten().collect()
    }

    /// Takes tokens' inputs and gradients, of its layers among others, into mean and deviation.
    pub(super) fn learn(&mut self, rows: &Rows) {
        let width = self.width();
        for row in self
            .layers
            .iter()
            .flat_map(|path| rows[path].chunks_exact(width))
        {
            self.statistics.add(row);
        }
    }

    /// Rows less the mean, divided by the deviation.
    pub(super) fn standardised(&self, rows: &[f32]) -> Vec<f32> {
        let row = |row: &[f32]| self.statistics.standardised(row);
        rows.chunks_exact(self.width()).flat_map(row).collect()
    }

    /// What the network makes of standardised rows `[tokens, inputs + outputs]` of its layer `place`: `[tokens, inputs]`
    /// and `[tokens, outputs]`.
    pub(super) fn forward(
        &self,
        parts: &[Tensor<2>],
        place: usize,
        z: Tensor<2>,
    ) -> (Tensor<2>, Tensor<2>) {
        let h = z.clone() + open(change(&parts[..PARTS / 2], place, z));
        let made = h.clone() + change(&parts[PARTS / 2..], place, h);
        let [inputs, outputs] = self.sizes;
        (
            made.clone().narrow(1, 0, inputs),
            made.narrow(1, inputs, outputs),
        )
    }
}

/// `s ⊙ (U V z + b) + o`.
fn change(parts: &[Tensor<2>], place: usize, z: Tensor<2>) -> Tensor<2> {
    let [v, u, bias, scale, offset] = [0, 1, 2, 3, 4].map(|part| parts[part].clone());
    let made = z.matmul(v.transpose()).matmul(u.transpose()) + bias;
    made * scale.narrow(0, place, 1) + offset.narrow(0, place, 1)
}

/// A rectifier whose slope at 0, where all begins, is 1.
fn open(x: Tensor<2>) -> Tensor<2> {
    let shut = x.clone().lower_elem(0.0);
    x.mask_fill(shut, 0.0)
}

impl Statistics {
    fn add(&mut self, row: &[f32]) {
        self.count += 1.0;
        let both = self.mean.iter_mut().zip(&mut self.squares);
        for ((mean, squares), x) in both.zip(row) {
            let before = f64::from(*x) - *mean;
            *mean += before / self.count;
            *squares += before * (f64::from(*x) - *mean);
        }
    }

    fn standardised(&self, row: &[f32]) -> Vec<f32> {
        let known = self.mean.iter().zip(&self.squares);
        let one = |((mean, squares), x): ((&f64, &f64), &f32)| {
            let deviation = (squares / (self.count - 1.0).max(1.0)).sqrt();
            ((f64::from(*x) - mean) / (deviation + 1e-7)) as f32
        };
        known.zip(row).map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelsmith_core::parameters::to_vec;

    fn network() -> Network {
        let mut network = Network::new([2, 1]);
        network.layers = vec!["a".into(), "b".into()];
        network
    }

    #[test]
    fn rows_are_standardised_by_all_that_was_seen() {
        let mut network = network();
        let rows = |rows: &[f32]| rows.to_vec();
        network.learn(&Rows::from([
            ("a".into(), rows(&[1.0, 5.0, 0.0, 2.0, 5.0, 4.0])),
            ("b".into(), rows(&[3.0, 5.0, 8.0])),
            ("of another".into(), rows(&[9.0])),
        ]));
        let found = network.standardised(&[3.0, 5.0, 0.0]);
        // Means 2, 5, 4; deviations 1, 0, 4.
        for (found, wanted) in found.iter().zip([1.0, 0.0, -1.0]) {
            assert!((found - wanted).abs() < 1e-5, "{found}");
        }
    }

    #[test]
    fn a_fresh_network_passes_rows_on_and_every_part_that_may_learn_has_a_gradient() {
        let network = network();
        let device = Device::flex();
        let parts = network.start(2, 0, 0, &device);
        let leaves: Vec<Tensor<2>> = parts
            .iter()
            .map(|part| modelsmith_core::parameters::trained(part.tensor::<2>().unwrap()).val())
            .collect();
        let z = Tensor::<2>::from_floats([[1.0, -2.0, 3.0]], &device);
        let (u, delta) = network.forward(&leaves, 1, z);
        assert_eq!(to_vec(u.clone().without_autodiff()), [1.0, -2.0]);
        assert_eq!(to_vec(delta.clone().without_autodiff()), [3.0]);
        let gradients = (u.square().sum() + delta.square().sum()).backward();
        // U₁ and U₂ begin to move although they stand at 0.
        for part in [1, 6] {
            let gradient = to_vec(leaves[part].grad(&gradients).unwrap());
            assert!(gradient.iter().any(|x| *x != 0.0), "part {part}");
        }
    }
}
