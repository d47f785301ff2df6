//! Steering: the same vector added to the state behind some blocks in every pass, and no weight changed.
//!
//! What surgery is compared with: the direction is the same, but the model has to carry it along.

use burn::tensor::{Device, Tensor, TensorData};
use modelsmith_core::hooks::{Hooks, ResidualCall};
use modelsmith_core::host::Host;
use modelsmith_core::sites::SiteKind;
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::surgery::Patch;
use std::collections::BTreeSet;

/// A vector and the blocks that it is added behind.
#[derive(Clone, Debug)]
pub struct Steering {
    paths: BTreeSet<String>,
    vector: Tensor<1>,
}

impl Steering {
    /// `alpha` times the patch's direction, behind the blocks of which the patch changes rows.
    pub fn new(host: &Transformer, patch: &Patch, alpha: f64) -> Self {
        let blocks: Vec<&String> = host
            .sites()
            .iter()
            .filter(|site| site.kind == SiteKind::Residual)
            .map(|site| &site.path)
            .collect();
        let changed = patch.places.iter().filter(|place| !place.rows.is_empty());
        let paths = changed.filter_map(|place| blocks.get(place.block));
        let values: Vec<f32> = patch
            .direction
            .iter()
            .map(|x| (f64::from(*x) * alpha) as f32)
            .collect();
        let device: Device = host.device();
        let width = values.len();
        Self {
            paths: paths.map(|path| (*path).clone()).collect(),
            vector: Tensor::from_data(TensorData::new(values, [width]), &device),
        }
    }
}

impl Hooks for Steering {
    fn residual(&self, call: ResidualCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let here = self.paths.contains(&call.site.path);
        let y = call.run(x);
        match here {
            true => y + self.vector.clone().reshape([1, 1, -1]),
            false => y,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelsmith_core::capture::{Capture, Side};
    use modelsmith_core::hooks::Pass;
    use modelsmith_core::parameters::to_vec;
    use modelsmith_hosts::TokenInput;
    use modelsmith_methods::edit::surgery::Rows;
    use std::path::Path;

    #[test]
    fn the_state_behind_a_changed_block_moves_by_the_vector_and_no_other_block_is_touched() {
        let house = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/house");
        let host = modelsmith_hosts::load(&house, &Device::flex()).unwrap();
        let place = |block: usize, rows: Vec<u32>| Rows {
            weight: format!("model.layers.{block}.mlp.gate_proj.weight"),
            block,
            fan_in_fan_out: false,
            rows,
        };
        let patch = Patch {
            direction: vec![0.5; 160],
            alpha: 1.0,
            places: vec![place(0, Vec::new()), place(1, vec![3])],
        };
        let steering = Steering::new(&host, &patch, 2.0);
        let states = |hooks: &[&dyn Hooks]| {
            let paths = ["model.layers.0".to_owned(), "model.layers.1".to_owned()];
            let capture = Capture::new(&paths, Side::Output);
            let mut all: Vec<&dyn Hooks> = vec![&capture];
            all.extend(hooks);
            let input = TokenInput::from_ids(&[vec![5, 6, 7]], 0, false, &Device::flex());
            host.hidden(&input, &Pass::default(), &all, None).unwrap();
            let mut found = capture.take();
            paths.map(|path| to_vec(found.remove(&path).unwrap().tensor::<3>().unwrap()))
        };
        let (before, after) = (states(&[]), states(&[&steering]));
        assert_eq!(before[0], after[0]);
        for (a, b) in before[1].iter().zip(&after[1]) {
            assert!((b - a - 1.0).abs() < 1e-5, "{a} {b}");
        }
    }
}
