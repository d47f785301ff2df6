//! What requests must satisfy before a model is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use modelsmith_core::error::Result;
use modelsmith_core::roles::Encode;
use serde::{Deserialize, Serialize};

use super::fault::Faults;
use super::request::{EditRequest, target_text};
use crate::read::short;

/// What becomes of edits that contradict each other: the same subject with the same prompt or
/// relation, and another target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conflicts {
    /// They are faults.
    #[default]
    Refuse,
    /// The last one stays, the others are left out.
    LastWins,
    /// All stay, for edits that are each made from the untouched model.
    Allow,
}

/// What a model says about texts.
#[derive(Clone, Copy, Default)]
pub struct HostChecks<'a> {
    /// Its tokenizer.
    pub encode: Option<&'a Encode<'a>>,
    /// Tokens that it takes at most.
    pub positions: Option<usize>,
}

impl std::fmt::Debug for HostChecks<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let encode = self.encode.is_some();
        write!(
            out,
            "HostChecks {{ encode: {encode}, positions: {:?} }}",
            self.positions
        )
    }
}

/// A request and the line of its record.
pub(super) type Located<'a> = (u64, &'a EditRequest);

/// Checks requests that come from elsewhere than a file; faults count them from 1 as lines of `name`.
///
/// # Errors
/// As [`open`](super::open()).
pub fn validate(
    requests: &[EditRequest],
    name: impl AsRef<Path>,
    conflicts: Conflicts,
    host: HostChecks<'_>,
) -> Result<()> {
    let mut faults = Faults::new(name.as_ref());
    let located: Vec<Located<'_>> = (1..).zip(requests).collect();
    check_all(&located, conflicts, host, &mut faults)?;
    faults.check(20)
}

/// Adds everything that is wrong.
pub(super) fn check_all(
    requests: &[Located<'_>],
    conflicts: Conflicts,
    host: HostChecks<'_>,
    faults: &mut Faults,
) -> Result<()> {
    let mut ids: BTreeMap<&str, u64> = BTreeMap::new();
    for (line, request) in requests {
        let mut add = |problem: String| faults.add(*line, problem);
        prompt(request, &mut add);
        targets(request, &mut add);
        questions(request, &mut add);
        if let Some(encode) = host.encode {
            tokens(request, encode, host.positions, &mut add)?;
        }
        if let Some(first) = ids.get(request.id.as_str()) {
            add(format!(
                "the id {:?} is that of line {first} too; give each request its own",
                short(&request.id)
            ));
        } else {
            ids.insert(&request.id, *line);
        }
    }
    if conflicts == Conflicts::Refuse {
        contradictions(requests, faults);
    }
    Ok(())
}

fn prompt(request: &EditRequest, add: &mut impl FnMut(String)) {
    let EditRequest {
        prompt, subject, ..
    } = request;
    if subject.trim().is_empty() {
        add("`subject` is empty; expected what the fact is about".into());
    }
    characters("subject", subject, "", add);
    characters("prompt", prompt, "\n\t", add);
    let shown = short(prompt);
    let named = !subject.trim().is_empty() && stands_in(prompt, subject);
    match prompt.matches("{}").count() {
        0 if named => add(format!(
            "`prompt` {shown:?} has no {{}}; write {{}} in place of the subject {:?}",
            short(subject)
        )),
        0 => add(format!(
            "`prompt` {shown:?} has no {{}}; expected it once, where the subject {:?} stands",
            short(subject)
        )),
        1 if named => add(format!(
            "`prompt` {shown:?} has the subject {:?} beside {{}}; expected the subject once, as {{}}",
            short(subject)
        )),
        1 => {}
        count => add(format!(
            "`prompt` {shown:?} has {{}} {count} times; expected it once"
        )),
    }
}

/// Whether `text` has `word` with no letter or digit beside it.
fn stands_in(text: &str, word: &str) -> bool {
    let beside = |character: Option<char>| character.is_some_and(char::is_alphanumeric);
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !beside(before.chars().next_back()) && !beside(after.chars().next())
    })
}

fn targets(request: &EditRequest, add: &mut impl FnMut(String)) {
    let new = request.target_new.trim();
    if new.is_empty() {
        add("`target_new` is empty; expected the answer that the model shall give".into());
    }
    characters("target_new", &request.target_new, "", add);
    let Some(before) = &request.target_true else {
        return;
    };
    characters("target_true", before, "", add);
    match before.trim() {
        "" => add(
            "`target_true` is empty; give the answer that was right, or leave the key out".into(),
        ),
        before if before == new => add(format!(
            "`target_new` and `target_true` are both {:?}; an edit needs another answer than the one that is true",
            short(new)
        )),
        _ => {}
    }
}

