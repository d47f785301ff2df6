//! The tokenizer of a model folder: text to token ids and back.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use modelsmith_core::error::{Error, Result};
use serde_json::{Map, Value};

/// Ids of the tokens with a role; absent where the model has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begin of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Unknown token.
    pub unk: Option<u32>,
    /// The masked token of masked language models.
    pub mask: Option<u32>,
    /// Classification token at the start.
    pub cls: Option<u32>,
    /// Separator of two texts.
    pub sep: Option<u32>,
}

/// A model folder's tokenizer.
///
/// Truncation and padding set in the file are turned off: lengths are decided by the data
/// configuration, where they are counted. Clones share one tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    coder: Arc<Coder>,
    special: SpecialIds,
    special_tokens: Vec<SpecialToken>,
    chat_templates: Vec<(String, String)>,
    max_length: Option<usize>,
    hash: String,
    file: PathBuf,
}

/// What turns texts into ids, without truncation and padding.
#[derive(Debug)]
struct Coder {
    inner: tokenizers::Tokenizer,
    /// The same tokenizer that reads special tokens spelled in a text as plain text.
    literal: OnceLock<tokenizers::Tokenizer>,
}

/// How many tokenizers a process keeps.
const KEPT: usize = 8;

/// The tokenizers read last by the hash of their file, the latest at the end. A tokenizer remembers the words that it
/// saw for as long as a thread lives that saw them, its own life over or not; so one file is read into one of them.
static READ: Mutex<Vec<(String, Arc<Coder>)>> = Mutex::new(Vec::new());

/// A special token with the white space it swallows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpecialToken {
    pub(crate) id: u32,
    pub(crate) content: String,
    pub(crate) strip_left: bool,
    pub(crate) strip_right: bool,
}

/// An encoded text: ids, byte ranges in the text, and which of two texts each token is from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Byte range of each token in its text; empty for tokens that the tokenizer adds.
    pub offsets: Vec<(usize, usize)>,
    /// 0 for the first text, 1 for the second.
    pub type_ids: Vec<u32>,
}

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";

