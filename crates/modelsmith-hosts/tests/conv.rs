//! Convolutional networks: their weights in and out, hooks at their sites, and gradients.

use burn::tensor::{Device, Tensor, TensorData};
use modelsmith_core::files::DType;
use modelsmith_core::hooks::{ConvCall, Hooks, LinearCall, Pass};
use modelsmith_core::host::{Host, ImageHost};
use modelsmith_core::parameters::{Flat, Parameters, to_vec};
use modelsmith_core::random::Stream;
use modelsmith_hosts::{ConvNet, ConvNetConfig, save};
use serde_json::Map;
use std::path::Path;
use std::sync::Mutex;

fn config() -> ConvNetConfig {
    ConvNetConfig {
        image_size: [8, 4],
        conv_sizes: vec![4, 6],
        num_groups: 2,
        hidden_sizes: vec![5],
        num_labels: 3,
        ..ConvNetConfig::default()
    }
}

fn net(seed: u64) -> ConvNet {
    ConvNet::random(config(), seed, &Device::flex()).unwrap()
}

fn images(count: usize, [channels, height, width]: [usize; 3]) -> Tensor<4> {
    let length = count * channels * height * width;
    let values = Stream::new(3, "images").normal(length, 0.0, 1.0);
    let data = TensorData::new(values, [count, channels, height, width]);
    Tensor::from_data(data, &Device::flex())
}

fn logits(net: &ConvNet, hooks: &[&dyn Hooks]) -> Vec<f32> {
    let found = net.logits(images(2, net.input()), &Pass::default(), hooks);
    to_vec(found.unwrap())
}

fn write(net: &ConvNet, folder: &Path) {
    save(
        net,
        folder,
        DType::F32,
        u64::MAX,
        &|_| Ok(None),
        &Map::new(),
    )
    .unwrap();
}

#[test]
fn weights_go_out_and_in_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let net = net(1);
    write(&net, folder.path());
    let again = ConvNet::load(folder.path(), &Device::flex()).unwrap();
    assert_eq!(logits(&net, &[]), logits(&again, &[]));
    let names = again.weight_names();
    assert_eq!(names.len(), 2 * 4 + 2 + 2);
    assert_eq!(names[0], "blocks.0.conv.weight");
    assert_eq!(again.weight("blocks.1.norm.bias").unwrap().shape, [6]);
    assert_eq!(again.weight("layers.0.weight").unwrap().shape, [5, 12]);
    assert_eq!(again.weight("classifier.bias").unwrap().shape, [3]);
    assert_ne!(logits(&net, &[]), logits(&self::net(2), &[]));
}

#[test]
fn what_is_no_such_network_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut net = net(1);
    write(&net, folder.path());
    let path = folder.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, expected) in [
        (
            "\"num_groups\": 2",
            "\"num_groups\": 4",
            "which 4 groups do not divide",
        ),
        (
            "\"num_labels\": 3",
            "\"num_labels\": 4",
            "tensor classifier.weight has shape [3, 5]; expected [4, 5]",
        ),
        ("\"norm_eps\"", "\"norm_epsilon\"", "norm_epsilon"),
        ("\"convnet\"", "\"resnet\"", "expected \"convnet\""),
        ("[\n    5\n  ]", "[5, 5]", "no tensor"),
        ("[\n    5\n  ]", "[]", "tensor classifier.weight has shape"),
        ("    8,\n    4\n", "    8,\n    6\n", "2^2 must divide them"),
    ] {
        assert!(text.contains(from), "{from}\n{text}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = ConvNet::load(folder.path(), &Device::flex()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let wrong = Flat::from_vec(vec![0.0; 3], &[3], &Device::flex());
    let error = net.set_weight("clasifier.bias", &wrong).unwrap_err();
    assert!(
        error.to_string().contains("did you mean classifier.bias"),
        "{error}"
    );
    let error = net.set_weight("layers.0.bias", &wrong).unwrap_err();
    assert!(error.to_string().contains("has shape [5]"), "{error}");
    let error = net.logits(images(1, [3, 8, 8]), &Pass::default(), &[]);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("[3, 8, 8]") && error.contains("[3, 8, 4]"),
        "{error}"
    );
}

/// Notes the sites it passes, and takes the output of one away.
struct Probe {
    seen: Mutex<Vec<String>>,
    silent: &'static str,
}

impl Hooks for Probe {
    fn conv(&self, call: ConvCall<'_>, x: Tensor<4>) -> Tensor<4> {
        let path = call.site.path.clone();
        let y = call.run(x);
        let factor = f64::from(u8::from(path != self.silent));
        self.seen.lock().unwrap().push(path);
        y * factor
    }

    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let path = call.site.path.clone();
        let y = call.run(x);
        let factor = f64::from(u8::from(path != self.silent));
        self.seen.lock().unwrap().push(path);
        y * factor
    }
}

#[test]
fn hooks_see_and_change_every_site() {
    let net = net(1);
    let run = |silent| {
        let probe = Probe {
            seen: Mutex::default(),
            silent,
        };
        let found = logits(&net, &[&probe]);
        let sites: Vec<String> = net.sites().iter().map(|site| site.path.clone()).collect();
        assert_eq!(*probe.seen.lock().unwrap(), sites);
        found
    };
    assert_eq!(run(""), logits(&net, &[]));
    assert_eq!(run("classifier"), [0.0; 6]);
    assert_ne!(run("blocks.1.conv"), logits(&net, &[]));
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let mut net = net(1);
    let loss = |net: &ConvNet| {
        let found = net.logits(images(3, net.input()), &Pass::default(), &[]);
        found.unwrap().square().sum()
    };
    net.set_trainable(&|_| true);
    let gradients = net.take_gradients(&mut loss(&net).backward());
    assert_eq!(gradients.len(), net.weight_names().len());
    net.set_trainable(&|_| false);
    for name in net.weight_names() {
        let weight = net.weight(&name).unwrap();
        let along = Stream::new(5, &name).normal(weight.len(), 0.0, 1.0);
        // Kinks of ReLU and of the maximum lie within a longer step.
        let step = 1e-4;
        let at = |sign: f32| {
            let mut moved = net.clone();
            let values = weight.to_vec();
            let pairs = values.iter().zip(&along);
            let values = pairs.map(|(w, a)| w + sign * step * a).collect();
            let value = Flat::from_vec(values, &weight.shape, &Device::flex());
            moved.set_weight(&name, &value).unwrap();
            f64::from(to_vec(loss(&moved))[0])
        };
        let found = (at(1.0) - at(-1.0)) / f64::from(2.0 * step);
        let pairs = gradients[&name].to_vec().into_iter().zip(&along);
        let expected: f64 = pairs.map(|(g, a)| f64::from(g * a)).sum();
        let scale = gradients[&name].to_vec().iter().map(|g| g * g).sum::<f32>();
        let error = (found - expected).abs();
        assert!(
            error < 2e-3 * (1.0 + f64::from(scale.sqrt())),
            "{name}: {found} {expected}"
        );
    }
}
