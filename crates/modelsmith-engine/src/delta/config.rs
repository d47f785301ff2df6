//! A merge as mergekit's YAML writes it, read strictly.

use super::setting::{self, Settings};
use crate::recipe::read_typed;
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::files::DType;
use modelsmith_methods::delta::merge::{Base, MergeMethod, find};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A configuration file is small; what is larger is something else.
const MOST_BYTES: u64 = 4 << 20;

/// A merge, checked as far as it can be without the models.
#[derive(Clone, Debug)]
pub(crate) struct MergeConfig {
    /// The method.
    pub(crate) method: &'static MergeMethod,
    /// Folders of all models, each once, in the order in which the configuration names them.
    pub(crate) models: Vec<PathBuf>,
    /// Which of them is the base.
    pub(crate) base: Option<usize>,
    /// Parts of the result, first layers first.
    pub(crate) slices: Vec<Slice>,
    /// Whether layers are stacked from ranges.
    pub(crate) stacked: bool,
    /// Parameters of everything.
    pub(crate) parameters: Settings,
    /// Type of the written weights; `None` keeps the reference's.
    pub(crate) dtype: Option<DType>,
    /// Whose tokenizer the result has.
    pub(crate) tokenizer: Tokenizer,
    /// The text, for the record.
    pub(crate) text: String,
}

/// A part of the result.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    /// What it is merged from.
    pub(crate) sources: Vec<Source>,
    /// Which of the sources is the base.
    pub(crate) base: Option<usize>,
    /// Parameters of the part.
    pub(crate) parameters: Settings,
}

/// A model, or a range of its layers.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Which model.
    pub(crate) model: usize,
    /// Its layers; `None` for all.
    pub(crate) layers: Option<Range<usize>>,
    /// Its parameters.
    pub(crate) parameters: Settings,
}