impl Tokenizer {
    /// Loads `tokenizer.json`, and `tokenizer_config.json`, `special_tokens_map.json`,
    /// `chat_template.jinja` where present, from a model folder.
    ///
    /// # Errors
    /// [`Error::File`] when `tokenizer.json` is absent or a file is malformed.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let file = folder.join("tokenizer.json");
        if !file.is_file() {
            return Err(Error::file(&file, absent_help(folder)));
        }
        let bytes = std::fs::read(&file).map_err(|error| Error::io(&file, error))?;
        let config = read_json(&folder.join(TOKENIZER_CONFIG))?;
        let map = read_json(&folder.join(SPECIAL_TOKENS_MAP))?;
        let mut parts = Parts::from_bytes(&bytes, &file, &config, &map)?;
        parts.chat_templates = chat_templates(folder, &config)?;
        Ok(Self(Arc::new(parts)))
    }

    /// Ids of `text`. `add_special` adds what the tokenizer's own template adds (`<s>`, `[CLS]`);
    /// special tokens spelled in the text become those tokens.
    ///
    /// # Errors
    /// [`Error::File`] when the tokenizer cannot express the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self.0.coder.inner.encode_fast(text, add_special);
        encoding
            .map(|e| e.get_ids().to_vec())
            .map_err(|error| self.encoding_error(&error))
    }

    /// Ids and byte ranges of `text`; with `literal`, special tokens spelled in it stay text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_offsets(
        &self,
        text: &str,
        add_special: bool,
        literal: bool,
    ) -> Result<Encoded> {
        let encoding = self.pick(literal).encode(text, add_special);
        encoding
            .map(|e| unpack(&e))
            .map_err(|error| self.encoding_error(&error))
    }

    /// Ids of two texts joined by the tokenizer's own template (`[CLS] a [SEP] b [SEP]`).
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_pair(&self, first: &str, second: &str, literal: bool) -> Result<Encoded> {
        let encoding = self.pick(literal).encode((first, second), true);
        encoding
            .map(|e| unpack(&e))
            .map_err(|error| self.encoding_error(&error))
    }

    /// Text of `ids`; `skip_special` leaves special tokens out.
    ///
    /// # Errors
    /// [`Error::File`] when the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let text = self.0.coder.inner.decode(ids, skip_special);
        text.map_err(|error| {
            Error::file(
                &self.0.file,
                format!("cannot decode {} tokens: {error}", ids.len()),
            )
        })
    }

    /// The ids of tokens with a role.
    pub fn special(&self) -> SpecialIds {
        self.0.special
    }

    /// Number of ids, added tokens included: the least vocabulary a model needs.
    pub fn vocabulary(&self) -> usize {
        let highest = self
            .0
            .special_tokens
            .iter()
            .map(|t| t.id as usize + 1)
            .max()
            .unwrap_or(0);
        self.0.coder.inner.get_vocab_size(true).max(highest)
    }

    /// Id of a token by its exact spelling in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.0.coder.inner.token_to_id(token)
    }

    /// Spelling of an id in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.0.coder.inner.id_to_token(id)
    }

    /// The longest sequence that the tokenizer's configuration allows, if it says one.
    pub fn max_length(&self) -> Option<usize> {
        self.0.max_length
    }

    /// The chat template of this name, or the default one for `None`.
    pub fn chat_template(&self, name: Option<&str>) -> Option<&str> {
        let wanted = name.unwrap_or("default");
        let found = self
            .0
            .chat_templates
            .iter()
            .find(|(name, _)| name == wanted);
        found.map(|(_, text)| text.as_str())
    }

    /// Names of the chat templates.
    pub fn chat_template_names(&self) -> impl Iterator<Item = &str> {
        self.0.chat_templates.iter().map(|(name, _)| name.as_str())
    }

    /// Blake3 of `tokenizer.json`, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.0.hash
    }

    /// The `tokenizer.json` it came from.
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    /// How many special tokens are spelled out in a text.
    pub fn special_in_text(&self, text: &str) -> usize {
        let count = |token: &SpecialToken| text.matches(&token.content).count();
        self.0.special_tokens.iter().map(count).sum()
    }

    pub(crate) fn special_tokens(&self) -> &[SpecialToken] {
        &self.0.special_tokens
    }

    fn pick(&self, literal: bool) -> &tokenizers::Tokenizer {
        if !literal {
            return &self.0.coder.inner;
        }
        self.0.coder.literal.get_or_init(|| {
            let mut copy = self.0.coder.inner.clone();
            copy.set_encode_special_tokens(true);
            copy
        })
    }

    fn encoding_error(&self, error: &dyn std::fmt::Display) -> Error {
        Error::file(&self.0.file, format!("cannot encode a text: {error}"))
    }
}

impl Parts {
    fn from_bytes(
        bytes: &[u8],
        file: &Path,
        config: &Map<String, Value>,
        map: &Map<String, Value>,
    ) -> Result<Self> {
        let hash = blake3::hash(bytes).to_hex().to_string();
        let coder = Coder::of(bytes, &hash, file)?;
        let max_length = config.get("model_max_length").and_then(Value::as_f64);
        Ok(Self {
            special: special_ids(&coder.inner, file, config, map)?,
            special_tokens: special_tokens(&coder.inner),
            // transformers writes 1e30 for "no limit".
            max_length: max_length
                .filter(|n| *n >= 1.0 && *n < 1e9)
                .map(|n| n as usize),
            hash,
            file: file.to_path_buf(),
            chat_templates: Vec::new(),
            coder,
        })
    }
}

impl Coder {
    /// The coder of a file's bytes, read before or now.
    fn of(bytes: &[u8], hash: &str, file: &Path) -> Result<Arc<Self>> {
        let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
        let found = read.iter().position(|(known, _)| known == hash);
        let entry = match found {
            Some(place) => read.remove(place),
            None => (hash.to_owned(), Arc::new(Self::read(bytes, file)?)),
        };
        if read.len() == KEPT {
            read.remove(0);
        }
        let coder = entry.1.clone();
        read.push(entry);
        Ok(coder)
    }

