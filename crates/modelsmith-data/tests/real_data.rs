//! Real files from the folder named by `MODELSMITH_DATA`; skipped where it is absent.

use std::path::PathBuf;

use modelsmith_data::{DataConfig, Dataset, Format, Packing, Tokenizer, show_mask};

/// A path in the data folder, if it is there.
fn data(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("MODELSMITH_DATA")
        .map(PathBuf::from)
        .or_else(|| {
            let home = std::env::var_os("HOME")?;
            let cache = std::env::var_os("XDG_CACHE_HOME")
                .map_or(PathBuf::from(home).join(".cache"), PathBuf::from);
            Some(cache.join("modelsmith/data"))
        })?;
    let found = folder.join(path);
    if found.exists() {
        return Some(found);
    }
    eprintln!("skipped: no data");
    None
}

#[test]
fn stories_are_chunked_without_loss() {
    let (Some(model), Some(path)) = (
        data("lm/stories260k-hf"),
        data("lm/corpora/tinystories_sample.txt"),
    ) else {
        return;
    };
    let tokenizer = Tokenizer::load(model).unwrap();
    assert_eq!(
        (tokenizer.special().bos, tokenizer.special().eos),
        (Some(1), Some(2))
    );
    let config = DataConfig {
        path,
        separator: Some("<|endoftext|>".into()),
        packing: Packing::Chunk,
        max_length: 256,
        batch_size: 16,
        held_out: 0.05,
        ..DataConfig::default()
    };
    let mut dataset = Dataset::open(&config, &tokenizer, 1).unwrap();
    assert!(dataset.counts.total > 1000, "{:?}", dataset.counts);
    let mut tokens = 0;
    let held = dataset.held_out.as_mut().unwrap();
    for loader in [&mut dataset.train, held] {
        while let Some(batch) = loader.next_in_epoch().unwrap() {
            tokens += batch.tokens() as u64;
        }
    }
    assert_eq!(tokens, dataset.counts.all_tokens);
    let sequence = dataset.train.first().unwrap().unwrap();
    let pieces = show_mask(&tokenizer, &sequence).unwrap();
    assert_eq!(pieces.len(), 1);
    assert_eq!(pieces[0].0, tokenizer.decode(&sequence.ids, false).unwrap());
}

#[test]
fn sentiment_lines_are_classes() {
    let (Some(model), Some(path)) = (
        data("lm/stories260k-hf"),
        data("text/sent-conv/stsa.binary.test"),
    ) else {
        return;
    };
    let config = DataConfig {
        path,
        format: Format::Labelled,
        max_length: 256,
        ..DataConfig::default()
    };
    let mut dataset = Dataset::open(&config, &Tokenizer::load(model).unwrap(), 1).unwrap();
    assert_eq!(dataset.classes, ["0", "1"]);
    assert_eq!(dataset.counts.total, 1821);
    assert!(dataset.train.next_batch().unwrap().class_labels.is_some());
}
