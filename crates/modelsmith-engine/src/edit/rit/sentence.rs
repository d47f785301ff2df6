//! Sentence encoders in the folders of the `sentence-transformers` package: a host, the pooling of its states, dense
//! layers behind it, and vectors of length 1.

use super::embed::{Embedder, Vector};
use crate::adapter_folder::base_hash;
use crate::pool::within;
use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{Reader, read_json};
use modelsmith_core::hooks::Pass;
use modelsmith_core::host::Host;
use modelsmith_core::parameters::to_vec;
use modelsmith_data::Tokenizer;
use modelsmith_hosts::{TokenInput, Transformer};
use serde_json::Value;
use std::path::Path;

/// Texts in one pass.
const BATCH: usize = 32;

/// How the states of a text's tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pooling {
    /// The first token's.
    First,
    /// Number by number the largest.
    Largest,
    /// The mean.
    Mean,
    /// The sum over the root of the count.
    MeanRoot,
    /// The mean, a token counting by its place from 1.
    Weighted,
    /// The last token's.
    Last,
}

/// Their names in `pooling_mode`, and the older keys that are true for them.
const POOLINGS: [(&str, &str, Pooling); 6] = [
    ("cls", "pooling_mode_cls_token", Pooling::First),
    ("max", "pooling_mode_max_tokens", Pooling::Largest),
    ("mean", "pooling_mode_mean_tokens", Pooling::Mean),
    (
        "mean_sqrt_len_tokens",
        "pooling_mode_mean_sqrt_len_tokens",
        Pooling::MeanRoot,
    ),
    (
        "weightedmean",
        "pooling_mode_weightedmean_tokens",
        Pooling::Weighted,
    ),
    ("lasttoken", "pooling_mode_lasttoken", Pooling::Last),
];

/// `y = act(W x + b)`.
#[derive(Clone, Debug)]
struct Dense {
    /// `[outputs, inputs]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
    tanh: bool,
}

/// A sentence encoder with all its parts. Texts that are too long are cut, as the package does; vectors have length 1
/// whether or not the folder asks for it, since cosines are all that is made of them.
#[derive(Debug)]
pub struct SentenceEncoder {
    host: Transformer,
    tokenizer: Tokenizer,
    /// Tokens of a text at most, special ones among them.
    longest: usize,
    lower: bool,
    pooling: Vec<Pooling>,
    dense: Vec<Dense>,
    hash: String,
}

