//! Shows which pieces of a text count in the loss.

use modelsmith_core::error::Result;

use crate::batch::IGNORED;
use crate::stream_decode::StreamDecoder;
use crate::tokenise::TokenSequence;
use crate::tokenizer::Tokenizer;

/// The sequence, its source first, as pieces of text, each with whether it counts in the loss;
/// special tokens are shown. Neighbouring pieces alternate.
///
/// # Errors
/// As [`Tokenizer::decode`].
pub fn show_mask(tokenizer: &Tokenizer, sequence: &TokenSequence) -> Result<Vec<(String, bool)>> {
    let mut pieces: Vec<(String, bool)> = Vec::new();
    let mut decoder = StreamDecoder::new(tokenizer, false);
    let mut add = |text: String, trained: bool| match pieces.last_mut() {
        Some((last, same)) if *same == trained => last.push_str(&text),
        _ if text.is_empty() => {}
        _ => pieces.push((text, trained)),
    };
    for id in sequence.source.iter().flatten() {
        add(decoder.push(*id)?, false);
    }
    let mut trained = false;
    for (id, label) in sequence.ids.iter().zip(&sequence.labels) {
        if trained != (*label != IGNORED) {
            add(decoder.finish()?, trained);
        }
        trained = *label != IGNORED;
        add(decoder.push(*id)?, trained);
    }
    add(decoder.finish()?, trained);
    Ok(pieces)
}
