//! Pruning of what a behaviour's texts use and others do not, which surgery is compared with.

use super::host::rows;
use super::texts::Texts;
use crate::pool::within;
use modelsmith_core::capture::{Capture, Side};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Pass;
use modelsmith_core::host::Host;
use modelsmith_core::parameters::{Flat, to_vec};
use modelsmith_core::sites::SiteKind;
use modelsmith_data::Tokenizer;
use modelsmith_hosts::{TokenInput, Transformer};
use modelsmith_methods::edit::surgery::set_difference;
use std::collections::BTreeMap;

/// Texts in one pass.
const BATCH: usize = 32;

/// Squared norms of what dense layers read, `[inputs]` by the layer's path.
type Squares = BTreeMap<String, Vec<f64>>;

/// What dense layers read of texts of a class, and of the others.
pub struct Pruning {
    behaviour: Squares,
    others: Squares,
}

impl Pruning {
    /// Reads texts, those of `class` and the others; texts of `max_tokens` tokens or more are left out.
    ///
    /// # Errors
    /// Texts that the tokenizer cannot express; none of a kind.
    pub fn new(
        host: &Transformer,
        tokenizer: &Tokenizer,
        (texts, class): (&Texts, usize),
        max_tokens: usize,
    ) -> Result<Self> {
        let of = |shows: bool| -> Result<Squares> {
            let kinds = texts.texts.iter().zip(&texts.classes);
            let chosen = kinds.filter(|(_, found)| (**found == class) == shows);
            let rows = chosen.map(|(text, _)| tokenizer.encode(text, true));
            let mut rows = rows.collect::<Result<Vec<_>>>()?;
            let room = max_tokens.min(host.max_positions().saturating_add(1));
            rows.retain(|ids| !ids.is_empty() && ids.len() < room);
            squares(host, rows)
        };
        Ok(Self {
            behaviour: of(true)?,
            others: of(false)?,
        })
    }

    /// The host with the weights of its blocks pruned that are in the top `share` of their row by the class's texts only;
    /// and how many they are.
    ///
    /// # Errors
    /// A host that is not the one the texts were read by.
    pub fn at(&self, host: &Transformer, share: f64) -> Result<(Transformer, usize)> {
        let (mut pruned, mut count) = (host.clone(), 0);
        for site in host.sites() {
            let (Some(behaviour), Some(others)) =
                (self.behaviour.get(&site.path), self.others.get(&site.path))
            else {
                continue;
            };
            let missing = || Error::Failed(format!("{} has no weight", site.path));
            let name = host.site_weights(site).0.ok_or_else(missing)?;
            let mut values = rows(host, &name, site.fan_in_fan_out)?;
            let norms = |squares: &[f64]| squares.iter().map(|x| x.sqrt()).collect::<Vec<_>>();
            let places = set_difference(&values, &norms(behaviour), &norms(others), share);
            places.iter().for_each(|place| values[*place] = 0.0);
            count += places.len();
            let shape = [site.outputs, site.inputs];
            let weight = Flat::from_vec(values, &shape, &host.device());
            let weight = match site.fan_in_fan_out {
                true => Flat::new(weight.tensor::<2>()?.transpose()),
                false => weight,
            };
            pruned.set_weight(&name, &weight)?;
        }
        Ok((pruned, count))
    }
}

/// Sums over all tokens of `rows` of the squares of what each dense layer of a block reads.
fn squares(host: &Transformer, mut rows: Vec<Vec<u32>>) -> Result<Squares> {
    if rows.is_empty() {
        return Err(Error::Usage(
            "pruning needs texts that show the behaviour and texts that do not".into(),
        ));
    }
    let layers = host.sites().iter();
    let layers = layers.filter(|site| site.kind == SiteKind::Linear && !site.head);
    let capture = Capture::new(layers.map(|site| &site.path), Side::Input);
    let mut found = Squares::new();
    // Texts of one length share a batch, so that there is no padding to leave out.
    rows.sort_by_key(Vec::len);
    for batch in rows
        .chunk_by(|a, b| a.len() == b.len())
        .flat_map(|same| same.chunks(BATCH))
    {
        let input = TokenInput::from_ids(batch, 0, false, &host.device());
        within(|| host.hidden(&input, &Pass::default(), &[&capture], None))?;
        for (path, seen) in capture.take() {
            let seen = seen.tensor::<3>()?;
            let [rows, time, width] = seen.dims();
            let sums = to_vec(seen.square().reshape([rows * time, width]).sum_dim(0));
            let total = found.entry(path).or_insert_with(|| vec![0.0; width]);
            let pairs = total.iter_mut().zip(sums);
            pairs.for_each(|(total, more)| *total += f64::from(more));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use std::path::Path;

    #[test]
    fn the_whole_of_a_row_is_never_pruned_and_nothing_at_share_zero() {
        let house = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/house");
        let host = modelsmith_hosts::load(&house, &Device::flex()).unwrap();
        let tokenizer = Tokenizer::load(&house).unwrap();
        let texts = Texts {
            texts: [
                "is a doctor in",
                "was born in",
                "works",
                "is the capital of",
            ]
            .map(str::to_owned)
            .into(),
            classes: vec![0, 1, 0, 1],
            names: vec!["a".into(), "b".into()],
        };
        let pruning = Pruning::new(&host, &tokenizer, (&texts, 1), 100).unwrap();
        assert_eq!(pruning.at(&host, 0.0).unwrap().1, 0);
        assert_eq!(pruning.at(&host, 1.0).unwrap().1, 0);
        let (pruned, count) = pruning.at(&host, 0.1).unwrap();
        assert!(count > 0);
        let zeros = |host: &Transformer| {
            let weights = host.sites().iter().filter_map(|site| {
                let linear = site.kind == SiteKind::Linear && !site.head;
                host.weight(&host.site_weights(site).0.filter(|_| linear)?)
            });
            let of = |weight: Flat| weight.to_vec().into_iter().filter(|x| *x == 0.0).count();
            weights.map(of).sum::<usize>()
        };
        assert_eq!(zeros(&pruned), zeros(&host) + count);
        let none = texts.pick(&[0, 2]);
        assert!(Pruning::new(&host, &tokenizer, (&none, 1), 100).is_err());
    }
}
