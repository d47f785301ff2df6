//! Pictures against Pillow's values (`parity/images/make.py`), and files that are no pictures.

use std::path::{Path, PathBuf};

use modelsmith_data::images::{ImageSet, ImageSource, Normalisation, Picture, epoch_order};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/images");
    folder.join(name)
}

fn expected() -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture("resized.json")).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::from_value(value.clone()).unwrap()
}

fn source(name: &str, size: [usize; 2]) -> ImageSource {
    ImageSource {
        path: fixture(name),
        size,
        ..ImageSource::default()
    }
}

#[test]
fn resizing_gives_the_values_of_pillow() {
    let cases = expected();
    let cases = cases["resized"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let size = |key: &str, at: usize| case[key][at].as_u64().unwrap() as usize;
        let picture = Picture {
            width: size("from", 0),
            height: size("from", 1),
            pixels: bytes(&case["pixels"]),
        };
        let resized = picture.resized(size("to", 0), size("to", 1));
        assert_eq!(resized.pixels, bytes(&case["resized"]), "{:?}", case["to"]);
    }
}

#[test]
fn png_and_webp_decode_exactly_and_jpeg_to_a_few_levels() {
    let expected = expected();
    let set = source("pictures.parquet", [16, 24]).read(0..4).unwrap();
    assert_eq!(set.labels(), [0, 1, 2, 3]);
    for (number, decoded) in expected["decoded"].as_array().unwrap().iter().enumerate() {
        let pairs = set.pixels(number).iter().zip(bytes(decoded));
        let worst = pairs.map(|(ours, theirs)| ours.abs_diff(theirs)).max();
        // Two decoders of JPEG round their transforms and colours differently.
        let bound = if number % 2 == 0 { 0 } else { 3 };
        assert!(worst.unwrap() <= bound, "{number}: {worst:?}");
    }
}

#[test]
fn rows_that_are_no_pictures_are_refused_by_number() {
    let source = source("broken.parquet", [8, 8]);
    assert_eq!(source.rows().unwrap(), 6);
    for (row, expected) in [
        (0, "row 1: image is no whole picture"),
        (1, "row 2: image begins with [6e, 6f"),
        (2, "row 3: label is 12; expected a class 0 to 9"),
        (3, "row 4: label is null; expected the number of a class"),
        (4, "row 5: image holds no bytes; expected a picture"),
        (5, "row 6: image holds no bytes; expected a PNG"),
    ] {
        let error = source.read(row..row + 1).unwrap_err().to_string();
        assert!(error.contains("broken.parquet: "), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    let error = source.read(4..9).unwrap_err().to_string();
    assert!(
        error.contains("has 6 rows; rows 5 to 9 are wanted"),
        "{error}"
    );
}

#[test]
fn files_that_are_no_tables_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(fixture("pictures.parquet")).unwrap();
    let path = folder.path().join("cut.parquet");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let source = ImageSource {
            path: path.clone(),
            ..ImageSource::default()
        };
        source.read(0..4).map(|_| ()).unwrap_err().to_string()
    };
    assert!(read(&whole[..whole.len() - 9]).contains("is not a readable Parquet file"));
    let mut damaged = whole;
    damaged[200..1200].fill(0x5a);
    assert!(read(&damaged).contains("cut.parquet"));
    let other = ImageSource {
        image: "picture".into(),
        ..source("pictures.parquet", [8, 8])
    };
    let error = other.read(0..1).unwrap_err().to_string();
    assert!(error.contains("expected one named \"picture\""), "{error}");
}

#[test]
fn a_batch_is_normalised_channel_by_channel() {
    let picture = Picture {
        width: 2,
        height: 1,
        pixels: vec![0, 51, 255, 255, 102, 0],
    };
    let set = ImageSet::new(std::slice::from_ref(&picture), vec![3], [1, 2]).unwrap();
    let batch = set.batch(&[0], &Normalisation::CENTRED);
    assert_eq!((batch.shape, batch.labels), ([1, 3, 1, 2], vec![3]));
    let expected = [-1.0, 1.0, -0.6, -0.2, 1.0, -1.0];
    for (value, expected) in batch.values.iter().zip(expected) {
        assert!((value - expected).abs() < 1e-6, "{value} {expected}");
    }
    assert_eq!(set.clone().inverted().pixels(0), [255, 204, 0, 0, 153, 255]);
    assert_eq!(set.clone().inverted().inverted(), set);
    assert!(ImageSet::new(&[picture], Vec::new(), [1, 2]).is_err());
}

#[test]
fn an_epoch_has_every_picture_once_in_an_order_of_its_own() {
    let order = epoch_order(50, 1, 0);
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    assert_eq!(order, epoch_order(50, 1, 0));
    assert_ne!(order, epoch_order(50, 1, 1));
    assert_ne!(order, epoch_order(50, 2, 0));
    let set = source("pictures.parquet", [4, 4]).read(0..4).unwrap();
    let sizes: Vec<usize> = set
        .batches(3, &Normalisation::IMAGENET)
        .map(|batch| batch.labels.len())
        .collect();
    assert_eq!(sizes, [3, 1]);
}
