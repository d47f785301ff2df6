//! Networks of real weights on real images, from the folder named by `MODELSMITH_DATA`; skipped where it is absent.

use burn::tensor::Device;
use modelsmith_core::files::read_json;
use modelsmith_data::images::{ImageSet, ImageSource, Normalisation, Picture};
use modelsmith_engine::recipe::data_folder;
use modelsmith_engine::vision::measure;
use modelsmith_hosts::ResNet;
use std::path::PathBuf;

/// A path in the data folder, if it is there.
fn data(path: &str) -> Option<PathBuf> {
    let found = data_folder().ok()?.join(path);
    if found.exists() {
        return Some(found);
    }
    eprintln!("skipped: no data");
    None
}

fn accuracy(net: &ResNet, set: &ImageSet) -> f64 {
    let found = measure(net, set, &Normalisation::IMAGENET).unwrap();
    found.exact.iter().sum::<f64>() / found.exact.len() as f64
}

#[test]
fn a_published_network_is_as_good_as_it_is_said_to_be() {
    let (Some(weights), Some(test), Some(lossless)) = (
        data("vision/resnet_cifar10/resnet20_cifar10.safetensors"),
        data("images/cifar10/test.parquet"),
        data("images/cifar10_lossless"),
    ) else {
        return;
    };
    let net = ResNet::load(&weights, &Device::flex()).unwrap();
    let source = ImageSource {
        path: test,
        ..ImageSource::default()
    };
    // Of all 10,000 it knows 81.10 %, in PyTorch 81.03 %: another JPEG decoder rounds a few images over an edge. Of 2,000
    // the share has a deviation of 0.9 %.
    let found = accuracy(&net, &source.read(0..2000).unwrap());
    assert!((found - 0.811).abs() < 0.025, "{found}");
    let labels: Vec<usize> = read_json(lossless.join("labels_by_match.json")).unwrap();
    // A row of a strip is an image of 32 by 32 pixels.
    let strip = Picture::open(lossless.join("cifar10_batch_0.png")).unwrap();
    let rows = strip.pixels.chunks_exact(strip.width * 3);
    let pictures = rows.map(|row| Picture {
        width: 32,
        height: 32,
        pixels: row.to_vec(),
    });
    let pictures: Vec<Picture> = pictures.collect();
    let labels = labels[..pictures.len()].to_vec();
    let set = ImageSet::new(&pictures, labels, [32, 32]).unwrap();
    let found = accuracy(&net, &set);
    assert!(found > 0.995, "{found}");
}
