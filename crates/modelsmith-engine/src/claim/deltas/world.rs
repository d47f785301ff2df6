//! The images, the network before, and after it was trained on.

use super::super::arms::Bench;
use super::super::file::Tier;
use super::{Deltas, Training};
use crate::adapter_folder;
use crate::signals::Stop;
use crate::vision::{Fit, Gradient, fit, mean_gradient};
use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::DType;
use modelsmith_core::host::Host;
use modelsmith_core::parameters::{Flat, Parameters};
use modelsmith_data::images::{ImageSet, ImageSource, Normalisation};
use modelsmith_hosts::{ConvNet, ConvNetConfig, save};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Seed of the network that all seeds begin from.
const BEFORE: u64 = 0;

/// Classes of the images.
const CLASSES: usize = 10;

/// Images and networks.
pub(super) struct World {
    pub(super) deltas: Deltas,
    pub(super) before: ConvNet,
    pub(super) hash: String,
    /// In opposite colours, as the test.
    pub(super) development: ImageSet,
    pub(super) test: ImageSet,
    pub(super) by: Normalisation,
    trained_on: ImageSet,
    folder: PathBuf,
    /// The networks that were trained on, by seed.
    after: Mutex<BTreeMap<u64, Arc<After>>>,
}

/// A network that was trained on.
pub(super) struct After {
    pub(super) net: ConvNet,
    /// `W_after - W_before`.
    pub(super) delta: Gradient,
    /// Of the loss on development images.
    pub(super) gradient: Gradient,
}

impl World {
    pub(super) fn open(bench: &Bench, deltas: &Deltas) -> Result<Self> {
        let device = crate::device::device(&bench.device)?;
        let source = |path: &Path| {
            Ok::<_, Error>(ImageSource {
                path: bench.path(path)?,
                classes: CLASSES,
                size: deltas.size,
                ..ImageSource::default()
            })
        };
        let share = match bench.tier {
            Tier::Smoke => deltas.smoke,
            Tier::Full => 1.0,
        };
        let train = source(&deltas.train)?;
        // Parts begin where those in front of them end in the full tier.
        let part = |first: usize, images: usize| {
            let count = ((images as f64 * share) as usize).max(1);
            train.read(first..first + count)
        };
        let [first, second] = [&deltas.before, &deltas.after].map(|training| training.images);
        let plain = part(0, first)?;
        let trained_on = part(first, second)?.inverted();
        let development = part(first + second, deltas.development)?.inverted();
        let test = source(&deltas.test)?;
        let test = test.read(0..limit(bench, test.rows()?))?.inverted();
        let by = Normalisation::CENTRED;
        let folder = bench.runs.clone();
        let config = ConvNetConfig {
            image_size: deltas.size,
            ..ConvNetConfig::default()
        };
        let begin = || ConvNet::random(config.clone(), BEFORE, &device);
        let training = (&deltas.before.fit, BEFORE, bench.stop);
        let key = json!([config, plain.hash(), deltas.before]);
        let path = place(&folder, "before", &key);
        let before = kept(&path, &device, begin, (&plain, &by), training)?;
        Ok(Self {
            deltas: deltas.clone(),
            hash: adapter_folder::base_hash(&path)?,
            before,
            development,
            test,
            by,
            trained_on,
            folder,
            after: Mutex::default(),
        })
    }

    /// All that scores depend on, beside the network before.
    pub(super) fn key(&self) -> Value {
        json!([
            self.deltas.after,
            self.trained_on.hash(),
            self.development.hash(),
            self.test.hash()
        ])
    }

    /// The network trained on under a seed: made once.
    pub(super) fn after(&self, seed: u64, stop: &Stop) -> Result<Arc<After>> {
        let mut held = self.after.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(after) = held.get(&seed) {
            return Ok(after.clone());
        }
        let Training { fit, .. } = &self.deltas.after;
        let key = json!([self.hash, self.trained_on.hash(), fit, seed]);
        let path = place(&self.folder, "after", &key);
        let begin = || Ok(self.before.clone());
        let images = (&self.trained_on, &self.by);
        let net = kept(
            &path,
            &self.before.device(),
            begin,
            images,
            (fit, seed, stop),
        )?;
        let after = Arc::new(After {
            delta: difference(&net, &self.before),
            gradient: mean_gradient(&mut net.clone(), &self.development, &self.by)?,
            net,
        });
        held.insert(seed, after.clone());
        Ok(after)
    }

    /// A network of other weights, by name; the rest are those of `net`.
    pub(super) fn with(&self, net: &ConvNet, weights: &Gradient) -> ConvNet {
        let mut changed = net.clone();
        let device = net.device();
        changed.replace(&mut |name, old| {
            let values = weights.get(name)?.clone();
            Some(Flat::from_vec(values, &old.shape, &device))
        });
        changed
    }
}

/// `W - W_base`, by name.
fn difference(net: &ConvNet, base: &ConvNet) -> Gradient {
    let pairs = net.parameters().into_iter().zip(base.parameters());
    let deltas = pairs.map(|(after, before)| {
        let values = after.value.to_vec().into_iter().zip(before.value.to_vec());
        (after.name, values.map(|(w, base)| w - base).collect())
    });
    deltas.collect()
}

/// Test images read at most.
fn limit(bench: &Bench, rows: usize) -> usize {
    match bench.experiment.budget(bench.tier).items {
        0 => rows,
        most => most.min(rows),
    }
}

/// The folder of a network, named after all that it depends on.
fn place(folder: &Path, name: &str, key: &Value) -> PathBuf {
    let all = json!([key, env!("CARGO_PKG_VERSION")]).to_string();
    let hash = blake3::hash(all.as_bytes()).to_hex();
    folder.join(format!("{name}-{}", &hash[..12]))
}

/// A trained network: read where it is there, made and kept otherwise.
fn kept(
    folder: &Path,
    device: &Device,
    begin: impl FnOnce() -> Result<ConvNet>,
    (images, by): (&ImageSet, &Normalisation),
    (how, seed, stop): (&Fit, u64, &Stop),
) -> Result<ConvNet> {
    if !folder.join("model.safetensors").is_file() {
        let mut net = begin()?;
        fit(&mut net, images, by, how, seed, stop)?;
        let unchanged = |_: &str| Ok(None);
        save(&net, folder, DType::F32, u64::MAX, &unchanged, &Map::new())?;
    }
    ConvNet::load(folder, device)
}
