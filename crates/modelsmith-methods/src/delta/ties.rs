//! TIES as first published, on vectors in memory: trim, elect a sign, average those that have it.
//!
//! Entries whose sum is zero get the sign of the whole vector's majority. [`super::merge`] has the form that merging tools
//! use, over files.

use super::magnitude::trim;

/// The elected sign of every entry, 1 or -1: that of the sum over the vectors, and where it is zero that of most entries.
pub fn elect(vectors: &[Vec<f32>]) -> Vec<f32> {
    let length = vectors.first().map_or(0, Vec::len);
    let sign = |sum: f64| f64::from(i8::from(sum > 0.0) - i8::from(sum < 0.0));
    let sum = |index: usize| vectors.iter().map(|vector| f64::from(vector[index])).sum();
    let signs: Vec<f64> = (0..length).map(|index| sign(sum(index))).collect();
    let majority = if signs.iter().sum::<f64>() >= 0.0 {
        1.0
    } else {
        -1.0
    };
    signs
        .into_iter()
        .map(|sign| if sign == 0.0 { majority } else { sign as f32 })
        .collect()
}

/// The mean of the entries that have the elected sign, zeros left out; 0 where there is none.
pub fn disjoint_mean(vectors: &[Vec<f32>], signs: &[f32]) -> Vec<f32> {
    let mean = |(index, sign): (usize, &f32)| {
        let agreeing = vectors
            .iter()
            .map(|vector| vector[index])
            .filter(|value| value * sign > 0.0);
        let (sum, count) = agreeing.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
        sum / count.max(1) as f32
    };
    signs.iter().enumerate().map(mean).collect()
}

/// The merged task vector of equally long ones, each trimmed to its `keep` largest entries.
pub fn merge(mut vectors: Vec<Vec<f32>>, keep: usize) -> Vec<f32> {
    for vector in &mut vectors {
        trim(vector, keep);
    }
    let signs = elect(&vectors);
    disjoint_mean(&vectors, &signs)
}
