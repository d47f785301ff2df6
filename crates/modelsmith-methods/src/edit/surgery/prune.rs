//! Pruning by set difference (Wei et al., ICML 2024, arXiv 2402.05162, section 3.1): weights that texts of a behaviour
//! use and other texts do not.
//!
//! ```text
//! score(i, j) = |W(i, j)| · ‖x(j)‖        over the tokens of some texts (Wanda, Sun et al., arXiv 2306.11695)
//! pruned      = top share by the behaviour's texts, but none in the top share by the others; row by row
//! ```

/// The places of a weight `[rows, width]` that are pruned, in order. `behaviour` and `others` are the norms of what each
/// column reads, `[width]`; `share` of a row's weights is the top of it, by either.
pub fn set_difference(weight: &[f32], behaviour: &[f64], others: &[f64], share: f64) -> Vec<usize> {
    let width = behaviour.len();
    let count = ((width as f64 * share).round() as usize).min(width);
    let rows = weight.chunks_exact(width.max(1)).enumerate();
    rows.flat_map(|(number, row)| {
        let kept = top(row, others, count);
        let mut pruned = top(row, behaviour, count);
        pruned.retain(|column| kept.binary_search(column).is_err());
        pruned
            .into_iter()
            .map(move |column| number * width + column)
    })
    .collect()
}

/// The columns of the `count` largest scores of a row, the first of equal ones, in order.
fn top(row: &[f32], norms: &[f64], count: usize) -> Vec<usize> {
    let score = |column: usize| f64::from(row[column].abs()) * norms[column];
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| score(*b).total_cmp(&score(*a)).then(a.cmp(b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_kinds_of_texts_use_stays() {
        // Scores by the behaviour: 4 1 0 3 | 0 1 0 3; by the others: 4 0 3 1 | 0 0 6 1.
        let weight = [-2.0, 1.0, 3.0, 1.0, 0.0, 1.0, -6.0, 1.0];
        let behaviour = [2.0, 1.0, 0.0, 3.0];
        let others = [2.0, 0.0, 1.0, 1.0];
        assert_eq!(set_difference(&weight, &behaviour, &others, 0.25), [7]);
        assert_eq!(set_difference(&weight, &behaviour, &others, 0.5), [3, 5]);
        assert!(set_difference(&weight, &behaviour, &others, 0.0).is_empty());
        assert!(set_difference(&weight, &behaviour, &others, 1.0).is_empty());
    }
}
