//! Second moments of the keys of ordinary text, `C = E[k kᵀ]`, of all edited layers in one pass:
//! accumulated in f64, kept in a file that a later run finds again.

use super::mlps::Mlp;
use super::rows::numbered;
use super::span::Span;
use burn::tensor::{Int, Tensor, TensorData};
use faer::Mat;
use modelsmith_core::capture::{Capture, Side};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{DType, Reader, TensorSpec, write_streamed};
use modelsmith_core::hooks::Pass;
use modelsmith_core::host::Host;
use modelsmith_core::parameters::to_vec;
use modelsmith_hosts::{TokenInput, Transformer};
use modelsmith_methods::edit::Moment;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Tokens of a pass, padding included, at most.
const TOKENS: usize = 8192;

/// Texts after which the sums are kept, so that a stopped collection goes on.
const KEPT: usize = 4096;

/// Sums over the tokens read so far.
pub(crate) struct Sums {
    matrices: BTreeMap<usize, Mat<f64>>,
    tokens: u64,
    /// Texts read.
    texts: usize,
}

/// Moments of `layers` over `texts`, in tokens. Where `file` is there and was made for the same texts
/// by their `key`, it is read, and reading goes on where it stopped; it is written now and then.
///
/// # Errors
/// Texts without a token, a file that cannot be read or written.
pub(crate) fn collect(
    host: &Transformer,
    mlps: &[Mlp],
    layers: &[usize],
    texts: &[Vec<u32>],
    file: Option<(&Path, &str)>,
) -> Result<BTreeMap<usize, Moment>> {
    let mut sums = Sums::new(mlps, layers);
    if let Some((path, key)) = file {
        sums.read(path, key)?;
    }
    let mut kept = sums.texts;
    while sums.texts < texts.len() {
        let end = block_end(texts, sums.texts);
        sums.add(host, mlps, &texts[sums.texts..end])?;
        sums.texts = end;
        if let Some((path, key)) = file
            && end - kept >= KEPT
        {
            sums.write(path, key)?;
            kept = end;
        }
    }
    if let Some((path, key)) = file
        && sums.texts > kept
    {
        sums.write(path, key)?;
    }
    sums.finish()
}

/// The end of a block of texts that begins at `begin`.
fn block_end(texts: &[Vec<u32>], begin: usize) -> usize {
    let mut longest = 0;
    let mut end = begin;
    while end < texts.len() && (end + 1 - begin) <= 512 {
        longest = longest.max(texts[end].len());
        if end > begin && longest * (end + 1 - begin) > TOKENS {
            break;
        }
        end += 1;
    }
    end
}

impl Sums {
    fn new(mlps: &[Mlp], layers: &[usize]) -> Self {
        let zeros = |layer: &usize| {
            let width = mlps[*layer].site.inputs;
            (*layer, Mat::zeros(width, width))
        };
        Self {
            matrices: layers.iter().map(zeros).collect(),
            tokens: 0,
            texts: 0,
        }
    }

