use super::*;

const FEATURES: [[f32; 4]; 12] = [
    [0.126, -0.132, 0.64, 0.105],
    [-0.536, 0.362, 1.304, 0.947],
    [-0.704, -1.265, -0.623, 0.041],
    [-2.325, -0.219, -1.246, -0.732],
    [-0.544, -0.316, 0.412, 1.043],
    [-0.129, 1.366, -0.665, 0.352],
    [0.903, 0.094, -0.743, -0.922],
    [-0.458, 0.22, -1.01, -0.209],
    [-0.159, 0.541, 0.215, 0.355],
    [-0.654, -0.13, 0.784, 1.493],
    [-1.259, 1.514, 1.346, 0.781],
    [0.264, -0.314, 1.458, 1.96],
];

fn examples() -> Examples {
    Examples {
        features: FEATURES.iter().map(|row| row.to_vec()).collect(),
        classes: (0..12).map(|text| text % 2).collect(),
    }
}

/// Two clouds of texts whose classes differ along the first axis.
fn clouds(count: usize) -> Examples {
    let mut stream = Stream::new(1, "clouds");
    let classes: Vec<usize> = (0..count).map(|text| text % 2).collect();
    let features = classes.iter().map(|class| {
        let mut row = stream.normal(8, 0.0, 1.0);
        row[0] += if *class == 1 { 2.5 } else { -2.5 };
        row
    });
    Examples {
        features: features.collect(),
        classes,
    }
}

#[test]
fn an_epoch_from_given_weights_and_batches_agrees_with_a_reference() {
    // The same steps in matrix algebra outside this program, batches of 5 in order, Adam at 0.01.
    let mut probe = Probe {
        weight: vec![
            vec![-0.416, 0.333, 0.287, -0.261],
            vec![0.376, -0.441, -0.164, -0.35],
        ],
        bias: vec![-0.05, 0.296],
        accuracy: 0.0,
        epoch: 0,
        held_out: 0,
    };
    let mut adam = Adam::new(0.01, 10);
    let texts: Vec<usize> = (0..12).collect();
    for batch in texts.chunks(5) {
        probe.step(&examples(), batch, &mut adam);
    }
    let expected = [
        -0.390_640, 0.310_456, 0.261_145, -0.264_634, 0.350_640, -0.418_456, -0.138_145,
        -0.346_366, -0.048_295, 0.294_295,
    ];
    let mut found = probe.weight.concat();
    found.extend(&probe.bias);
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
}

#[test]
fn the_start_is_that_of_a_dense_layer() {
    let probe = Probe::fresh(2, 400, 0);
    let all: Vec<f64> = probe.weight.concat();
    assert!(all.iter().all(|x| x.abs() <= 0.05));
    assert!(all.iter().any(|x| x.abs() > 0.049));
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    assert!(mean.abs() < 0.005);
}

#[test]
fn clouds_are_told_apart_and_the_rows_oppose_each_other() {
    let options = ProbeOptions {
        learning_rate: 1e-2,
        ..ProbeOptions::default()
    };
    let examples = clouds(400);
    let probe = Probe::train(&examples, &options, 3).unwrap();
    assert_eq!(probe.held_out, 40);
    assert!(probe.accuracy > 0.95, "{}", probe.accuracy);
    assert!(probe.weight[1][0] > 0.0 && probe.weight[0][0] < 0.0);
    assert_eq!(probe, Probe::train(&examples, &options, 3).unwrap());
    assert_ne!(probe, Probe::train(&examples, &options, 4).unwrap());
    let sum: f64 = probe.probabilities(&examples.features[0]).iter().sum();
    assert!((sum - 1.0).abs() < 1e-12);
}

#[test]
fn the_best_epoch_is_kept() {
    let options = ProbeOptions {
        learning_rate: 1e-2,
        epochs: 6,
        ..ProbeOptions::default()
    };
    let examples = clouds(60);
    let whole = Probe::train(&examples, &options, 0).unwrap();
    let cut = ProbeOptions {
        epochs: whole.epoch,
        ..options
    };
    assert_eq!(whole, Probe::train(&examples, &cut, 0).unwrap());
}

#[test]
fn what_cannot_be_trained_on_is_refused() {
    let refused = |examples: &Examples| {
        let error = Probe::train(examples, &ProbeOptions::default(), 0).unwrap_err();
        error.to_string()
    };
    let mut none = examples();
    none.classes = vec![0; 12];
    assert!(refused(&none).contains("no text has class 1"));
    let mut broken = examples();
    broken.features[3][1] = f32::NAN;
    assert!(refused(&broken).contains("not a number"));
    let mut uneven = examples();
    uneven.features[3].pop();
    assert!(refused(&uneven).contains("same width"));
    let few = Examples {
        features: examples().features[..2].to_vec(),
        classes: vec![0, 1],
    };
    assert!(refused(&few).contains("give more texts"));
}
