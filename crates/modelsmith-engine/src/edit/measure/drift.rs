//! Figures of tasks that an edit should leave alone: weighted F1 and Matthews correlation.

use crate::eval::ClassFigures;

/// F1 of each class, weighted by how often it is right; a prediction of `None` is a class of its own,
/// which is always wrong. 0 of nothing.
pub fn weighted_f1(labels: &[usize], predictions: &[Option<usize>]) -> f64 {
    let confusion = confusion(labels, predictions);
    let support: Vec<u64> = confusion.iter().map(|row| row.iter().sum()).collect();
    let total: u64 = support.iter().sum();
    let f1 = |class: usize| {
        let predicted: u64 = confusion.iter().map(|row| row[class]).sum();
        let both = support[class] + predicted;
        2.0 * confusion[class][class] as f64 / both.max(1) as f64
    };
    let weighted = (0..confusion.len()).map(|class| support[class] as f64 * f1(class));
    weighted.sum::<f64>() / total.max(1) as f64
}

/// Matthews correlation coefficient, `None` again a class of its own.
pub fn matthews(labels: &[usize], predictions: &[Option<usize>]) -> f64 {
    ClassFigures::of(Vec::new(), confusion(labels, predictions)).matthews
}

/// `[label][prediction]`; the last class is what is none.
fn confusion(labels: &[usize], predictions: &[Option<usize>]) -> Vec<Vec<u64>> {
    let classes = labels
        .iter()
        .copied()
        .chain(predictions.iter().copied().flatten());
    let none = classes.max().map_or(0, |class| class + 1);
    let mut counts = vec![vec![0; none + 1]; none + 1];
    for (label, prediction) in labels.iter().zip(predictions) {
        counts[*label][prediction.unwrap_or(none)] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_as_by_hand() {
        // Class 0: two of three found, none else called so: 2·2/(3+2). Class 1: 2·1/(1+1).
        let labels = [0, 0, 0, 1];
        let found = [Some(0), Some(0), None, Some(1)];
        let f1 = (3.0 * 0.8 + 1.0) / 4.0;
        assert!((weighted_f1(&labels, &found) - f1).abs() < 1e-12);
        assert_eq!(weighted_f1(&[], &[]), 0.0);
        assert_eq!(weighted_f1(&[0, 1], &[None, None]), 0.0);
        assert_eq!(matthews(&[0, 1], &[Some(0), Some(1)]), 1.0);
        assert_eq!(matthews(&[0, 1], &[Some(1), Some(0)]), -1.0);
        assert_eq!(matthews(&[0, 1], &[None, None]), 0.0);
    }
}