impl SentenceEncoder {
    /// Reads a folder with `modules.json`.
    ///
    /// # Errors
    /// Files that are missing or malformed, modules that are not implemented, weights of another shape.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let path = folder.join("modules.json");
        let modules: Vec<Value> = read_json(&path)?;
        let text = |module: &Value, key: &str| {
            let found = module[key].as_str().map(str::to_owned);
            found.ok_or_else(|| Error::file(&path, format!("a module has no `{key}`")))
        };
        let mut host = None;
        let mut pooling = Vec::new();
        let mut dense = Vec::new();
        for module in &modules {
            let (kind, own) = (text(module, "type")?, text(module, "path")?);
            let own = match own.is_empty() {
                true => folder.to_path_buf(),
                false => folder.join(modelsmith_core::files::safe_name("module", &own)?),
            };
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => host = Some(own),
                "Pooling" => pooling = read_pooling(&own)?,
                "Dense" => dense.push(Dense::read(&own)?),
                "Normalize" | "Dropout" => {}
                other => {
                    let known = "Transformer, Pooling, Dense, Normalize and Dropout";
                    let problem = format!("has a module `{other}`; {known} are implemented");
                    return Err(Error::file(path, problem));
                }
            }
        }
        let (Some(own), false) = (host, pooling.is_empty()) else {
            let problem = "needs a Transformer and a Pooling among its modules";
            return Err(Error::file(path, problem));
        };
        let host = modelsmith_hosts::load(&own, device)?;
        let tokenizer = Tokenizer::load(&own)?;
        let most = tokenizer.max_length().unwrap_or(usize::MAX);
        let (longest, lower) = limits(&own, most.min(host.max_positions()))?;
        let encoder = Self {
            tokenizer,
            hash: base_hash(&own)?,
            longest,
            lower,
            pooling,
            dense,
            host,
        };
        encoder.check(&path)?;
        Ok(encoder)
    }

    /// Numbers of a vector.
    pub fn width(&self) -> usize {
        let pooled = self.host.hidden_size() * self.pooling.len();
        self.dense.last().map_or(pooled, |last| last.bias.len())
    }

    fn check(&self, path: &Path) -> Result<()> {
        let mut width = self.host.hidden_size() * self.pooling.len();
        for layer in &self.dense {
            if layer.inputs != width {
                let problem = format!(
                    "has a Dense of {} inputs behind {width} numbers; the parts do not fit",
                    layer.inputs
                );
                return Err(Error::file(path, problem));
            }
            width = layer.bias.len();
        }
        Ok(())
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let lowered = self.lower.then(|| text.to_lowercase());
        let text = lowered.as_deref().unwrap_or(text).trim();
        let mut ids = self.tokenizer.encode(text, true)?;
        if ids.len() > self.longest {
            // What the tokenizer puts behind a text stays there.
            let bare = self.tokenizer.encode("", true)?.len().saturating_sub(1);
            let tail = ids.split_off(ids.len() - bare.min(1));
            ids.truncate(self.longest - tail.len());
            ids.extend(tail);
        }
        Ok(ids)
    }

    /// Pooled states of rows of tokens, with dense layers behind them.
    fn vectors(&self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let pad = self.host.pad_token().unwrap_or(0);
        let input = TokenInput::from_ids(rows, pad, false, &self.host.device());
        let hidden = within(|| self.host.hidden(&input, &Pass::default(), &[], None))?;
        let [_, time, width] = hidden.dims();
        let states = to_vec(hidden);
        let texts = states.chunks_exact(time * width).zip(rows);
        let pooled = texts.map(|(states, row)| {
            let states: Vec<&[f32]> = states.chunks_exact(width).take(row.len()).collect();
            let parts = self.pooling.iter().flat_map(|pooling| pooling.of(&states));
            let start: Vec<f32> = parts.collect();
            self.dense.iter().fold(start, |x, layer| layer.apply(&x))
        });
        Ok(pooled.collect())
    }
}

