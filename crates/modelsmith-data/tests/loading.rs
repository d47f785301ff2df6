//! Batches: order, resume, packing, streaming.

mod common;

use common::{file, tokenizer};
use modelsmith_data::{
    Batch, DataConfig, Dataset, Loader, Packing, Position, StreamDecoder, Tokenizer,
};
use proptest::prelude::*;
use tempfile::TempDir;

/// Rows of different lengths, more than one window.
fn sample(folder: &TempDir, rows: usize) -> DataConfig {
    let line = |row: usize| {
        format!(
            "{{\"text\": \"row {row}{}\"}}\n",
            " and more".repeat(row % 7)
        )
    };
    let mut config = file(
        folder,
        "rows.jsonl",
        (0..rows).map(line).collect::<String>(),
    );
    config.shuffle = true;
    config
}

fn epoch(loader: &mut Loader) -> Vec<Batch> {
    std::iter::from_fn(|| loader.next_in_epoch().unwrap()).collect()
}

fn variants(config: &DataConfig) -> Vec<DataConfig> {
    let mut all = Vec::new();
    for packing in [Packing::None, Packing::Pack, Packing::Chunk] {
        for stream in [Some(true), Some(false)] {
            all.push(DataConfig {
                packing,
                stream,
                batch_size: 7,
                ..config.clone()
            });
        }
    }
    all.push(DataConfig {
        group_by_length: true,
        batch_size: 7,
        ..config.clone()
    });
    all
}

#[test]
fn streaming_gives_the_batches_of_memory() {
    let folder = tempfile::tempdir().unwrap();
    let config = sample(&folder, 1500);
    for packing in [Packing::None, Packing::Pack, Packing::Chunk] {
        let of = |stream| {
            let config = DataConfig {
                packing,
                stream: Some(stream),
                held_out: 0.1,
                ..config.clone()
            };
            let mut dataset = Dataset::open(&config, &tokenizer(), 5).unwrap();
            assert_eq!(dataset.complete, !stream);
            (
                epoch(&mut dataset.train),
                epoch(dataset.held_out.as_mut().unwrap()),
            )
        };
        assert_eq!(of(true), of(false));
    }
}

#[test]
fn an_epoch_has_every_row_once_in_a_new_order() {
    let folder = tempfile::tempdir().unwrap();
    let config = sample(&folder, 1500);
    for config in variants(&config) {
        let mut train = Dataset::open(&config, &tokenizer(), 5).unwrap().train;
        let count = train.batches_in_epoch(0).unwrap();
        let (first, second) = (epoch(&mut train), epoch(&mut train));
        assert_eq!(first.len() as u64, count);
        let rows = |batches: &[Batch]| -> Vec<u64> {
            batches
                .iter()
                .flat_map(|batch| batch.rows.clone())
                .collect()
        };
        let (mut a, mut b) = (rows(&first), rows(&second));
        assert_ne!(a, b);
        for rows in [&mut a, &mut b] {
            rows.sort_unstable();
            rows.dedup();
            assert_eq!(*rows, (0..1500).collect::<Vec<_>>());
        }
        let again = epoch(&mut Dataset::open(&config, &tokenizer(), 5).unwrap().train);
        assert_eq!(first, again);
        assert_ne!(
            first,
            epoch(&mut Dataset::open(&config, &tokenizer(), 6).unwrap().train)
        );
        let tokens = |batches: &[Batch]| batches.iter().map(Batch::tokens).sum::<usize>();
        assert_eq!(tokens(&first), tokens(&second));
    }
}

#[test]
fn resume_goes_on_as_if_uninterrupted() {
    let folder = tempfile::tempdir().unwrap();
    let config = sample(&folder, 1300);
    for config in variants(&config) {
        let mut whole = Dataset::open(&config, &tokenizer(), 5).unwrap().train;
        let per_epoch = whole.batches_in_epoch(0).unwrap() as usize;
        let total = per_epoch * 2 + 3;
        let mut positions = vec![whole.position()];
        let mut batches = Vec::new();
        for _ in 0..total {
            batches.push(whole.next_batch().unwrap());
            positions.push(whole.position());
        }
        for at in [0, 1, per_epoch - 1, per_epoch, per_epoch + 1, total - 1] {
            let saved = serde_json::to_string(&positions[at]).unwrap();
            let position: Position = serde_json::from_str(&saved).unwrap();
            let mut resumed = Dataset::open(&config, &tokenizer(), 5).unwrap().train;
            resumed.seek(position).unwrap();
            assert_eq!(resumed.position(), position);
            for expected in batches.iter().skip(at).take(4) {
                assert_eq!(&resumed.next_batch().unwrap(), expected);
            }
        }
    }
}

