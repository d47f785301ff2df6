//! Classes by number, and pairs of texts cut to a length.

use crate::format::Label;
use crate::tokenizer::Encoded;

/// Cuts words from the end of the longer text, keeping the tokens that the template added.
pub(crate) fn shorten(encoded: &Encoded, limit: usize) -> Encoded {
    let is_word = |at: usize| encoded.offsets[at].0 < encoded.offsets[at].1;
    let mut words = [0usize; 2];
    let words_of = |type_id: u32| usize::from(type_id > 0);
    for at in (0..encoded.ids.len()).filter(|at| is_word(*at)) {
        words[words_of(encoded.type_ids[at])] += 1;
    }
    for _ in limit..encoded.ids.len() {
        let longer = usize::from(words[1] > words[0]);
        words[longer] = words[longer].saturating_sub(1);
    }
    let mut out = Encoded::default();
    let mut taken = [0usize; 2];
    for at in 0..encoded.ids.len() {
        let text = words_of(encoded.type_ids[at]);
        taken[text] += usize::from(is_word(at));
        if !is_word(at) || taken[text] <= words[text] {
            out.ids.push(encoded.ids[at]);
            out.offsets.push(encoded.offsets[at]);
            out.type_ids.push(encoded.type_ids[at]);
        }
    }
    out
}

/// Number of a class: by name, or by number where names are numbers or the number is in range.
pub(crate) fn class_of(classes: &[String], label: &Label) -> Option<u32> {
    let name = spell(label);
    let named = classes.iter().position(|class| *class == name);
    let numbered = match label {
        Label::Number(number) => usize::try_from(*number)
            .ok()
            .filter(|number| *number < classes.len()),
        Label::Name(_) => None,
    };
    named.or(numbered).and_then(|at| u32::try_from(at).ok())
}

pub(crate) fn spell(label: &Label) -> String {
    match label {
        Label::Number(number) => number.to_string(),
        Label::Name(name) => name.clone(),
    }
}