impl Embedder for SentenceEncoder {
    fn name(&self) -> String {
        format!("sentence encoder {}, {}", &self.hash[..12], self.width())
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vector>> {
        let mut rows: Vec<(usize, Vec<u32>)> = Vec::with_capacity(texts.len());
        for (number, text) in texts.iter().enumerate() {
            rows.push((number, self.tokens(text)?));
        }
        rows.retain(|(_, ids)| !ids.is_empty());
        rows.sort_by_key(|(number, ids)| (ids.len(), *number));
        let mut vectors = vec![Vector::Dense(Vec::new()); texts.len()];
        for batch in rows.chunks(BATCH) {
            let ids: Vec<Vec<u32>> = batch.iter().map(|(_, ids)| ids.clone()).collect();
            for ((number, _), found) in batch.iter().zip(self.vectors(&ids)?) {
                vectors[*number] = Vector::dense(found);
            }
        }
        Ok(vectors)
    }
}

impl Pooling {
    /// One vector of the states of a text, of which there is one at least.
    fn of(self, states: &[&[f32]]) -> Vec<f32> {
        let count = states.len() as f64;
        let sum = |at: usize| states.iter().map(|state| f64::from(state[at])).sum::<f64>();
        let weighted = |at: usize| {
            let terms = (1..)
                .zip(states)
                .map(|(place, state)| f64::from(place) * f64::from(state[at]));
            terms.sum::<f64>() / (count * (count + 1.0) / 2.0)
        };
        let largest = |at: usize| {
            states
                .iter()
                .map(|state| state[at])
                .fold(f32::MIN, f32::max)
        };
        let places = 0..states[0].len();
        match self {
            Self::First => states[0].to_vec(),
            Self::Last => states[states.len() - 1].to_vec(),
            Self::Largest => places.map(largest).collect(),
            Self::Mean => places.map(|at| (sum(at) / count) as f32).collect(),
            Self::MeanRoot => places.map(|at| (sum(at) / count.sqrt()) as f32).collect(),
            Self::Weighted => places.map(|at| weighted(at) as f32).collect(),
        }
    }
}

impl Dense {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let config: Value = read_json(&path)?;
        let activation = config["activation_function"].as_str().unwrap_or_default();
        let tanh = match activation.rsplit('.').next().unwrap_or_default() {
            "Identity" => false,
            "Tanh" => true,
            other => {
                let problem =
                    format!("has the activation `{other}`; Identity and Tanh are implemented");
                return Err(Error::file(path, problem));
            }
        };
        let path = folder.join("model.safetensors");
        let reader = Reader::open(&path)?;
        let shape = &reader.info("linear.weight")?.shape;
        let [outputs, inputs] = shape[..] else {
            let problem = format!("linear.weight has shape {shape:?}; expected two numbers");
            return Err(Error::file(path, problem));
        };
        let bias = match reader.contains("linear.bias") {
            true => reader.f32("linear.bias")?,
            false => vec![0.0; outputs],
        };
        if bias.len() != outputs {
            let problem = format!(
                "linear.bias has {} numbers for {outputs} outputs",
                bias.len()
            );
            return Err(Error::file(path, problem));
        }
        Ok(Self {
            weight: reader.f32("linear.weight")?,
            bias,
            inputs,
            tanh,
        })
    }

    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let rows = self.weight.chunks_exact(self.inputs).zip(&self.bias);
        let outputs = rows.map(|(row, bias)| {
            let products = row
                .iter()
                .zip(x)
                .map(|(a, b)| f64::from(*a) * f64::from(*b));
            let sum = products.sum::<f64>() + f64::from(*bias);
            (if self.tanh { sum.tanh() } else { sum }) as f32
        });
        outputs.collect()
    }
}

/// The poolings of a folder, one vector behind the other.
fn read_pooling(folder: &Path) -> Result<Vec<Pooling>> {
    let path = folder.join("config.json");
    let config: Value = read_json(&path)?;
    let of_name = |name: &Value| {
        let known = POOLINGS.iter().find(|(known, ..)| name == known);
        known.map(|(.., pooling)| *pooling).ok_or_else(|| {
            let known: Vec<&str> = POOLINGS.iter().map(|(name, ..)| *name).collect();
            let problem = format!("pooling_mode has {name}; known are {}", known.join(", "));
            Error::file(&path, problem)
        })
    };
    let found: Vec<Pooling> = match &config["pooling_mode"] {
        Value::Null => {
            let asked = POOLINGS.iter().filter(|(_, key, _)| config[*key] == true);
            asked.map(|(.., pooling)| *pooling).collect()
        }
        Value::Array(names) => names.iter().map(of_name).collect::<Result<_>>()?,
        name => vec![of_name(name)?],
    };
    match found.is_empty() {
        true => Err(Error::file(
            path,
            "asks for no pooling; name one in pooling_mode",
        )),
        false => Ok(found),
    }
}