#[test]
fn places_outside_the_data_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut train = Dataset::open(&sample(&folder, 5), &tokenizer(), 0)
        .unwrap()
        .train;
    assert!(
        train
            .seek(Position {
                epoch: 0,
                window: 6,
                sequence: 0
            })
            .is_err()
    );
    assert!(
        train
            .seek(Position {
                epoch: 3,
                window: 0,
                sequence: 99
            })
            .is_err()
    );
}

#[test]
fn small_data_makes_small_batches() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = sample(&folder, 3);
    config.batch_size = 8;
    config.pad_to_multiple_of = 16;
    let mut train = Dataset::open(&config, &tokenizer(), 0).unwrap().train;
    let batch = train.next_batch().unwrap();
    assert_eq!((batch.shape[0], batch.shape[1] % 16), (3, 0));
    assert_eq!(train.next_batch().unwrap().shape[0], 3);
    let mut single = Dataset::open(&sample(&folder, 1), &tokenizer(), 0)
        .unwrap()
        .train;
    assert_eq!(single.next_batch().unwrap().rows, [0]);
    assert!(single.next_in_epoch().unwrap().is_none());
}

#[test]
fn padding_is_masked_and_prompts_end_together() {
    let batch = Batch::prompts(&[vec![5], vec![6, 7, 8]], 2);
    assert_eq!(batch.ids, [2, 2, 5, 6, 7, 8]);
    assert_eq!(batch.attention_mask, [0, 0, 1, 1, 1, 1]);
    assert_eq!(batch.positions, [0, 0, 0, 0, 1, 2]);
    assert_eq!(
        (batch.shape, batch.tokens(), batch.trained_tokens()),
        ([2, 3], 4, 0)
    );
}

#[test]
fn held_out_files_are_apart() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = sample(&folder, 4);
    let held = file(&folder, "held.jsonl", "{\"text\": \"only\"}\n");
    config.held_out_path = Some(held.path);
    let mut dataset = Dataset::open(&config, &tokenizer(), 0).unwrap();
    assert_eq!(dataset.held_out_counts.unwrap().total, 1);
    assert_eq!(epoch(dataset.held_out.as_mut().unwrap()).len(), 1);
    assert_eq!(dataset.train.rows(), 4);
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut decoder = StreamDecoder::new(tokenizer, false);
    let mut text: String = ids.iter().map(|id| decoder.push(*id).unwrap()).collect();
    text.push_str(&decoder.finish().unwrap());
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn streamed_text_is_the_text(text in "[a-zé世 \u{1F980}\u{FFFD}<>/s\n]{0,40}") {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(&text, true).unwrap();
        prop_assert_eq!(streamed(&tokenizer, &ids), tokenizer.decode(&ids, false).unwrap());
        let mut decoder = StreamDecoder::new(&tokenizer, false);
        for id in ids {
            let piece = decoder.push(id).unwrap();
            let whole = text.contains(char::REPLACEMENT_CHARACTER) || !piece.contains(char::REPLACEMENT_CHARACTER);
            prop_assert!(whole);
        }
    }
}

#[test]
fn file_limits_of_the_tokenizer_are_off() {
    let tokenizer = tokenizer();
    let ids = tokenizer
        .encode("Ada Marlow was born in Lisbon.", true)
        .unwrap();
    assert!(ids.len() > 4 && ids.len() < 64, "{}", ids.len());
    assert_eq!(tokenizer.hash().len(), 64);
    let absent = Tokenizer::load(tempfile::tempdir().unwrap().path()).unwrap_err();
    assert!(
        absent
            .to_string()
            .contains("tokenizer.json: is absent; copy tokenizer.json"),
        "{absent}"
    );
}

#[test]
fn streams_go_on_after_a_prompt() {
    let tokenizer = tokenizer();
    let ids = tokenizer
        .encode("Ada Marlow was born in Lisbon, 世 they say.", true)
        .unwrap();
    for cut in 0..ids.len() {
        let mut decoder = StreamDecoder::after(&tokenizer, &ids[..cut], false);
        let mut text: String = ids[cut..]
            .iter()
            .map(|id| decoder.push(*id).unwrap())
            .collect();
        text.push_str(&decoder.finish().unwrap());
        let before = tokenizer.decode(&ids[..cut], false).unwrap();
        let whole = tokenizer.decode(&ids, false).unwrap();
        assert!(whole.ends_with(&text), "{text}");
        assert!(before.ends_with(char::REPLACEMENT_CHARACTER) || before + &text == whole);
    }
}