    fn read(bytes: &[u8], file: &Path) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| {
            Error::file(
                file,
                format!("is not a tokenizer of the Hugging Face `tokenizers` form: {error}"),
            )
        })?;
        let whole = inner.with_truncation(None).map(|_| ());
        whole.map_err(|error| {
            Error::file(file, format!("truncation cannot be turned off: {error}"))
        })?;
        inner.with_padding(None);
        Ok(Self {
            inner,
            literal: OnceLock::new(),
        })
    }
}

/// A text in which composed characters stand as their parts (Unicode's NFKD).
pub fn decomposed(text: &str) -> String {
    let mut normalised = tokenizers::NormalizedString::from(text);
    normalised.nfkd().get().to_owned()
}

fn unpack(encoding: &tokenizers::Encoding) -> Encoded {
    Encoded {
        ids: encoding.get_ids().to_vec(),
        offsets: encoding.get_offsets().to_vec(),
        type_ids: encoding.get_type_ids().to_vec(),
    }
}

fn absent_help(folder: &Path) -> &'static str {
    let slow = [
        "tokenizer.model",
        "vocab.json",
        "vocab.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
    ];
    if slow.iter().any(|name| folder.join(name).is_file()) {
        "is absent, though the folder holds an older form of tokenizer; convert it once with \
         transformers: AutoTokenizer.from_pretrained(folder, use_fast=True).save_pretrained(folder)"
    } else {
        "is absent; copy tokenizer.json from the model's repository into the folder"
    }
}

fn read_json(path: &Path) -> Result<Map<String, Value>> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    let text = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::file(path, "is not a JSON object")),
        Err(error) => Err(Error::file(path, format!("is not JSON: {error}"))),
    }
}

/// A token given as `"<s>"` or `{"content": "<s>"}`.
fn spelled(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn special_ids(
    inner: &tokenizers::Tokenizer,
    file: &Path,
    config: &Map<String, Value>,
    map: &Map<String, Value>,
) -> Result<SpecialIds> {
    let find = |key: &str| -> Result<Option<u32>> {
        let named = config.get(key).filter(|value| !value.is_null());
        let Some(token) = named.or_else(|| map.get(key)).and_then(spelled) else {
            return Ok(None);
        };
        match inner.token_to_id(token) {
            Some(id) => Ok(Some(id)),
            None => Err(Error::file(
                file,
                format!(
                    "has no token {token:?}, which {TOKENIZER_CONFIG} or {SPECIAL_TOKENS_MAP} names as {key}"
                ),
            )),
        }
    };
    Ok(SpecialIds {
        bos: find("bos_token")?,
        eos: find("eos_token")?,
        pad: find("pad_token")?,
        unk: find("unk_token")?,
        mask: find("mask_token")?,
        cls: find("cls_token")?,
        sep: find("sep_token")?,
    })
}

fn special_tokens(inner: &tokenizers::Tokenizer) -> Vec<SpecialToken> {
    let added = inner.get_added_tokens_decoder();
    let special = added
        .into_iter()
        .filter(|(_, token)| token.special && !token.content.is_empty());
    let mut tokens: Vec<SpecialToken> = special
        .map(|(id, token)| SpecialToken {
            id,
            content: token.content,
            strip_left: token.lstrip,
            strip_right: token.rstrip,
        })
        .collect();
    tokens.sort_by(|a, b| b.content.len().cmp(&a.content.len()).then(a.id.cmp(&b.id)));
    tokens
}

fn chat_templates(folder: &Path, config: &Map<String, Value>) -> Result<Vec<(String, String)>> {
    let beside = folder.join("chat_template.jinja");
    if beside.is_file() {
        let text = std::fs::read_to_string(&beside).map_err(|error| Error::io(&beside, error))?;
        return Ok(vec![("default".into(), text)]);
    }
    let wrong = || {
        let problem = "chat_template is neither a text nor a list of {name, template}";
        Error::file(folder.join(TOKENIZER_CONFIG), problem)
    };
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![("default".into(), text.clone())]),
        Some(Value::Array(list)) => list
            .iter()
            .map(|entry| {
                let part = |key: &str| entry.get(key).and_then(Value::as_str).map(String::from);
                part("name").zip(part("template")).ok_or_else(wrong)
            })
            .collect(),
        Some(_) => Err(wrong()),
    }
}
