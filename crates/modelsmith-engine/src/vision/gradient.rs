//! Gradients of a loss in all weights of a network, and the diagonal of its Fisher information.

use super::{TOGETHER, learnt, logits, losses};
use crate::pool::within;
use burn::tensor::Tensor;
use modelsmith_core::error::Result;
use modelsmith_core::host::ImageHost;
use modelsmith_core::parameters::{Flat, to_vec};
use modelsmith_core::random::Stream;
use modelsmith_data::images::{ImageBatch, ImageSet, Normalisation};
use std::collections::BTreeMap;

/// A number for every weight, by its tensor's name.
pub type Gradient = BTreeMap<String, Vec<f32>>;

/// The gradient of the mean loss over a set.
///
/// # Errors
/// Images of another size.
pub fn mean_gradient(
    host: &mut dyn ImageHost,
    set: &ImageSet,
    by: &Normalisation,
) -> Result<Gradient> {
    let mut sums = BTreeMap::new();
    trainable(host, |host| {
        for batch in set.batches(TOGETHER, by) {
            let share = 1.0 / set.len() as f64;
            let of_batch = gradient(host, &batch, |_| batch.labels.clone())?;
            add(&mut sums, of_batch, |values| values.mul_scalar(share));
        }
        Ok(())
    })?;
    Ok(numbers(sums))
}

/// The diagonal of the Fisher information, `E[(∂ log p(y|x) / ∂w)²]`: images of the set, classes drawn from what the
/// network itself expects, one for each image. Near a minimum it is the diagonal of the loss's second derivative, without
/// the part that vanishes there.
///
/// # Errors
/// Images of another size.
pub fn fisher_diagonal(
    host: &mut dyn ImageHost,
    set: &ImageSet,
    by: &Normalisation,
    seed: u64,
) -> Result<Gradient> {
    let mut stream = Stream::new(seed, "vision/fisher");
    let mut sums = BTreeMap::new();
    trainable(host, |host| {
        // The gradients of images are squared one by one, so they cannot be computed together.
        for batch in set.batches(1, by) {
            let share = 1.0 / set.len() as f64;
            let at = stream.unit();
            let of_image = gradient(host, &batch, |logits| vec![drawn(logits, at)])?;
            add(&mut sums, of_image, |values| {
                values.square().mul_scalar(share)
            });
        }
        Ok(())
    })?;
    Ok(numbers(sums))
}

/// Makes the weights that training learns trainable for a while.
fn trainable(
    host: &mut dyn ImageHost,
    work: impl FnOnce(&dyn ImageHost) -> Result<()>,
) -> Result<()> {
    let learnt = learnt(host);
    host.set_trainable(&|name| learnt.contains(name));
    let done = work(host);
    host.set_trainable(&|_| false);
    done
}

/// Gradients of the summed loss of a batch, with classes that may depend on the logits.
fn gradient(
    host: &dyn ImageHost,
    batch: &ImageBatch,
    classes: impl FnOnce(Tensor<2>) -> Vec<usize> + Send,
) -> Result<BTreeMap<String, Flat>> {
    within(|| {
        let logits = logits(host, batch)?;
        let classes = classes(logits.clone().without_autodiff());
        let loss = losses(logits, &classes, &host.device()).sum();
        Ok(host.take_gradients(&mut loss.backward()))
    })
}

/// The class in whose part of the probabilities `at`, in [0, 1), falls.
fn drawn(logits: Tensor<2>, at: f64) -> usize {
    let scores: Vec<f64> = to_vec(logits).into_iter().map(f64::from).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let parts: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
    let mut left = at * parts.iter().sum::<f64>();
    for (class, part) in parts.iter().enumerate() {
        left -= part;
        if left < 0.0 {
            return class;
        }
    }
    parts.len() - 1
}

fn add(
    sums: &mut BTreeMap<String, Flat>,
    found: BTreeMap<String, Flat>,
    term: impl Fn(Tensor<1>) -> Tensor<1>,
) {
    for (name, mut flat) in found {
        flat.values = term(flat.values);
        match sums.get_mut(&name) {
            Some(sum) => sum.change(|values| values + flat.values),
            None => {
                sums.insert(name, flat);
            }
        }
    }
}

