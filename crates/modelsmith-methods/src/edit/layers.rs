//! Which MLPs an editor writes to.

use modelsmith_core::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Numbers of blocks, in rising order; empty for the default of the method and the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Layers(pub Vec<usize>);

impl Layers {
    /// The blocks of a host with `blocks` of them; where none are named, `several` or one of them from
    /// about a third of the depth on, where causal tracing finds facts (Meng et al., arXiv 2202.05262
    /// and 2210.07229: block 17, and blocks 13 to 17, of 48).
    ///
    /// # Errors
    /// A number that the host does not have, or numbers that do not rise.
    pub fn of(&self, blocks: usize, several: bool) -> Result<Vec<usize>> {
        if self.0.is_empty() {
            let last = (blocks * 35 / 100).min(blocks.saturating_sub(1));
            let count = if several { (blocks / 2).clamp(1, 5) } else { 1 };
            return Ok(((last + 1).saturating_sub(count)..=last).collect());
        }
        if let Some(layer) = self.0.iter().find(|layer| **layer >= blocks) {
            let problem = format!(
                "names block {layer}; the model has blocks 0 to {}",
                blocks - 1
            );
            return Err(Error::config("method.layers", problem));
        }
        if self.0.windows(2).any(|pair| pair[0] >= pair[1]) {
            let problem = format!("is {:?}; name each block once, in rising order", self.0);
            return Err(Error::config("method.layers", problem));
        }
        Ok(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_lie_a_third_of_the_way_up() {
        let none = Layers::default();
        assert_eq!(none.of(48, false).unwrap(), [16]);
        assert_eq!(none.of(48, true).unwrap(), [12, 13, 14, 15, 16]);
        assert_eq!(none.of(4, true).unwrap(), [0, 1]);
        assert_eq!(none.of(1, true).unwrap(), [0]);
    }

    #[test]
    fn numbers_must_exist_and_rise() {
        assert!(Layers(vec![4]).of(4, true).is_err());
        assert!(Layers(vec![2, 1]).of(4, true).is_err());
        assert!(Layers(vec![1, 1]).of(4, true).is_err());
        assert_eq!(Layers(vec![1, 3]).of(4, true).unwrap(), [1, 3]);
    }
}
