//! Merges of tensors in memory, against numbers worked out by hand; peers' numbers are tested on files by the engine.

use super::*;
use std::ops::Range;

/// Inputs in memory, visited in parts of a given length.
struct Memory {
    inputs: Vec<Vec<f32>>,
    part: usize,
}

impl Memory {
    fn parts(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let length = self.length();
        (0..length)
            .step_by(self.part)
            .map(move |start| start..(start + self.part).min(length))
    }

    fn visit<T>(&self, mut visit: impl FnMut(&mut Block<'_>) -> T) -> Vec<T> {
        let one = |(number, part): (usize, Range<usize>)| {
            let mut inputs: Vec<Vec<f32>> = self
                .inputs
                .iter()
                .map(|input| input[part.clone()].to_vec())
                .collect();
            visit(&mut Block {
                start: part.start,
                number,
                inputs: &mut inputs,
            })
        };
        self.parts().enumerate().map(one).collect()
    }
}

impl Source for Memory {
    fn length(&self) -> usize {
        self.inputs[0].len()
    }

    fn sweep<T: Send>(&self, visit: impl Fn(&mut Block<'_>) -> T + Sync) -> Result<Vec<T>> {
        Ok(self.visit(visit))
    }

    fn tally(
        &self,
        counters: usize,
        visit: impl Fn(&mut Block<'_>, &mut [u32]) + Sync,
    ) -> Result<Vec<u64>> {
        let mut counts = vec![0; counters];
        self.visit(|block| visit(block, &mut counts));
        Ok(counts.into_iter().map(u64::from).collect())
    }
}

/// The parameters given for every model laid over the defaults.
fn job<'a>(
    method: &MergeMethod,
    base: Option<usize>,
    inputs: usize,
    shape: &'a [usize],
    given: &[(&'static str, f64)],
) -> Job<'a> {
    let values = |scope| -> Values {
        let of_scope = method
            .parameters
            .iter()
            .filter(|parameter| parameter.scope == scope);
        let value = |parameter: &Parameter| {
            let found = given.iter().find(|(name, _)| *name == parameter.name);
            (
                parameter.name,
                found.map_or(parameter.default.unwrap_or(1.0), |(_, value)| *value),
            )
        };
        of_scope.map(value).collect()
    };
    Job {
        place: Place::new("w", shape, 3),
        base,
        common: values(Scope::Tensor),
        inputs: vec![values(Scope::Model); inputs],
    }
}

fn merge_in(
    part: usize,
    id: &str,
    base: Option<usize>,
    inputs: &[Vec<f32>],
    given: &[(&'static str, f64)],
) -> Result<Vec<f32>> {
    let method = find(id)?;
    let shape = [4, inputs[0].len() / 4];
    let job = job(method, base, inputs.len(), &shape, given);
    let align = method.alignment(&job.place);
    let source = Memory {
        inputs: inputs.to_vec(),
        part: part.next_multiple_of(align),
    };
    let blend = method.plan(&job, &source)?;
    let parts = source.visit(|block| {
        let mut out = vec![0.0; block.inputs[0].len()];
        blend.blend(block, &mut out);
        out
    });
    Ok(parts.concat())
}

fn merge(
    id: &str,
    base: Option<usize>,
    inputs: &[Vec<f32>],
    given: &[(&'static str, f64)],
) -> Vec<f32> {
    merge_in(3, id, base, inputs, given).unwrap()
}

#[track_caller]
fn near(found: &[f32], expected: &[f32]) {
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(close),
        "{found:?} is not {expected:?}"
    );
}

fn values(seed: u64, count: usize) -> Vec<f32> {
    modelsmith_core::random::Stream::new(seed, "merge test").normal(count, 0.0, 1.0)
}

#[test]
fn ties_keeps_elects_and_averages_by_weight() {
    let base = vec![1.0; 8];
    let a: Vec<f32> = [0.4, -0.1, 0.2, -0.6, 0.3, 0.1, 0.0, 0.0]
        .map(|d| 1.0 + d)
        .to_vec();
    let b: Vec<f32> = [-0.5, 0.2, 0.1, 0.3, 0.4, -0.2, 0.0, 0.0]
        .map(|d| 1.0 + d)
        .to_vec();
    // Three of eight kept: .4, -.6, .3 and -.5, .3, .4.
    let expected = [-0.5, 0.0, 0.0, -0.6, 0.35, 0.0, 0.0, 0.0].map(|d| 1.0 + d);
    near(
        &merge(
            "ties",
            Some(0),
            &[base.clone(), a.clone(), b.clone()],
            &[("density", 0.375)],
        ),
        &expected,
    );
    let summed = [-0.5, 0.0, 0.0, -0.6, 0.7, 0.0, 0.0, 0.0].map(|d| 1.0 + 2.0 * d);
    let given = [("density", 0.375), ("normalize", 0.0), ("lambda", 2.0)];
    near(&merge("ties", Some(0), &[base, a, b], &given), &summed);
}

#[test]
fn breadcrumbs_drop_both_ends() {
    let base = vec![0.0; 8];
    let task: Vec<f32> = vec![1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0];
    // Half is kept, an eighth dropped above, the rest below.
    let found = merge(
        "breadcrumbs",
        Some(0),
        &[base, task],
        &[("density", 0.5), ("gamma", 0.125)],
    );
    near(&found, &[0.0, 0.0, 0.0, -4.0, 5.0, -6.0, 7.0, 0.0]);
}

#[test]
fn breadcrumbs_share_equal_magnitudes_out_in_order() {
    let (base, task) = (vec![0.0; 8], vec![1.0; 8]);
    let found = merge(
        "breadcrumbs",
        Some(0),
        &[base, task],
        &[("density", 0.5), ("gamma", 0.25)],
    );
    near(&found, &[0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
}

#[test]
fn arcs_end_at_their_ends_and_keep_the_length() {
    let (a, b) = (values(1, 64), values(2, 64));
    for (t, expected) in [(0.0, &a), (1.0, &b)] {
        near(
            &merge("slerp", Some(0), &[a.clone(), b.clone()], &[("t", t)]),
            expected,
        );
    }
    let unit = |v: Vec<f32>| {
        let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
        v.into_iter().map(|x| x / norm).collect::<Vec<f32>>()
    };
    let (a, b) = (unit(a), unit(b));
    for (id, base) in [
        ("slerp", Some(0)),
        ("nuslerp", None),
        ("karcher", None),
        ("multislerp", None),
    ] {
        let found = merge(id, base, &[a.clone(), b.clone()], &[]);
        let norm = found.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((norm - 1.0).abs() < 1e-5, "{id}: {norm}");
        // Half-way, all of them agree.
        near(
            &found,
            &merge("slerp", Some(0), &[a.clone(), b.clone()], &[("t", 0.5)]),
        );
    }
}

#[test]
fn model_stock_interpolates_by_the_angle() {
    let base = vec![0.0; 4];
    let (a, b) = (vec![1.0, 0.0, 0.0, 0.0], vec![1.0, 1.0, 0.0, 0.0]);
    // cos = 1/√2, t = 2 cos / (1 + cos).
    let t = 2.0_f32.sqrt() / (1.0 + 0.5_f32.sqrt());
    near(
        &merge("model_stock", Some(0), &[base, a, b], &[]),
        &[t, t / 2.0, 0.0, 0.0],
    );
}

#[test]
fn equal_models_come_out_as_they_are() {
    let a = values(5, 96);
    for method in TABLE {
        let id = method.card.id;
        let base = (method.base == Base::Needed).then_some(0);
        let inputs = vec![a.clone(); method.fewest + usize::from(base.is_some())];
        let given = [("density", 0.5), ("t", 0.3), ("weight", 0.7)];
        let found = merge(id, base, &inputs, &given);
        assert_eq!(found, a, "{id}");
    }
}

#[test]
fn parts_of_any_length_give_the_same_bits() {
    let inputs = [values(1, 96), values(2, 96), values(3, 96)];
    for method in TABLE
        .iter()
        .filter(|method| matches!(method.rule, Rule::Consensus { .. }))
    {
        let id = method.card.id;
        let given = [("density", 0.4), ("gamma", 0.1), ("rescale", 0.0)];
        let of = |part| merge_in(part, id, Some(0), &inputs, &given).unwrap();
        assert_eq!(of(96), of(5), "{id}");
        assert_ne!(of(96), inputs[0], "{id}");
    }
}

#[test]
fn rescaling_gives_the_l1_norm_back() {
    let inputs = [vec![0.0; 4000], values(2, 4000)];
    let given = [("density", 0.3)];
    let found = merge_in(512, "dare_linear", Some(0), &inputs, &given).unwrap();
    let l1 = |v: &[f32]| v.iter().map(|x| f64::from(x.abs())).sum::<f64>();
    assert!((l1(&found) / l1(&inputs[1]) - 1.0).abs() < 1e-5);
    let kept = found.iter().filter(|value| **value != 0.0).count();
    assert!((kept as f64 / 4000.0 - 0.3).abs() < 0.03, "{kept}");
}

#[test]
fn weights_that_cancel_are_refused_by_name() {
    let inputs = [values(1, 8), values(2, 8)];
    let mut cancelling = job(find("linear").unwrap(), None, 2, &[8], &[]);
    cancelling.inputs[1].insert("weight", -1.0);
    let error = combination::linear(&cancelling).unwrap_err().to_string();
    assert!(
        error.contains("parameters.weight") && error.contains("sum to 0"),
        "{error}"
    );
    let error = merge_in(8, "della", Some(0), &inputs, &[("density", 0.1)]).unwrap_err();
    assert!(error.to_string().contains("parameters.epsilon"), "{error}");
    assert!(
        find("tis")
            .unwrap_err()
            .to_string()
            .contains("did you mean ties")
    );
}