fn numbers(sums: BTreeMap<String, Flat>) -> Gradient {
    sums.into_iter()
        .map(|(name, flat)| (name, flat.to_vec()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Fit, fit, measure};
    use super::*;
    use crate::signals::Stop;
    use burn::tensor::Device;
    use modelsmith_core::host::Host;
    use modelsmith_data::images::Picture;
    use modelsmith_hosts::{ConvNet, ConvNetConfig};

    /// Pictures of three colours, of which the brightest is the class.
    fn set(count: usize) -> ImageSet {
        let mut stream = Stream::new(1, "pictures");
        let labels: Vec<usize> = (0..count).map(|at| at % 3).collect();
        let picture = |label: &usize| {
            let value = |at: usize| {
                let noise = stream.below(120) as u8;
                noise + if at % 3 == *label { 120 } else { 0 }
            };
            Picture {
                width: 4,
                height: 4,
                pixels: (0..48).map(value).collect(),
            }
        };
        let pictures: Vec<Picture> = labels.iter().map(picture).collect();
        ImageSet::new(&pictures, labels, [4, 4]).unwrap()
    }

    fn net() -> ConvNet {
        let config = ConvNetConfig {
            image_size: [4, 4],
            conv_sizes: vec![4],
            num_groups: 2,
            hidden_sizes: vec![],
            num_labels: 3,
            ..ConvNetConfig::default()
        };
        ConvNet::random(config, 1, &Device::flex()).unwrap()
    }

    #[test]
    fn a_network_learns_and_the_same_seed_gives_the_same_weights() {
        let (set, by) = (set(60), Normalisation::CENTRED);
        let fitted = |seed| {
            let mut net = net();
            let options = Fit {
                epochs: 10,
                batch_size: 16,
                learning_rate: 1e-2,
                ..Fit::default()
            };
            fit(&mut net, &set, &by, &options, seed, &Stop::default()).unwrap();
            net
        };
        let before = measure(&net(), &set, &by).unwrap();
        let net = fitted(1);
        let after = measure(&net, &set, &by).unwrap();
        assert!(after.mean_loss() < 0.5 * before.mean_loss());
        assert!(after.exact.iter().sum::<f64>() > 54.0);
        let weight = |net: &ConvNet| net.weight("blocks.0.conv.weight").unwrap().to_vec();
        assert_eq!(weight(&net), weight(&fitted(1)));
        assert_ne!(weight(&net), weight(&fitted(2)));
    }

    #[test]
    fn labels_that_the_network_has_not_are_refused() {
        let pictures = [Picture {
            width: 4,
            height: 4,
            pixels: vec![0; 48],
        }];
        let set = ImageSet::new(&pictures, vec![3], [4, 4]).unwrap();
        let by = Normalisation::CENTRED;
        let found = fit(&mut net(), &set, &by, &Fit::default(), 1, &Stop::default());
        let error = found.unwrap_err().to_string();
        assert!(
            error.contains("Some(3)") && error.contains("3 classes"),
            "{error}"
        );
    }

    #[test]
    fn the_fisher_diagonal_is_the_second_derivative_of_what_the_network_expects() {
        // In the last bias the Fisher information of one image is p (1 - p), by class.
        let (mut net, by) = (net(), Normalisation::CENTRED);
        let one = set(1);
        let many: Vec<Picture> = (0..2000)
            .map(|_| Picture {
                width: 4,
                height: 4,
                pixels: one.pixels(0).to_vec(),
            })
            .collect();
        let many = ImageSet::new(&many, vec![0; 2000], [4, 4]).unwrap();
        let fisher = fisher_diagonal(&mut net, &many, &by, 3).unwrap();
        let batch = one.batch(&[0], &by);
        let scores = to_vec(logits(&net, &batch).unwrap());
        let sum: f32 = scores.iter().map(|score| score.exp()).sum();
        for (found, score) in fisher["classifier.bias"].iter().zip(scores) {
            let p = score.exp() / sum;
            assert!((found - p * (1.0 - p)).abs() < 0.02, "{found} {p}");
        }
    }
}
