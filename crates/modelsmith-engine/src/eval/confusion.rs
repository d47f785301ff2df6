//! Figures of a classifier from its confusion matrix.

use serde::Serialize;

/// Accuracy, macro F1 and Matthews correlation with the matrix they come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassFigures {
    /// Examples counted.
    pub examples: u64,
    /// Share predicted rightly.
    pub accuracy: f64,
    /// Mean over the classes that occur (as label or prediction) of each one's F1.
    pub macro_f1: f64,
    /// Matthews correlation coefficient, for any number of classes (Gorodkin, 2004); 0 where
    /// labels or predictions are all of one class.
    pub matthews: f64,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// `confusion[label][prediction]`.
    pub confusion: Vec<Vec<u64>>,
}

impl ClassFigures {
    /// The figures of a square matrix `confusion[label][prediction]`.
    pub fn of(classes: Vec<String>, confusion: Vec<Vec<u64>>) -> Self {
        let count = confusion.len();
        let labels: Vec<u64> = confusion.iter().map(|row| row.iter().sum()).collect();
        let predictions: Vec<u64> = (0..count)
            .map(|column| confusion.iter().map(|row| row[column]).sum())
            .collect();
        let right: Vec<u64> = (0..count).map(|class| confusion[class][class]).collect();
        let total: u64 = labels.iter().sum();
        let share = |part: u64| {
            if total == 0 {
                0.0
            } else {
                part as f64 / total as f64
            }
        };
        let scores: Vec<f64> = (0..count)
            .filter(|class| labels[*class] + predictions[*class] > 0)
            .map(|class| 2.0 * right[class] as f64 / (labels[class] + predictions[class]) as f64)
            .collect();
        Self {
            examples: total,
            accuracy: share(right.iter().sum()),
            macro_f1: scores.iter().sum::<f64>() / scores.len().max(1) as f64,
            matthews: matthews(total, right.iter().sum(), &labels, &predictions),
            classes,
            confusion,
        }
    }
}

fn matthews(total: u64, right: u64, labels: &[u64], predictions: &[u64]) -> f64 {
    let dot =
        |a: &[u64], b: &[u64]| -> f64 { a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum() };
    let total = total as f64;
    let across = right as f64 * total - dot(labels, predictions);
    let spread = |counts: &[u64]| total * total - dot(counts, counts);
    let root = (spread(labels) * spread(predictions)).sqrt();
    if root == 0.0 { 0.0 } else { across / root }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(confusion: &[&[u64]]) -> ClassFigures {
        let confusion: Vec<Vec<u64>> = confusion.iter().map(|row| row.to_vec()).collect();
        ClassFigures::of(Vec::new(), confusion)
    }

    #[test]
    fn two_classes_agree_with_the_textbook() {
        // 6 true negatives, 2 false positives, 1 false negative, 3 true positives.
        let found = figures(&[&[6, 2], &[1, 3]]);
        assert!((found.accuracy - 0.75).abs() < 1e-12);
        let f1 = (12.0 / 15.0 + 6.0 / 9.0) / 2.0;
        assert!((found.macro_f1 - f1).abs() < 1e-12);
        let phi = (3.0 * 6.0 - 2.0 * 1.0) / (5.0f64 * 4.0 * 8.0 * 7.0).sqrt();
        assert!((found.matthews - phi).abs() < 1e-12);
    }

    #[test]
    fn one_sided_predictions_have_no_correlation_and_absent_classes_no_weight() {
        let found = figures(&[&[3, 0, 0], &[1, 0, 0], &[0, 0, 0]]);
        assert_eq!((found.matthews, found.accuracy), (0.0, 0.75));
        assert!((found.macro_f1 - (6.0 / 7.0) / 2.0).abs() < 1e-12);
        assert_eq!(figures(&[&[2, 0], &[0, 2]]).matthews, 1.0);
    }
}
