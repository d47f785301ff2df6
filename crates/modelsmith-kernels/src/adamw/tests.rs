use super::*;
use crate::checks::{close, plain};
use burn::backend::Flex;
use burn::tensor::{DType, Device};
use modelsmith_core::parameters::to_vec;

/// Value, gradient and moments of a parameter.
type Four = [Tensor<1>; 4];

fn four(name: &str, count: usize) -> Four {
    let random = |part: &str, deviation: f32| {
        plain(
            &format!("{name}/{part}"),
            [count],
            deviation,
            &Device::flex(),
        )
    };
    let (value, gradient) = (random("value", 1.0), random("gradient", 0.1));
    [
        value,
        gradient,
        random("first", 0.1),
        random("second", 0.1).abs(),
    ]
}

fn step(steps: u32) -> AdamWStep {
    AdamWStep {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        steps,
        learning_rate: 0.01,
        weight_decay: 0.1,
        scale: 0.5,
    }
}

/// Takes the step of all with one call; gives them back changed.
fn taken(mut all: Vec<Four>, form: fn(Vec<AdamWParameter<'_>>), steps: u32) -> Vec<Four> {
    let parameters = all.iter_mut().map(|[value, gradient, first, second]| {
        let gradient = gradient.clone();
        let step = step(steps);
        AdamWParameter {
            value,
            gradient,
            first,
            second,
            step,
        }
    });
    form(parameters.collect());
    all
}

fn composed(parameters: Vec<AdamWParameter<'_>>) {
    parameters.into_iter().for_each(reference);
}

/// Where a tensor's values lie.
fn address(tensor: &Tensor<1>) -> *const f32 {
    let tensor = tensor.clone().try_into_primitive::<Flex>().unwrap();
    tensor.storage::<f32>().as_ptr()
}

fn bits(all: Vec<Four>) -> Vec<Vec<u32>> {
    let tensors = all.into_iter().flatten();
    let bits = |tensor| to_vec(tensor).into_iter().map(f32::to_bits).collect();
    tensors.map(bits).collect()
}

#[test]
fn steps_are_those_of_the_reference() {
    let counts = [0, 1, 15, 17, 1000, 16_384, 100_003];
    let all: Vec<Four> = counts.iter().map(|count| four("x", *count)).collect();
    let (mut ours, mut theirs) = (all.clone(), all);
    for steps in [1, 2, 1000] {
        ours = taken(ours, adamw, steps);
        theirs = taken(theirs, composed, steps);
        for (ours, theirs) in ours.iter().flatten().zip(theirs.iter().flatten()) {
            close(ours.clone(), theirs.clone(), 1e-6);
        }
    }
}

#[test]
fn a_step_has_the_size_that_the_formula_gives() {
    let flex = Device::flex();
    let one = |x: f32| Tensor::<1>::from_floats([x], &flex);
    let all = taken(vec![[one(2.0), one(4.0), one(0.0), one(0.0)]], adamw, 1);
    // The gradient is halved; the corrected moments are 2 and 4: the step is the learning rate.
    let [value, _, first, second] = all[0].clone();
    close(value, one(2.0 * (1.0 - 0.001) - 0.01), 1e-6);
    close(first, one(0.2), 1e-6);
    close(second, one(0.004), 1e-6);
}

#[test]
fn buffers_that_nothing_shares_are_written_in_place() {
    if !crate::fused() {
        return;
    }
    let all = vec![four("x", 50_000), four("y", 3)];
    let addresses = |all: &[Four]| -> Vec<_> { all.iter().flatten().map(address).collect() };
    let before = addresses(&all);
    assert_eq!(addresses(&taken(all, adamw, 1)), before);
}

#[test]
fn shared_buffers_stay_as_they_are() {
    let all = vec![four("x", 50_000), four("y", 3)];
    let kept = all.clone();
    let before = bits(kept.clone());
    let after = taken(all, adamw, 1);
    assert_eq!(bits(kept), before);
    assert_ne!(bits(after), before);
}

#[test]
fn views_are_read_and_their_base_is_not_written() {
    let base = plain("base", [3, 40], 1.0, &Device::flex());
    let before = to_vec(base.clone());
    let views = || {
        let row = base.clone().narrow(0, 1, 1).flatten(0, 1);
        let part = base.clone().narrow(1, 2, 1).flatten::<1>(0, 1).abs();
        let turned = base.clone().transpose().narrow(0, 0, 1).flatten(0, 1);
        let column = base.clone().narrow(1, 7, 1).flatten(0, 1);
        let [a, b, c, d] = [row.clone(), row.clone(), row.clone(), row.abs()];
        vec![[a, b, c, d], [turned, column.clone(), column, part]]
    };
    let (ours, theirs) = (taken(views(), adamw, 3), taken(views(), composed, 3));
    for (ours, theirs) in ours.into_iter().flatten().zip(theirs.into_iter().flatten()) {
        close(ours, theirs, 1e-6);
    }
    assert_eq!(to_vec(base), before);
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let run = |threads: usize| {
        let all = [("a", 100_003), ("b", 5), ("c", 16_385), ("d", 64)];
        let all = all.map(|(name, count)| four(name, count)).to_vec();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        bits(pool.build().unwrap().install(|| taken(all, adamw, 7)))
    };
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(5));
}

#[test]
fn other_dtypes_take_the_reference() {
    let half = |all: Four| all.map(|tensor| tensor.cast(DType::F64));
    let ours = taken(vec![half(four("x", 20))], adamw, 2);
    assert_eq!(ours[0][0].dtype(), DType::F64);
    let theirs = taken(vec![four("x", 20)], adamw, 2);
    for (ours, theirs) in ours[0].clone().into_iter().zip(theirs[0].clone()) {
        close(ours.cast(DType::F32), theirs, 1e-6);
    }
}

#[test]
#[should_panic(expected = "differ in length")]
fn tensors_of_different_lengths_are_refused() {
    let [value, _, first, second] = four("x", 4);
    let [_, gradient, ..] = four("x", 5);
    taken(vec![[value, gradient, first, second]], adamw, 1);
}
