//! What a recipe says about its data: the `[data]` table, as written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use modelsmith_core::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kind of file, decided by the extension unless said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// By extension: txt, text, md; jsonl, ndjson; csv; tsv; parquet.
    #[default]
    Auto,
    /// Plain text, cut into documents as `document` says.
    Text,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values with a header line.
    Csv,
    /// Tab-separated values with a header line.
    Tsv,
    /// Apache Parquet.
    Parquet,
}

/// What one row of the data is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Recognised by the columns of the first row.
    #[default]
    Auto,
    /// Running text in column `text`.
    Text,
    /// An instruction with its answer: `instruction`, `input`, `output`, or `prompt`, `completion`.
    Instruction,
    /// A conversation: `messages` of `role` and `content`, or `conversations` of `from` and `value`.
    Chat,
    /// A text (or two: `text`, `text_b`) with a `label`.
    Classification,
    /// Lines of plain text that begin with their label: `1 a fine film`.
    Labelled,
    /// Tokens made elsewhere: `input_ids`, and optionally `attention_mask` and `labels`.
    Tokens,
}

/// How plain text is cut into documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Document {
    /// The whole file is one document.
    File,
    /// Blank lines (or lines equal to `separator`) stand between documents.
    #[default]
    Paragraph,
    /// Every line that is not blank is a document.
    Line,
}

/// What happens to an example longer than `max_length` tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnLong {
    /// Its end is cut off; the count is reported.
    #[default]
    Truncate,
    /// The run is refused, naming the row.
    Error,
    /// It is left out; the count is reported.
    Drop,
}

/// How examples share a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// One example a sequence, padded to the longest of its batch.
    #[default]
    None,
    /// Whole examples share a sequence of `max_length`; they do not see one another.
    Pack,
    /// Examples are joined end to end and cut every `max_length` tokens.
    Chunk,
}

/// Which tokens count in the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrainOn {
    /// Completions and assistant messages; all tokens where the form has no prompt.
    #[default]
    Responses,
    /// Every token.
    All,
}

/// The `[data]` table of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// File with the data, or a folder whose files of a known kind are read in order of name.
    pub path: PathBuf,
    /// Kind of the files; by default their extension decides.
    pub kind: Kind,
    /// What a row is; by default the columns of the first row decide.
    pub format: Format,
    /// Other names for columns, by the name expected here: `{ text = "review" }`.
    pub columns: BTreeMap<String, String>,
    /// How plain text is cut into documents.
    pub document: Document,
    /// A line equal to this ends a document of plain text; blank lines then do not.
    pub separator: Option<String>,
    /// Longest sequence in tokens; 0 takes the model's own limit.
    pub max_length: usize,
    /// What happens to longer examples.
    pub on_long: OnLong,
    /// How examples share a sequence.
    pub packing: Packing,
    /// Which tokens count in the loss.
    pub train_on: TrainOn,
    /// Lowest share of tokens that must count in the loss; a run below it is refused.
    pub min_trained_share: f64,
    /// Whether an end-of-sequence token closes every example.
    pub append_eos: bool,
    /// Template for conversations: `model` (the tokenizer's own), `chatml`, or the text of a Jinja template.
    pub chat_template: String,
    /// Template for instructions, with `{instruction}` and `{input}`; empty takes the form's usual one, `chat` renders them by `chat_template`.
    pub prompt_template: String,
    /// Date that `strftime_now` gives to chat templates, as `YYYY-MM-DD`.
    pub date: String,
    /// Whether special tokens spelled in the text, such as `</s>`, become those tokens.
    pub parse_special: bool,
    /// Names of the classes in the order of their numbers; empty collects them from the data.
    pub classes: Vec<String>,
    /// Sequences in a batch.
    pub batch_size: usize,
    /// Lengths of padded batches are rounded up to a multiple of this.
    pub pad_to_multiple_of: usize,
    /// Whether rows are drawn in a new random order each epoch.
    pub shuffle: bool,
    /// Whether sequences of like length share a batch.
    pub group_by_length: bool,
    /// Share of rows kept out of training for evaluation, 0 to below 1; rows are chosen by a hash of their number and the seed.
    pub held_out: f64,
    /// File or folder with the held-out rows; excludes `held_out`.
    pub held_out_path: Option<PathBuf>,
    /// Rows read at most, in the order of the file; 0 reads all.
    pub limit: usize,
    /// Whether rows are read from disk as they are needed; by default, when the files exceed 256 MB.
    pub stream: Option<bool>,
    /// Prompts and answers are tokenised apart, for an encoder that reads the one and a decoder
    /// that writes the other. The model decides it, so no recipe says it.
    #[serde(skip)]
    pub apart: bool,
    /// Names of the tasks that column `task` may name; none where tasks are not told apart. The method decides it,
    /// so no recipe says it here.
    #[serde(skip)]
    pub tasks: Vec<String>,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            kind: Kind::Auto,
            format: Format::Auto,
            columns: BTreeMap::new(),
            document: Document::default(),
            separator: None,
            max_length: 0,
            on_long: OnLong::default(),
            packing: Packing::default(),
            train_on: TrainOn::default(),
            min_trained_share: 0.01,
            append_eos: true,
            chat_template: "model".into(),
            prompt_template: String::new(),
            date: "2024-07-26".into(),
            parse_special: false,
            classes: Vec::new(),
            batch_size: 8,
            pad_to_multiple_of: 1,
            shuffle: true,
            group_by_length: false,
            held_out: 0.0,
            held_out_path: None,
            limit: 0,
            stream: None,
            apart: false,
            tasks: Vec::new(),
        }
    }
}

impl DataConfig {
    /// Refuses values out of range; reads no file.
    ///
    /// # Errors
    /// [`Error::Config`] names the key, the value and the range.
    pub fn check(&self) -> Result<()> {
        let refuse =
            |key: &str, problem: String| Err(Error::config(format!("data.{key}"), problem));
        if self.path.as_os_str().is_empty() {
            return refuse("path", "is empty; name a file or a folder".into());
        }
        if self.batch_size == 0 {
            return refuse("batch_size", "is 0; must be at least 1".into());
        }
        if self.pad_to_multiple_of == 0 {
            return refuse("pad_to_multiple_of", "is 0; must be at least 1".into());
        }
        if !(0.0..1.0).contains(&self.held_out) {
            let found = self.held_out;
            return refuse(
                "held_out",
                format!("is {found}; must be at least 0 and below 1"),
            );
        }
        if self.held_out > 0.0 && self.held_out_path.is_some() {
            return refuse(
                "held_out",
                "excludes data.held_out_path; set one of the two".into(),
            );
        }
        if !(0.0..=1.0).contains(&self.min_trained_share) {
            let found = self.min_trained_share;
            return refuse("min_trained_share", format!("is {found}; must be 0 to 1"));
        }
        if self.apart && self.packing != Packing::None {
            return refuse(
                "packing",
                "cannot be used with an encoder and a decoder, which read a row each; set it to none"
                    .into(),
            );
        }
        if self.apart && self.train_on == TrainOn::All {
            return refuse(
                "train_on",
                "is all; the prompt goes to the encoder, which predicts nothing; set it to responses"
                    .into(),
            );
        }
        if self.group_by_length && self.packing != Packing::None {
            return refuse(
                "group_by_length",
                "has no effect with packing; set packing = \"none\"".into(),
            );
        }
        crate::chat::parse_date(&self.date).map(|_| ())
    }
}
