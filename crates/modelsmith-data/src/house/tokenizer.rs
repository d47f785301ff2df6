//! The house tokenizer: byte-level pairs learnt from the corpus.

use std::path::Path;

use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::atomic_bytes;
use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

use crate::config::{DataConfig, Kind};
use crate::read::{ReadOptions, Source};

const BOS: &str = "<s>";
const EOS: &str = "</s>";
const PAD: &str = "<pad>";
/// Ids before the merges: three special tokens and one for each byte.
const BASE: usize = 3 + 256;

/// Learns a tokenizer of `vocabulary` ids from the `text` column of a JSONL file and writes
/// `tokenizer.json` and `tokenizer_config.json` into `folder`. The same corpus gives the same
/// bytes.
///
/// # Errors
/// [`Error::Config`] when the vocabulary is too small, [`Error::File`] when the corpus is
/// malformed or too small to fill it.
pub fn write_tokenizer(
    corpus: &Path,
    folder: &Path,
    vocabulary: usize,
    max_length: usize,
) -> Result<()> {
    if vocabulary <= BASE {
        return Err(Error::config(
            "house.vocabulary",
            format!("is {vocabulary}; must exceed {BASE}"),
        ));
    }
    let options = ReadOptions {
        kind: Kind::Jsonl,
        ..ReadOptions::from(&DataConfig::default())
    };
    let source = Source::open(corpus, &options)?;
    let mut texts = Vec::new();
    for row in source.rows() {
        let (at, columns) = row?;
        let text = columns.get("text").and_then(|text| text.as_str());
        texts.push(
            text.ok_or_else(|| at.error("column \"text\" is missing or no text"))?
                .to_string(),
        );
    }
    let tokenizer = learn(&texts, vocabulary)
        .map_err(|error| Error::file(corpus, format!("no tokenizer can be learnt: {error}")))?;
    let found = tokenizer.get_vocab_size(true);
    if found != vocabulary {
        return Err(Error::file(
            corpus,
            format!(
                "has words for {found} ids only, {vocabulary} are asked; set house.vocabulary = {found}"
            ),
        ));
    }
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    let path = folder.join("tokenizer.json");
    let text = tokenizer
        .to_string(true)
        .map_err(|error| Error::file(&path, error))?;
    atomic_bytes(&path, text.as_bytes())?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": false,
    });
    let path = folder.join("tokenizer_config.json");
    let mut text = serde_json::to_vec_pretty(&config).map_err(|error| Error::file(&path, error))?;
    text.push(b'\n');
    atomic_bytes(&path, &text)
}

fn learn(texts: &[String], vocabulary: usize) -> tokenizers::Result<Tokenizer> {
    let special = [BOS, EOS, PAD].map(|token| AddedToken::from(token, true).normalized(false));
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .show_progress(false)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    tokenizer.train(&mut trainer, texts.iter())?;
    let start = TemplateProcessing::builder()
        .try_single(format!("{BOS} $A"))?
        .try_pair(format!("{BOS} $A $B:1"))?
        .special_tokens(vec![(BOS, 0)])
        .build()?;
    tokenizer.with_post_processor(Some(start));
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::{HouseConfig, write};

    #[test]
    fn learning_repeats_to_the_byte() {
        let folder = tempfile::tempdir().unwrap();
        let files = write(
            &HouseConfig {
                people: 60,
                biographies: 3,
                ..HouseConfig::default()
            },
            folder.path(),
        )
        .unwrap();
        let mut hashes = Vec::new();
        for run in ["a", "b", "c", "d"] {
            let out = folder.path().join(run);
            write_tokenizer(&files.corpus, &out, 700, 256).unwrap();
            hashes.push(blake3::hash(
                &std::fs::read(out.join("tokenizer.json")).unwrap(),
            ));
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]));
        let tokenizer = crate::Tokenizer::load(folder.path().join("a")).unwrap();
        let text = "Ada Marlow was born in Lisbon.\nœ </s>";
        let ids = tokenizer.encode_with_offsets(text, true, true).unwrap().ids;
        assert_eq!(ids[0], 0);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        assert!(write_tokenizer(&files.corpus, folder.path(), 100, 256).is_err());
        let large = write_tokenizer(&files.corpus, folder.path(), 100_000, 256).unwrap_err();
        assert!(large.to_string().contains("ids only"), "{large}");
    }
}