/// The most tokens of a text, and whether texts are read in lower case.
fn limits(folder: &Path, most: usize) -> Result<(usize, bool)> {
    let path = folder.join("sentence_bert_config.json");
    let config: Value = match path.is_file() {
        true => read_json(&path)?,
        false => Value::Null,
    };
    let written = config["max_seq_length"].as_u64().map(|most| most as usize);
    let longest = written.unwrap_or(usize::MAX).min(most);
    if longest < 3 {
        let problem = format!("max_seq_length is {longest}; a text needs three tokens at least");
        return Err(Error::file(path, problem));
    }
    Ok((longest, config["do_lower_case"] == Value::Bool(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parity() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/rit")
    }

    fn numbers(value: &Value) -> Vec<f32> {
        let values = value.as_array().unwrap().iter();
        values.map(|x| x.as_f64().unwrap() as f32).collect()
    }

    /// Against sentence-transformers 6.2.0; `parity/rit/make.py` made the files.
    #[test]
    fn vectors_are_those_of_the_package() {
        for (case, width) in [("mean_dense", 12), ("mean_linear", 12), ("cls_max", 48)] {
            let folder = parity().join(case);
            let encoder = SentenceEncoder::open(&folder, &Device::flex()).unwrap();
            assert_eq!(encoder.width(), width);
            let expected: Value = read_json(folder.join("expected.json")).unwrap();
            let sentences = expected["sentences"].as_array().unwrap();
            let sentences: Vec<&str> = sentences.iter().map(|one| one.as_str().unwrap()).collect();
            let found = encoder.embed(&sentences).unwrap();
            assert_eq!(found.len(), 10);
            for (number, found) in found.iter().enumerate() {
                let Vector::Dense(found) = found else {
                    panic!("{case}: {number} is not dense")
                };
                let expected = numbers(&expected["vectors"][number]);
                assert_eq!(found.len(), expected.len());
                for (a, b) in found.iter().zip(&expected) {
                    assert!((a - b).abs() < 1e-5, "{case}: {number}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn poolings_are_read_by_older_keys_too() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(folder.path().join("config.json"), text).unwrap();
        write(r#"{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}"#);
        let found = read_pooling(folder.path()).unwrap();
        assert_eq!(found, [Pooling::First, Pooling::Mean]);
        let states: [&[f32]; 2] = [&[1.0, 4.0], &[3.0, 0.0]];
        let root = 2.0_f32.sqrt();
        for (pooling, expected) in [
            (Pooling::First, [1.0, 4.0]),
            (Pooling::Largest, [3.0, 4.0]),
            (Pooling::Mean, [2.0, 2.0]),
            (Pooling::MeanRoot, [4.0 / root, 4.0 / root]),
            (Pooling::Weighted, [7.0 / 3.0, 4.0 / 3.0]),
            (Pooling::Last, [3.0, 0.0]),
        ] {
            assert_eq!(pooling.of(&states), expected);
        }
    }

    #[test]
    fn folders_that_are_not_understood_are_refused() {
        let copy = |change: &dyn Fn(&Path)| {
            let folder = tempfile::tempdir().unwrap();
            let from = parity().join("mean_dense");
            for entry in walk(&from) {
                let to = folder.path().join(entry.strip_prefix(&from).unwrap());
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::copy(&entry, to).unwrap();
            }
            change(folder.path());
            let found = SentenceEncoder::open(folder.path(), &Device::flex());
            found.unwrap_err().to_string()
        };
        let edit = |name: &'static str, from: &'static str, to: &'static str| {
            move |folder: &Path| {
                let text = std::fs::read_to_string(folder.join(name)).unwrap();
                assert!(text.contains(from), "{text}");
                std::fs::write(folder.join(name), text.replace(from, to)).unwrap();
            }
        };
        for (change, expected) in [
            (
                edit("modules.json", "normalize.Normalize", "x.LayerPooling"),
                "a module `LayerPooling`",
            ),
            (
                edit("modules.json", "pooling.Pooling", "dropout.Dropout"),
                "needs a Transformer and a Pooling",
            ),
            (
                edit("2_Dense/config.json", "activation.Tanh", "activation.GELU"),
                "the activation `GELU`",
            ),
            (
                edit("1_Pooling/config.json", "\"mean\"", "\"men\""),
                "pooling_mode has \"men\"; known are cls, max",
            ),
            (
                edit("1_Pooling/config.json", "pooling_mode", "other"),
                "asks for no pooling",
            ),
        ] {
            let error = copy(&change);
            assert!(error.contains(expected), "{error}");
        }
    }

    fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(folder)
            .unwrap()
            .map(|one| one.unwrap().path());
        let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        let below = folders.iter().flat_map(|folder| walk(folder));
        files.iter().cloned().chain(below).collect()
    }
}
