use super::*;

const V: [f32; 3] = [1.0, 2.0, -2.0];

/// The hand case of card 02: two blocks of four rows.
fn blocks() -> [Vec<f32>; 2] {
    [
        [
            [1.0, 2.0, -2.0],
            [-1.0, -2.0, 2.0],
            [2.0, 0.0, 1.0],
            [-2.0, 1.0, 0.0],
        ]
        .concat(),
        [
            [0.0, -1.0, 1.0],
            [3.0, 0.0, 0.0],
            [-1.0, -1.0, 0.5],
            [0.0, 0.0, 1.0],
        ]
        .concat(),
    ]
}

fn chosen(region: Region, count: usize, order: [usize; 2]) -> Vec<(usize, usize)> {
    let mut selector = Selector::new(region, count, 2, 7);
    for block in order {
        selector.offer(block, block, &cosines(&blocks()[block], &V, None));
    }
    let chosen = selector.finish().into_iter();
    chosen.map(|found| (found.block, found.row)).collect()
}

#[test]
fn scores_and_selection_of_the_card() {
    let expected = [
        [-1.0, 1.0, 0.0, 0.0],
        [0.942_809, -0.333_333, 0.888_889, 0.666_667],
    ];
    for (rows, expected) in blocks().iter().zip(expected) {
        for (cosine, score) in cosines(rows, &V, None).into_iter().zip(expected) {
            assert!((-cosine.unwrap() - score).abs() < 1e-6);
        }
    }
    assert_eq!(
        chosen(Region::AntiAligned, 3, [0, 1]),
        [(0, 1), (1, 0), (1, 2)]
    );
    assert_eq!(
        chosen(Region::AntiAligned, 3, [1, 0]),
        [(0, 1), (1, 0), (1, 2)]
    );
}

#[test]
fn other_regions() {
    assert_eq!(chosen(Region::Aligned, 2, [0, 1]), [(0, 0), (1, 1)]);
    // Three rows of two blocks: two of the first and one of the second.
    assert_eq!(
        chosen(Region::PerBlock, 3, [0, 1]),
        [(0, 1), (1, 0), (0, 2)]
    );
    assert_eq!(chosen(Region::All, 3, [0, 1]).len(), 8);
    let random = chosen(Region::Random, 3, [0, 1]);
    assert_eq!(random, chosen(Region::Random, 3, [1, 0]));
    assert_eq!(random.len(), 3);
}

#[test]
fn ties_go_to_the_first_block_then_the_first_row() {
    let mut selector = Selector::new(Region::AntiAligned, 3, 2, 0);
    selector.offer(1, 1, &[Some(-0.5), Some(-0.5)]);
    selector.offer(0, 0, &[Some(-0.5), Some(0.1), Some(-0.5)]);
    let chosen: Vec<_> = selector.finish().iter().map(|c| (c.block, c.row)).collect();
    assert_eq!(chosen, [(0, 0), (0, 2), (1, 0)]);
}

#[test]
fn rows_of_zeros_are_never_chosen() {
    let rows = [[0.0; 3], [1.0, 2.0, -2.0]].concat();
    let found = cosines(&rows, &V, None);
    assert!(found[0].is_none());
    for region in [
        Region::AntiAligned,
        Region::Random,
        Region::All,
        Region::PerBlock,
    ] {
        let mut selector = Selector::new(region, 2, 1, 0);
        selector.offer(0, 0, &found);
        let chosen = selector.finish();
        assert_eq!((chosen.len(), chosen[0].row), (1, 1), "{region:?}");
    }
}

#[test]
fn folded_gains_multiply_both_sides() {
    let (rows, gain, last) = ([1.0, -1.0, 0.5], [2.0, 0.5, 4.0], [1.0, 3.0, 0.25]);
    let folded = cosines(&rows, &V, Some((&gain, &last)))[0].unwrap();
    let plain = cosines(&[2.0, -0.5, 2.0], &[1.0, 6.0, -0.5], None)[0].unwrap();
    assert!((folded - plain).abs() < 1e-12);
}

#[test]
fn a_heap_of_k_finds_what_sorting_all_finds() {
    let width = 16;
    let mut stream = Stream::new(3, "rows");
    let matrices: Vec<Vec<f32>> = (0..5)
        .map(|_| stream.normal(40 * width, 0.0, 1.0))
        .collect();
    let v = stream.normal(width, 0.0, 1.0);
    let mut selector = Selector::new(Region::AntiAligned, 23, 5, 0);
    let mut all = Vec::new();
    for (block, rows) in matrices.iter().enumerate() {
        let found = cosines(rows, &v, None);
        selector.offer(block, block, &found);
        let scored = found.iter().enumerate();
        all.extend(scored.map(|(row, cosine)| (cosine.unwrap(), block, row)));
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let expected: Vec<_> = all
        .iter()
        .take(23)
        .map(|(_, block, row)| (*block, *row))
        .collect();
    let chosen: Vec<_> = selector.finish().iter().map(|c| (c.block, c.row)).collect();
    assert_eq!(chosen, expected);
}
