//! Which layer does a tensor belong to, by its name?

use std::collections::BTreeMap;

/// What blocks are called in the names of tensors.
const STACKS: [&str; 5] = ["layers", "h", "layer", "blocks", "block"];
/// Parts of the names of tensors in front of the blocks.
const FRONT: [&str; 5] = ["embed", "wte", "wpe", "embd", "shared"];

/// The place of a tensor in a stack of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layer<'a> {
    /// What stands in front of the number, for instance `model.layers.`.
    pub(crate) stack: &'a str,
    /// The number.
    pub(crate) index: usize,
    /// What follows the number.
    pub(crate) rest: &'a str,
}

impl<'a> Layer<'a> {
    /// Reads a name; `None` for a tensor outside the blocks.
    pub(crate) fn of(name: &'a str) -> Option<Self> {
        let mut begin = 0;
        let mut before = "";
        for part in name.split('.') {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if digits && STACKS.contains(&before) {
                return Some(Self {
                    stack: &name[..begin],
                    index: part.parse().ok()?,
                    rest: &name[begin + part.len()..],
                });
            }
            begin += part.len() + 1;
            before = part;
        }
        None
    }

    /// The name in another place of the stack.
    pub(crate) fn at(&self, index: usize) -> String {
        format!("{}{index}{}", self.stack, self.rest)
    }
}

/// Whether a tensor outside the blocks stands in front of them.
pub(crate) fn is_in_front(name: &str) -> bool {
    FRONT.iter().any(|part| name.contains(part))
}

/// The number of layers of every stack.
pub(crate) fn stacks<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for layer in names.into_iter().filter_map(Layer::of) {
        let count: &mut usize = counts.entry(layer.stack).or_default();
        *count = (*count).max(layer.index + 1);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_by_the_usual_names() {
        for (name, index, moved) in [
            (
                "model.layers.3.mlp.up_proj.weight",
                3,
                "model.layers.7.mlp.up_proj.weight",
            ),
            (
                "transformer.h.0.attn.c_attn.bias",
                0,
                "transformer.h.7.attn.c_attn.bias",
            ),
            (
                "bert.encoder.layer.11.output.dense.weight",
                11,
                "bert.encoder.layer.7.output.dense.weight",
            ),
            (
                "encoder.block.2.layer.1.mlp.wi.weight",
                2,
                "encoder.block.7.layer.1.mlp.wi.weight",
            ),
            (
                "model.layers.1.mlp.experts.5.up.weight",
                1,
                "model.layers.7.mlp.experts.5.up.weight",
            ),
        ] {
            let layer = Layer::of(name).unwrap();
            assert_eq!((layer.index, layer.at(7).as_str()), (index, moved));
        }
        for name in [
            "model.norm.weight",
            "lm_head.weight",
            "layers",
            "layers.x.weight",
            "x.1.weight",
        ] {
            assert_eq!(Layer::of(name), None, "{name}");
        }
    }

    #[test]
    fn stacks_are_counted() {
        let names = ["a.layers.0.x", "a.layers.4.x", "b.block.1.y", "norm"];
        assert_eq!(
            stacks(names),
            BTreeMap::from([("a.layers.", 5), ("b.block.", 2)])
        );
    }
}