/// Whose tokenizer the result has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tokenizer {
    /// That of the reference, as it is.
    Kept,
    /// That of the reference; all models must have the same words.
    Base,
    /// One with the words of all models, which must be the same.
    Union,
    /// That of a model's folder; all models must have the same words.
    Of(PathBuf),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    merge_method: String,
    models: Option<Vec<WrittenModel>>,
    slices: Option<Vec<WrittenSlice>>,
    base_model: Option<Value>,
    parameters: Option<Map<String, Value>>,
    dtype: Option<String>,
    out_dtype: Option<String>,
    tokenizer_source: Option<Value>,
    tokenizer: Option<WrittenTokenizer>,
    chat_template: Option<String>,
    modules: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenModel {
    model: Value,
    parameters: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSlice {
    sources: Vec<WrittenSource>,
    base_model: Option<Value>,
    parameters: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSource {
    model: Value,
    layer_range: Option<Vec<usize>>,
    parameters: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTokenizer {
    source: Option<Value>,
    tokens: Option<Value>,
    pad_to_multiple_of: Option<u64>,
}

impl MergeConfig {
    /// Reads a file. Relative paths of models start at the working folder, as mergekit has it.
    ///
    /// # Errors
    /// No YAML, unknown keys (with near ones), a method or parameter that does not exist, a number of models that the
    /// method does not take, and what is not built, by its name.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path)
            .map_err(|error| Error::io(path, error))?
            .len();
        if size > MOST_BYTES {
            return Err(Error::file(
                path,
                format!("{size} bytes are no merge configuration"),
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        Self::parse(&text).map_err(|error| match error {
            Error::Config { key, problem } => {
                Error::config(format!("{}: {key}", path.display()), problem)
            }
            other => other,
        })
    }

    /// As [`read`](Self::read), from a text.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let value: Value =
            serde_yaml_ng::from_str(text).map_err(|error| Error::config("YAML", error))?;
        if !value.is_object() {
            return Err(Error::config(
                "YAML",
                "expected keys such as merge_method and models",
            ));
        }
        let written: Written = read_typed(&value)?;
        let method = find(&written.merge_method)?;
        refuse_what_is_not_built(&written)?;
        let mut config = Self {
            method,
            models: Vec::new(),
            base: None,
            slices: Vec::new(),
            stacked: written.slices.is_some(),
            parameters: setting::read("parameters", written.parameters.as_ref())?,
            dtype: dtype(&written)?,
            tokenizer: tokenizer(&written)?,
            text: text.to_owned(),
        };
        config.enter(written)?;
        config
            .slices
            .iter()
            .enumerate()
            .try_for_each(|(number, slice)| config.check(number, slice))?;
        Ok(config)
    }

    /// The model that names, configuration and tokenizer come from.
    pub(crate) fn reference(&self) -> usize {
        self.base.unwrap_or_else(|| self.slices[0].sources[0].model)
    }

    fn enter(&mut self, written: Written) -> Result<()> {
        match (written.models, written.slices) {
            (Some(models), None) => {
                let sources = models.into_iter().map(|one| WrittenSource {
                    model: one.model,
                    layer_range: None,
                    parameters: one.parameters,
                });
                let slice = WrittenSlice {
                    sources: sources.collect(),
                    base_model: None,
                    parameters: None,
                };
                self.enter_slice("models", "models", slice, written.base_model.as_ref())
            }
            (None, Some(slices)) if !slices.is_empty() => slices
                .into_iter()
                .enumerate()
                .try_for_each(|(number, slice)| {
                    let key = format!("slices[{number}]");
                    self.enter_slice(
                        &key,
                        &format!("{key}.sources"),
                        slice,
                        written.base_model.as_ref(),
                    )
                }),
            (None, Some(_)) => Err(Error::config("slices", "is empty")),
            (Some(_), Some(_)) => Err(Error::config(
                "models",
                "is given beside slices; give one of the two",
            )),
            (None, None) => Err(Error::config("models", "is missing; give models or slices")),
        }
    }

    fn enter_slice(
        &mut self,
        key: &str,
        list: &str,
        written: WrittenSlice,
        base: Option<&Value>,
    ) -> Result<()> {
        let mut sources = Vec::new();
        for (number, one) in written.sources.into_iter().enumerate() {
            let key = format!("{list}[{number}]");
            sources.push(Source {
                model: self.number(&format!("{key}.model"), &one.model)?,
                layers: layers(&key, one.layer_range)?,
                parameters: setting::read(&format!("{key}.parameters"), one.parameters.as_ref())?,
            });
        }
        let first = sources.first().map(|source| source.layers.clone());
        let layers = first.ok_or_else(|| Error::config(list, "is empty"))?;
        let mut place = None;
        if let Some(base) = written.base_model.as_ref().or(base) {
            let model = self.number("base_model", base)?;
            self.base = self.base.or(Some(model));
            place = sources.iter().position(|source| source.model == model);
            if place.is_none() && self.method.base != Base::Unused {
                place = Some(sources.len());
                let parameters = Settings::new();
                sources.push(Source {
                    model,
                    layers,
                    parameters,
                });
            }
        }
        self.slices.push(Slice {
            sources,
            base: place.filter(|_| self.method.base != Base::Unused),
            parameters: setting::read(&format!("{key}.parameters"), written.parameters.as_ref())?,
        });
        Ok(())
    }

    /// The number of a model, which is entered where it is new.
    fn number(&mut self, key: &str, value: &Value) -> Result<usize> {
        let path = model_path(key, value)?;
        Ok(match self.models.iter().position(|known| *known == path) {
            Some(number) => number,
            None => {
                self.models.push(path);
                self.models.len() - 1
            }
        })
    }

    fn check(&self, number: usize, slice: &Slice) -> Result<()> {
        let method = self.method;
        let id = method.card.id;
        let key = if self.stacked {
            format!("slices[{number}].sources")
        } else {
            "models".to_owned()
        };
        if method.base == Base::Needed && slice.base.is_none() {
            let problem = format!("is missing; {id} works on differences from a base");
            return Err(Error::config("base_model", problem));
        }
        let others = slice.sources.len() - usize::from(slice.base.is_some());
        if !(method.fewest..=method.most).contains(&others) {
            let wanted = match (method.fewest, method.most) {
                (fewest, most) if fewest == most => format!("{fewest}"),
                (fewest, _) => format!("at least {fewest}"),
            };
            let beside = if slice.base.is_some() {
                " beside the base"
            } else {
                ""
            };
            return Err(Error::config(
                key,
                format!("{id} merges {wanted}{beside}; found {others}"),
            ));
        }
        let count = |source: &Source| source.layers.as_ref().map(Range::len);
        let first = slice.sources.first().and_then(count);
        if slice.sources.iter().any(|source| count(source) != first) {
            return Err(Error::config(
                key,
                "have layer ranges of different lengths; a merge needs equal ones",
            ));
        }
        Ok(())
    }
}

/// What mergekit has and this program has not, by name.
fn refuse_what_is_not_built(written: &Written) -> Result<()> {
    if written.modules.is_some() {
        return Err(Error::config(
            "modules",
            "merging part by part is not built; give models or slices",
        ));
    }
    if let Some(template) = written
        .chat_template
        .as_deref()
        .filter(|template| *template != "auto")
    {
        let problem = format!(
            "`{template}` is not built; leave it out, and the reference's template is kept"
        );
        return Err(Error::config("chat_template", problem));
    }
    if let Some(tokenizer) = &written.tokenizer {
        for (name, given) in [
            ("tokens", tokenizer.tokens.is_some()),
            ("pad_to_multiple_of", tokenizer.pad_to_multiple_of.is_some()),
        ] {
            if given {
                return Err(Error::config(
                    format!("tokenizer.{name}"),
                    "is not built; leave it out",
                ));
            }
        }
    }
    Ok(())
}

fn dtype(written: &Written) -> Result<Option<DType>> {
    let given = [("out_dtype", &written.out_dtype), ("dtype", &written.dtype)];
    let mut found = None;
    for (key, name) in given {
        let Some(name) = name else { continue };
        let parsed = match name.trim_start_matches("torch.") {
            "float32" => DType::F32,
            "float16" => DType::F16,
            "bfloat16" => DType::BF16,
            other => {
                let near = suggest(other, ["float32", "float16", "bfloat16"]);
                return Err(Error::config(key, format!("is {name}; {near}")));
            }
        };
        found = found.or(Some(parsed));
    }
    Ok(found)
}

fn tokenizer(written: &Written) -> Result<Tokenizer> {
    let (key, source) = match (&written.tokenizer_source, &written.tokenizer) {
        (Some(_), Some(_)) => {
            return Err(Error::config(
                "tokenizer_source",
                "is given beside tokenizer; give one of the two",
            ));
        }
        (Some(source), None) => ("tokenizer_source", source),
        (
            None,
            Some(WrittenTokenizer {
                source: Some(source),
                ..
            }),
        ) => ("tokenizer.source", source),
        (None, Some(_)) => return Ok(Tokenizer::Union),
        (None, None) => return Ok(Tokenizer::Kept),
    };
    Ok(match source.as_str() {
        Some("base") => Tokenizer::Base,
        Some("union") => Tokenizer::Union,
        _ => Tokenizer::Of(model_path(key, source)?),
    })
}

fn layers(key: &str, range: Option<Vec<usize>>) -> Result<Option<Range<usize>>> {
    match range.as_deref() {
        None => Ok(None),
        Some([begin, end]) if begin < end => Ok(Some(*begin..*end)),
        Some(other) => {
            let problem = format!("is {other:?}; expected [FIRST, END] with FIRST below END");
            Err(Error::config(format!("{key}.layer_range"), problem))
        }
    }
}

/// The folder of a model: a text, or `{model: {path: ...}}` as mergekit writes it out.
fn model_path(key: &str, value: &Value) -> Result<PathBuf> {
    let text = match value {
        Value::String(text) => text,
        other => {
            let path = other
                .pointer("/model/path")
                .or_else(|| other.pointer("/path"));
            let extra = |name: &str| other.get(name).is_some_and(|value| !value.is_null());
            if ["lora", "override_architecture"]
                .iter()
                .any(|name| extra(name))
            {
                return Err(Error::config(
                    key,
                    "names an adapter or another architecture; merge adapters first with `modelsmith adapter merge`",
                ));
            }
            path.and_then(Value::as_str).ok_or_else(|| {
                Error::config(key, format!("is {other}; expected the folder of a model"))
            })?
        }
    };
    let path = PathBuf::from(text);
    if path.exists() {
        return Ok(path);
    }
    let problem = match text.split_once('+') {
        Some((base, _)) if Path::new(base).exists() => {
            "names an adapter after a +; fold it into a checkpoint first with `modelsmith adapter merge`"
        }
        _ => {
            "no such folder here; nothing is downloaded, so give a local folder in Hugging Face layout"
        }
    };
    Err(Error::config(key, format!("is {text}: {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        MergeConfig::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn configurations_are_read_as_they_are_written() {
        let text = "
merge_method: ties
base_model: /
models:
  - model: /tmp
    parameters: {density: 0.5, weight: [0, 0.3, 1]}
  - model: {model: {path: /}}
parameters:
  normalize: true
  weight:
    - filter: mlp
      value: 0.5
    - value: 1
dtype: bfloat16
";
        let config = MergeConfig::parse(text).unwrap();
        assert_eq!(config.models, [PathBuf::from("/tmp"), PathBuf::from("/")]);
        assert_eq!((config.base, config.reference()), (Some(1), 1));
        let slice = &config.slices[0];
        assert_eq!((slice.sources.len(), slice.base), (2, Some(1)));
        assert_eq!(config.dtype, Some(DType::BF16));
    }

    #[test]
    fn a_base_that_is_not_listed_is_added_with_the_slices_layers() {
        let text = "
merge_method: slerp
base_model: /
slices:
  - sources:
      - {model: /tmp, layer_range: [2, 4]}
parameters: {t: 0.5}
";
        let config = MergeConfig::parse(text).unwrap();
        let slice = &config.slices[0];
        assert_eq!(slice.sources[1].layers, Some(2..4));
        assert_eq!(slice.base, Some(1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let models = "models: [{model: /}]";
        for (text, expected) in [
            (format!("merge_method: tis\n{models}"), "did you mean ties"),
            (
                format!("merge_method: linear\nmodells: []\n{models}"),
                "modells: unknown key; did you mean models",
            ),
            (
                format!("merge_method: ties\n{models}"),
                "base_model: is missing",
            ),
            (
                format!("merge_method: linear\n{models}\ndtype: int8"),
                "dtype: is int8",
            ),
            (
                format!("merge_method: karcher\n{models}"),
                "merges at least 2; found 1",
            ),
            (
                format!("merge_method: linear\n{models}\nmodules: {{}}"),
                "modules: ",
            ),
            (
                "merge_method: linear\nmodels: [{model: /no/where}]".into(),
                "nothing is downloaded",
            ),
            (
                "merge_method: linear\nmodels: [{modl: /}]".into(),
                "models[0].modl: unknown key",
            ),
            ("merge_method: linear".into(), "models: is missing"),
            ("merge_method: [".into(), "YAML"),
            ("- a".into(), "expected keys"),
            (
                format!("merge_method: linear\n{models}\nparameters: {{wieght: 1}}"),
                "did you mean weight",
            ),
            (
                "merge_method: passthrough\nslices: [{sources: [{model: /, layer_range: [3, 3]}]}]"
                    .into(),
                "layer_range",
            ),
        ] {
            let found = error(&text);
            assert!(found.contains(expected), "{found}\nfor\n{text}");
        }
    }
}