fn questions(request: &EditRequest, add: &mut impl FnMut(String)) {
    let mut text = |key: &str, text: &str| {
        if text.trim().is_empty() {
            add(format!("`{key}` is empty; give a text or take it out"));
        }
        characters(key, text, "\n\t", add);
    };
    for (at, paraphrase) in request.paraphrases.iter().enumerate() {
        text(&format!("paraphrases[{at}]"), paraphrase);
    }
    for (at, prompt) in request.generation.iter().enumerate() {
        text(&format!("generation[{at}]"), prompt);
    }
    for (at, neighbour) in request.neighbours.iter().enumerate() {
        text(&format!("neighbours[{at}].prompt"), &neighbour.prompt);
        if let Some(answer) = &neighbour.answer {
            text(&format!("neighbours[{at}].answer"), answer);
        }
    }
    let kinds = [
        ("portability", &request.portability),
        ("locality", &request.locality),
    ];
    for (key, probes) in kinds {
        for (at, probe) in probes.iter().enumerate() {
            text(&format!("{key}[{at}].prompt"), &probe.prompt);
            for (number, answer) in probe.answers.iter().enumerate() {
                text(&format!("{key}[{at}].answers[{number}]"), answer);
            }
        }
    }
    for (at, neighbour) in request.neighbours.iter().enumerate() {
        if request.answer_of(neighbour).is_none() {
            add(format!(
                "`neighbours[{at}]` has no answer, and the request no `target_true`; give one of them"
            ));
        }
    }
    for (key, probes) in kinds {
        let silent = probes.iter().position(|probe| probe.answers.is_empty());
        if let Some(at) = silent {
            add(format!(
                "`{key}[{at}].answers` is empty; expected a list of one or more answers"
            ));
        }
    }
}

fn characters(key: &str, text: &str, allowed: &str, add: &mut impl FnMut(String)) {
    let wrong = |character: &char| character.is_control() && !allowed.contains(*character);
    if let Some(found) = text.chars().find(wrong) {
        add(format!(
            "`{key}` has the control character U+{:04X}; take it out",
            u32::from(found)
        ));
    }
}

/// Targets without a token, and texts that are longer than the model takes.
fn tokens(
    request: &EditRequest,
    encode: &Encode<'_>,
    positions: Option<usize>,
    add: &mut impl FnMut(String),
) -> Result<()> {
    let mut longest = 0;
    let mut targets = vec![("target_new".to_string(), request.target_new.as_str())];
    let before = request.target_true.iter();
    targets.extend(before.map(|text| ("target_true".into(), text.as_str())));
    for (at, neighbour) in request.neighbours.iter().enumerate() {
        let answer = neighbour.answer.iter();
        targets.extend(answer.map(|text| (format!("neighbours[{at}].answer"), text.as_str())));
    }
    for (key, target) in targets.iter().filter(|(_, text)| !text.trim().is_empty()) {
        let count = encode(&target_text(target), false)?.len();
        longest = longest.max(count);
        if count == 0 {
            add(format!(
                "`{key}` {:?} has no token in this model; give an answer in characters that its tokenizer knows",
                short(target)
            ));
        }
    }
    let Some(positions) = positions else {
        return Ok(());
    };
    for (key, text) in texts(request) {
        let count = encode(&text, true)?.len() + longest;
        if count > positions {
            add(format!(
                "`{key}` with its answer has {count} tokens; this model takes {positions}; shorten it"
            ));
        }
    }
    Ok(())
}

/// Every prompt by its key.
fn texts(request: &EditRequest) -> Vec<(String, String)> {
    let mut all = vec![("prompt".to_string(), request.filled())];
    let mut add =
        |key: &str, at: usize, text: &String| all.push((format!("{key}[{at}]"), text.clone()));
    for (at, text) in request.paraphrases.iter().enumerate() {
        add("paraphrases", at, text);
    }
    for (at, neighbour) in request.neighbours.iter().enumerate() {
        add("neighbours", at, &neighbour.prompt);
    }
    for (at, probe) in request.portability.iter().enumerate() {
        add("portability", at, &probe.prompt);
    }
    for (at, probe) in request.locality.iter().enumerate() {
        add("locality", at, &probe.prompt);
    }
    for (at, text) in request.generation.iter().enumerate() {
        add("generation", at, text);
    }
    all
}

/// What a request speaks of: subject with prompt, and subject with relation.
fn spoken_of(request: &EditRequest) -> Vec<(bool, &str, &str)> {
    let subject = request.subject.trim();
    let prompt = (false, subject, request.prompt.trim());
    let relation = request.relation.as_deref();
    let relation = relation.map(|relation| (true, subject, relation));
    std::iter::once(prompt).chain(relation).collect()
}

fn contradictions(requests: &[Located<'_>], faults: &mut Faults) {
    let mut targets: BTreeMap<(bool, &str, &str), (u64, &str)> = BTreeMap::new();
    for (line, request) in requests {
        let target = request.target_new.trim();
        let against = spoken_of(request).into_iter().find_map(|key| {
            let (earlier, other) = *targets.entry(key).or_insert((*line, target));
            (other != target).then_some((key, earlier, other))
        });
        if let Some(((by_relation, subject, what), earlier, other)) = against {
            let of = if by_relation { "relation" } else { "prompt" };
            faults.add(
                *line,
                format!(
                    "contradicts line {earlier}: the {of} {:?} of {:?} shall be {:?} here and {:?} there; \
                     keep one of them, or let the last one win",
                    short(what), short(subject), short(target), short(other)
                ),
            );
        }
    }
}

/// Numbers of requests of which the last one about the same thing says something else.
pub(super) fn overridden(requests: &[EditRequest]) -> BTreeSet<usize> {
    let mut last: BTreeMap<(bool, &str, &str), &str> = BTreeMap::new();
    for request in requests {
        let target = request.target_new.trim();
        last.extend(spoken_of(request).into_iter().map(|key| (key, target)));
    }
    let lost = |request: &EditRequest| {
        let target = request.target_new.trim();
        let mut keys = spoken_of(request).into_iter();
        keys.any(|key| last.get(&key).is_some_and(|last| *last != target))
    };
    let numbered = requests.iter().enumerate();
    numbered
        .filter(|(_, request)| lost(request))
        .map(|(number, _)| number)
        .collect()
}