    fn add(&mut self, host: &Transformer, mlps: &[Mlp], texts: &[Vec<u32>]) -> Result<()> {
        let Some(last) = self.matrices.keys().next_back().copied() else {
            return Ok(());
        };
        let texts: Vec<Vec<u32>> = texts
            .iter()
            .filter(|text| !text.is_empty())
            .cloned()
            .collect();
        if texts.is_empty() {
            return Ok(());
        }
        let pad = host.pad_token().unwrap_or(0);
        let input = TokenInput::from_ids(&texts, pad, false, &host.device());
        let blocks = numbered(mlps);
        let span = Span::new(&blocks, None, last);
        let paths = self
            .matrices
            .keys()
            .map(|layer| mlps[*layer].site.path.clone());
        let capture = Capture::new(paths, Side::Input);
        host.hidden(&input, &Pass::default(), &[&span, &capture], None)?;
        let time = input.dims()[1];
        let real = |(row, text): (usize, &Vec<u32>)| {
            let own = row * time..row * time + text.len();
            own.map(|place| place as i64).collect::<Vec<_>>()
        };
        let places: Vec<i64> = texts.iter().enumerate().flat_map(real).collect();
        let count = places.len();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &host.device());
        let mut seen = capture.take();
        for (layer, sum) in &mut self.matrices {
            let path = &mlps[*layer].site.path;
            let keys = seen
                .remove(path)
                .ok_or_else(|| Error::Failed(format!("{path} was not visited")))?;
            let keys: Tensor<3> = keys.tensor()?;
            let [rows, time, width] = keys.dims();
            let values = to_vec(keys.reshape([rows * time, width]).select(0, places.clone()));
            let keys = Mat::from_fn(width, count, |row, column| {
                f64::from(values[column * width + row])
            });
            *sum += &keys * keys.transpose();
        }
        self.tokens += count as u64;
        Ok(())
    }

    fn finish(self) -> Result<BTreeMap<usize, Moment>> {
        if self.tokens == 0 && !self.matrices.is_empty() {
            return Err(Error::Usage(
                "the corpus has no token; give a text that is like what the model was trained on"
                    .into(),
            ));
        }
        let scale = faer::Scale(1.0 / self.tokens.max(1) as f64);
        let moment = |(layer, sum): (usize, Mat<f64>)| {
            let mean = sum * scale;
            if (0..mean.nrows()).any(|place| !mean[(place, place)].is_finite()) {
                return Err(Error::Numeric(format!(
                    "the keys of block {layer} are not finite; the weights hold NaN or infinite values"
                )));
            }
            Ok((layer, Moment::new(mean, self.tokens)))
        };
        self.matrices.into_iter().map(moment).collect()
    }

    fn read(&mut self, path: &Path, key: &str) -> Result<()> {
        if !path.is_file() {
            return Ok(());
        }
        let reader = Reader::open(path)?;
        let number = |name: &str| {
            reader
                .metadata()
                .get(name)
                .and_then(|text| text.parse().ok())
        };
        let fits = reader
            .metadata()
            .get("key")
            .is_some_and(|found| found == key)
            && self.matrices.iter().all(|(layer, sum)| {
                let info = reader.info(&layer.to_string());
                info.is_ok_and(|info| info.shape == [sum.nrows(), sum.nrows()])
            });
        let (true, Some(tokens), Some(texts)) = (fits, number("tokens"), number("texts")) else {
            return Ok(());
        };
        for (layer, sum) in &mut self.matrices {
            let bytes = reader.bytes(&layer.to_string())?;
            let values: Vec<f64> = bytes
                .as_chunks::<8>()
                .0
                .iter()
                .map(|bytes| f64::from_le_bytes(*bytes))
                .collect();
            let width = sum.nrows();
            *sum = Mat::from_fn(width, width, |row, column| values[row * width + column]);
        }
        self.tokens = tokens;
        self.texts = texts as usize;
        Ok(())
    }

    fn write(&self, path: &Path, key: &str) -> Result<()> {
        let specs: Vec<TensorSpec> = self
            .matrices
            .iter()
            .map(|(layer, sum)| {
                TensorSpec::new(layer.to_string(), DType::F64, [sum.nrows(), sum.ncols()])
            })
            .collect();
        let metadata = BTreeMap::from([
            ("key".to_owned(), key.to_owned()),
            ("texts".to_owned(), self.texts.to_string()),
            ("tokens".to_owned(), self.tokens.to_string()),
        ]);
        write_streamed(path, &specs, &metadata, &mut |spec| {
            let sum = spec
                .name
                .parse()
                .ok()
                .and_then(|layer: usize| self.matrices.get(&layer));
            let width = spec.shape[1];
            let value = |place: usize| {
                let value = sum.map_or(0.0, |sum| sum[(place / width, place % width)]);
                value.to_le_bytes()
            };
            let bytes: Vec<u8> = (0..width * width).flat_map(value).collect();
            Ok(Cow::Owned(bytes))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::mlps::mlps;
    use burn::tensor::Device;
    use std::path::PathBuf;

    #[test]
    fn a_collection_that_stopped_goes_on_with_equal_sums() {
        let host = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/hosts/gpt2");
        let host = modelsmith_hosts::load(&host, &Device::flex()).unwrap();
        let mlps = mlps(&host).unwrap();
        let texts: Vec<Vec<u32>> = (0..1100_u32)
            .map(|number| vec![number % 80, 7, number % 11])
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("moments.safetensors");
        let mut sums = Sums::new(&mlps, &[0, 1]);
        let end = block_end(&texts, 0);
        sums.add(&host, &mlps, &texts[..end]).unwrap();
        sums.texts = end;
        sums.write(&file, "key").unwrap();
        let collect = |file| collect(&host, &mlps, &[0, 1], &texts, file).unwrap();
        let (whole, resumed) = (collect(None), collect(Some((file.as_path(), "key"))));
        let other = collect(Some((file.as_path(), "another")));
        for layer in [0, 1] {
            assert_eq!(whole[&layer].tokens(), 3300);
            assert_eq!(resumed[&layer].tokens(), 3300);
            assert!(whole[&layer].matrix() == resumed[&layer].matrix());
            assert!(whole[&layer].matrix() == other[&layer].matrix());
        }
    }
}
