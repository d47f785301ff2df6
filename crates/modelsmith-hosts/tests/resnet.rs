//! Residual networks: their weights in and out, sites, and shortcuts.

use burn::tensor::{Device, Tensor, TensorData};
use modelsmith_core::files::DType;
use modelsmith_core::hooks::{BatchNormCall, ConvCall, Hooks, Pass};
use modelsmith_core::host::{Host, ImageHost};
use modelsmith_core::parameters::{Flat, Parameters, to_vec};
use modelsmith_core::random::Stream;
use modelsmith_core::sites::SiteKind;
use modelsmith_hosts::{ResNet, ResNetConfig, save};
use serde_json::Map;
use std::sync::Mutex;

fn net(seed: u64) -> ResNet {
    let config = ResNetConfig {
        image_size: [8, 8],
        num_blocks: 2,
        num_labels: 3,
        ..ResNetConfig::default()
    };
    ResNet::random(config, seed, &Device::flex()).unwrap()
}

fn logits(net: &ResNet, hooks: &[&dyn Hooks]) -> Vec<f32> {
    let [channels, height, width] = net.input();
    let values = Stream::new(3, "images").normal(2 * channels * height * width, 0.0, 1.0);
    let data = TensorData::new(values, [2, channels, height, width]);
    let images = Tensor::from_data(data, &Device::flex());
    to_vec(net.logits(images, &Pass::default(), hooks).unwrap())
}

#[test]
fn weights_go_out_and_in_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let net = net(1);
    let unchanged = |_: &str| Ok(None);
    save(
        &net,
        folder.path(),
        DType::F32,
        u64::MAX,
        &unchanged,
        &Map::new(),
    )
    .unwrap();
    let again = ResNet::load(folder.path(), &Device::flex()).unwrap();
    assert_eq!(logits(&net, &[]), logits(&again, &[]));
    // The weights alone say all but the size of the images.
    let file = folder.path().join("model.safetensors");
    let alone = ResNet::load(&file, &Device::flex()).unwrap();
    assert_eq!(alone.config().num_blocks, 2);
    assert_eq!(alone.input(), [3, 32, 32]);
    let names = again.weight_names();
    assert_eq!(names.len(), 13 * 5 + 2);
    assert!(names.contains(&"layer2.0.bn1.running_var".to_owned()));
    assert!(!again.learns("bn1.running_mean") && again.learns("bn1.weight"));
    let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    let text = text.as_str();
    let deeper = text.replace("\"num_blocks\": 2", "\"num_blocks\": 3");
    std::fs::write(folder.path().join("config.json"), deeper).unwrap();
    let error = ResNet::load(folder.path(), &Device::flex()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no tensor `layer1.2.conv1.weight`"),
        "{error}"
    );
    let shallower = text.replace("\"num_blocks\": 2", "\"num_blocks\": 1");
    std::fs::write(folder.path().join("config.json"), shallower).unwrap();
    let error = ResNet::load(folder.path(), &Device::flex()).unwrap_err();
    assert!(
        error.to_string().contains("which the network has not"),
        "{error}"
    );
}

/// Notes the sites it passes, and silences the norms of one kind.
struct Probe {
    seen: Mutex<Vec<(String, SiteKind)>>,
    silent: &'static str,
}

impl Hooks for Probe {
    fn conv(&self, call: ConvCall<'_>, x: Tensor<4>) -> Tensor<4> {
        let site = (call.site.path.clone(), call.site.kind);
        self.seen.lock().unwrap().push(site);
        call.run(x)
    }

    fn batch_norm(&self, call: BatchNormCall<'_>, x: Tensor<4>) -> Tensor<4> {
        let site = (call.site.path.clone(), call.site.kind);
        self.seen.lock().unwrap().push(site);
        if call.site.path.ends_with(self.silent) {
            return x.zeros_like();
        }
        let layer = call.layer;
        // What a hook that knows better statistics does.
        layer.by(x, layer.running_mean.val(), layer.running_var.val())
    }
}

#[test]
fn hooks_see_every_convolution_and_norm() {
    let net = net(1);
    let probe = |silent| Probe {
        seen: Mutex::default(),
        silent,
    };
    let plain = probe("nothing");
    assert_eq!(logits(&net, &[&plain]), logits(&net, &[]));
    let sites = net.sites().iter();
    let expected: Vec<_> = sites.map(|site| (site.path.clone(), site.kind)).collect();
    assert_eq!(
        plain.seen.lock().unwrap()[..],
        expected[..expected.len() - 1]
    );
    // With silent second norms only shortcuts are left: the first convolution, thinned out.
    let without = probe("bn2");
    let found = logits(&net, &[&without]);
    let mut altered = net.clone();
    let weight = altered.weight("layer3.1.conv1.weight").unwrap();
    let zeros = Flat::from_vec(vec![0.0; weight.len()], &weight.shape, &Device::flex());
    altered.set_weight("layer3.1.conv1.weight", &zeros).unwrap();
    assert_eq!(found, logits(&altered, &[&without]));
    assert_ne!(found, logits(&net, &[]));
}

#[test]
fn what_training_learns_has_gradients() {
    let mut net = net(1);
    let learnt: Vec<String> = net.weight_names();
    let learnt: Vec<String> = learnt.into_iter().filter(|name| net.learns(name)).collect();
    net.set_trainable(&|name| learnt.iter().any(|one| one == name));
    let [channels, height, width] = net.input();
    let images = Tensor::<4>::ones([1, channels, height, width], &Device::flex());
    let found = net.logits(images, &Pass::default(), &[]).unwrap();
    let gradients = net.take_gradients(&mut found.square().sum().backward());
    assert_eq!(gradients.len(), 13 * 3 + 2);
}
