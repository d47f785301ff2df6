//! Texts of classes: what a probe, a judge, and a test of either read.

use modelsmith_core::error::{Error, Result};
use modelsmith_core::random::Stream;
use modelsmith_data::read::{ReadOptions, Source};
use modelsmith_data::{DataConfig, Example, Form, Label};

/// Texts with their classes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Texts {
    /// The texts.
    pub texts: Vec<String>,
    /// Class of each, by number.
    pub classes: Vec<usize>,
    /// Names of the classes.
    pub names: Vec<String>,
}

impl Texts {
    /// Reads rows of a text and a label. Classes are those that the configuration names, else the labels
    /// that occur, in order.
    ///
    /// # Errors
    /// Files that cannot be read, rows without text and label, a label that is no class.
    pub fn read(config: &DataConfig) -> Result<Self> {
        config.check()?;
        let source = Source::open(&config.path, &ReadOptions::from(config))?;
        let mut form = None;
        let mut rows: Vec<(String, String)> = Vec::new();
        for row in source.rows() {
            let (at, columns) = row?;
            if form.is_none() {
                form = Some(Form::new(config, &at, &columns)?);
            }
            let Some(form) = &form else {
                continue;
            };
            match form.example(&at, &columns)? {
                Example::Classification { text, label, .. } => rows.push((text, spelled(label))),
                _ => return Err(at.error("is no text with a label; name both in data.columns")),
            }
        }
        let names = match config.classes.is_empty() {
            true => labels(&rows),
            false => config.classes.clone(),
        };
        let mut found = Self {
            names,
            ..Self::default()
        };
        for (text, label) in rows {
            let class = found.class(&label)?;
            found.texts.push(text);
            found.classes.push(class);
        }
        Ok(found)
    }

    /// Number of a class by its name.
    ///
    /// # Errors
    /// A name that is none of the classes'.
    pub fn class(&self, name: &str) -> Result<usize> {
        let place = self.names.iter().position(|known| known == name);
        place.ok_or_else(|| {
            let known = self.names.iter().map(String::as_str);
            let near = modelsmith_core::error::suggest(name, known);
            Error::Usage(format!("there is no class `{name}`; {near}"))
        })
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Some of the texts, by number.
    #[must_use]
    pub fn pick(&self, numbers: &[usize]) -> Self {
        Self {
            texts: numbers.iter().map(|at| self.texts[*at].clone()).collect(),
            classes: numbers.iter().map(|at| self.classes[*at]).collect(),
            names: self.names.clone(),
        }
    }

    /// As many texts of each class as the rarest has, at most `most`, drawn by the seed.
    #[must_use]
    pub fn balanced(&self, most: usize, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..self.len()).collect();
        Stream::new(seed, "surgery/balanced").shuffle(&mut order);
        let of = |class: usize| order.iter().filter(move |at| self.classes[**at] == class);
        let classes = 0..self.names.len();
        let least = classes.clone().map(|class| of(class).count()).min();
        let each = least.unwrap_or(0).min(most);
        let chosen = classes.flat_map(|class| of(class).take(each).copied());
        self.pick(&chosen.collect::<Vec<_>>())
    }

    /// Two parts, the first with this share of the texts, drawn by the seed.
    #[must_use]
    pub fn split(&self, share: f64, seed: u64) -> (Self, Self) {
        let mut order: Vec<usize> = (0..self.len()).collect();
        Stream::new(seed, "surgery/parts").shuffle(&mut order);
        let first = (self.len() as f64 * share).round() as usize;
        let (a, b) = order.split_at(first.min(self.len()));
        (self.pick(a), self.pick(b))
    }
}

fn spelled(label: Label) -> String {
    match label {
        Label::Number(number) => number.to_string(),
        Label::Name(name) => name,
    }
}

fn labels(rows: &[(String, String)]) -> Vec<String> {
    let mut names: Vec<String> = rows.iter().map(|(_, label)| label.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelsmith_core::files::atomic_bytes;

    fn texts() -> Texts {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("texts.csv");
        atomic_bytes(&path, b"text,label\na,good\nb,bad\nc,bad\nd,bad\n").unwrap();
        let config = DataConfig {
            path,
            ..DataConfig::default()
        };
        Texts::read(&config).unwrap()
    }

    #[test]
    fn classes_are_the_labels_in_order() {
        let texts = texts();
        assert_eq!(texts.names, ["bad", "good"]);
        assert_eq!(texts.classes, [1, 0, 0, 0]);
        assert_eq!(texts.class("good").unwrap(), 1);
        let error = texts.class("godo").unwrap_err().to_string();
        assert!(error.contains("did you mean good?"), "{error}");
    }

    #[test]
    fn balanced_and_parted() {
        let texts = texts();
        let even = texts.balanced(10, 0);
        assert_eq!(even.classes, [0, 1]);
        let (first, second) = texts.split(0.75, 0);
        assert_eq!((first.len(), second.len()), (3, 1));
    }
}
