//! Facts that are searched for side by side.

use super::super::answers::log_probabilities;
use super::super::facts::{Fact, Prompt};
use super::super::mlps::Mlp;
use super::super::rows::numbered;
use super::super::span::{AddFirst, Span, add_first};
use super::Targets;
use super::adam::{Adam, length};
use burn::tensor::{Int, Tensor, TensorData};
use modelsmith_core::capture::{Capture, Side};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::{to_vec, trained};
use modelsmith_hosts::{KvCache, TokenInput, Transformer};
use modelsmith_methods::edit::{Hits, Reference, Search};
use std::collections::BTreeMap;

/// A text of a fact, parted at its lookup token.
struct Row {
    /// Place of the fact in the group.
    fact: usize,
    /// Tokens in front.
    before: Vec<u32>,
    /// The lookup token, and those behind it that the model reads.
    from: Vec<u32>,
    /// Columns of `from` at which the target is predicted; none in the text that should stay as it is.
    predicts: std::ops::Range<usize>,
    /// Whether a context stands in front.
    prefixed: bool,
}

/// A fact of the group.
struct Member {
    /// Its number in the batch.
    number: usize,
    target: Vec<u32>,
    /// Number of its texts that end in the target.
    texts: usize,
    /// A vector for each place of the network.
    vectors: Vec<Adam>,
    /// The activation that each is added to, in the bare prompt.
    activations: Vec<Vec<f32>>,
    /// Evaluations at which the target was the answer everywhere.
    hits: Hits,
    done: bool,
}

/// Where vectors are added.
enum Spot {
    /// To what a block gives; the blocks up to it need not run.
    Stream,
    /// To what dense layers of a block give.
    Layers(Vec<String>),
}

/// Facts side by side, with all that does not depend on their vectors.
pub(super) struct Group<'a> {
    host: &'a Transformer,
    blocks: BTreeMap<String, usize>,
    spot: Spot,
    members: Vec<Member>,
    rows: Vec<Row>,
    /// Keys and values of the tokens in front of the lookup tokens.
    past: Option<KvCache>,
    /// The last block that is not run in a step, and what it gives from the lookup tokens on.
    after: Option<(usize, Tensor<3>)>,
}

/// What a step's pass gives for every member.
struct Outcome {
    /// Mean over texts of the mean negative log-likelihood.
    loss: Vec<f64>,
    /// Mean over texts of the target's probability (of its geometric mean over tokens).
    probability: Vec<f64>,
    /// Right positions and all positions, in prefixed texts.
    right: Vec<(usize, usize)>,
    divergence: Vec<f64>,
}

impl<'a> Group<'a> {
    /// The facts of `numbers`, with vectors at block `layer`.
    pub(super) fn new(
        host: &'a Transformer,
        mlps: &'a [Mlp],
        facts: &[Fact],
        numbers: &[usize],
        layer: usize,
        reference: Reference,
    ) -> Result<Self> {
        let mlp = &mlps[layer];
        let (spot, read) = match reference {
            Reference::Block => (Spot::Stream, vec![mlp.block.clone()]),
            Reference::Mlp => (Spot::Stream, vec![mlp.site.path.clone()]),
            Reference::AttentionAndMlp => {
                let both = vec![mlp.attention.clone(), mlp.site.path.clone()];
                (Spot::Layers(both.clone()), both)
            }
        };
        let rows: Vec<Row> = numbers
            .iter()
            .enumerate()
            .flat_map(|(place, number)| rows(place, &facts[*number]))
            .collect();
        let mut group = Self {
            host,
            blocks: numbered(mlps),
            spot,
            members: Vec::new(),
            past: past(host, &rows)?,
            rows,
            after: None,
        };
        let activations = group.prepare(layer, &read)?;
        let member = |(place, number): (usize, &usize)| {
            let fact = &facts[*number];
            let row = group.rows.iter().position(|row| row.fact == place);
            let row = row.unwrap_or_default();
            let activations: Vec<Vec<f32>> =
                activations.iter().map(|rows| rows[row].clone()).collect();
            Member {
                number: *number,
                target: fact.target.clone(),
                texts: 1 + fact.prefixed.len(),
                vectors: activations
                    .iter()
                    .map(|value| Adam::new(value.len()))
                    .collect(),
                activations,
                hits: Hits::default(),
                done: false,
            }
        };
        group.members = numbers.iter().enumerate().map(member).collect();
        Ok(group)
    }

    /// Runs what does not depend on the vectors; returns the first column of each of `read` for all
    /// rows.
    fn prepare(&mut self, layer: usize, read: &[String]) -> Result<Vec<Vec<Vec<f32>>>> {
        let last = match self.spot {
            Spot::Stream => Some(layer),
            Spot::Layers(_) => layer.checked_sub(1),
        };
        let capture = Capture::new(read, Side::Output);
        let known = last.map(|last| Span::new(&self.blocks, None, last));
        let mut passes: Vec<Vec<&dyn Hooks>> = Vec::new();
        if let Some(span) = &known {
            passes.push(vec![span, &capture]);
        }
        if matches!(self.spot, Spot::Layers(_)) {
            passes.push(vec![&capture]);
        }
        let input = self.input();
        let mut seen = BTreeMap::new();
        for hooks in passes {
            let mut past = self.past.clone();
            self.host
                .hidden(&input, &Pass::default(), &hooks, past.as_mut())?;
            seen.append(&mut capture.take());
        }
        self.after = known.and_then(|span| Some((last?, span.take()?)));
        let first = |path: &String| {
            let seen = seen.get(path);
            let seen = seen.ok_or_else(|| Error::Failed(format!("{path} was not visited")))?;
            let seen: Tensor<3> = seen.tensor()?;
            let width = seen.dims()[2];
            let values = to_vec(seen.narrow(1, 0, 1));
            Ok(values.chunks_exact(width).map(<[f32]>::to_vec).collect())
        };
        read.iter().map(first).collect()
    }

    /// The tokens from the lookups on.
    fn input(&self) -> TokenInput {
        let rows: Vec<Vec<u32>> = self.rows.iter().map(|row| row.from.clone()).collect();
        let pad = self.host.pad_token().unwrap_or(0);
        TokenInput::from_ids(&rows, pad, false, &self.host.device())
    }

    /// Searches until every fact is done.
    pub(super) fn search(mut self, options: &Search, found: &mut Targets) -> Result<()> {
        let mut before: Option<Tensor<2>> = None;
        for step in 0..options.steps {
            let input = self.input();
            let (leaves, outcome, loss) = self.evaluate(&input, &mut before, options)?;
            let last = step + 1 == options.steps;
            let mut going = Vec::new();
            for (place, member) in self.members.iter_mut().enumerate() {
                if member.done {
                    continue;
                }
                let loss = member.total(&outcome, place, options);
                member.done = member.is_done(&outcome, place, loss, options)? || last;
                found.note(member, loss, step);
                if !member.done {
                    going.push(place);
                }
            }
            if going.is_empty() {
                return Ok(());
            }
            let gradients = loss.backward();
            for (site, leaf) in leaves.iter().enumerate() {
                let Some(gradient) = leaf.grad(&gradients) else {
                    return Err(Error::Failed(
                        "the target does not depend on the edited layer; choose an earlier one"
                            .into(),
                    ));
                };
                let width = gradient.dims()[1];
                let gradient = to_vec(gradient);
                for place in &going {
                    let own = &gradient[place * width..(place + 1) * width];
                    self.members[*place].step(site, own, options);
                }
            }
            self.keep(&going, &mut before)?;
        }
        Ok(())
    }

    /// A pass: the vectors' leaves, figures of all members, and the loss whose gradient is wanted.
    fn evaluate(
        &self,
        input: &TokenInput,
        before: &mut Option<Tensor<2>>,
        options: &Search,
    ) -> Result<(Vec<Tensor<2>>, Outcome, Tensor<1>)> {
        let leaves = self.leaves();
        let hidden = self.hidden(input, &leaves)?;
        let (answers, stays) = self.log_probabilities(hidden, input);
        let before = before.get_or_insert_with(|| stays.clone().without_autodiff());
        let divergence = (stays.clone().exp() * (stays - before.clone())).sum_dim(1);
        let targets = self.per_place(|member, place, _| i64::from(member.target[place]));
        let device = self.host.device();
        let count = targets.len();
        let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, [count, 1]), &device);
        let best = answers.clone().without_autodiff().argmax(1);
        let right: Vec<i64> = best
            .equal(targets.clone())
            .int()
            .into_data()
            .iter()
            .collect();
        let chosen = answers.gather(1, targets);
        let weights =
            self.per_place(|member, _, _| -1.0 / (member.target.len() * member.texts) as f32);
        let weights = Tensor::<2>::from_data(TensorData::new(weights, [count, 1]), &device);
        let outcome = self.outcome(
            &to_vec(chosen.clone().without_autodiff()),
            &right,
            &to_vec(divergence.clone().without_autodiff()),
        );
        let loss = (chosen * weights).sum() + divergence.sum() * options.kl_factor;
        Ok((leaves, outcome, loss))
    }

    /// The vectors of every site as leaves `[members, width]`.
    fn leaves(&self) -> Vec<Tensor<2>> {
        let sites = self
            .members
            .first()
            .map_or(0, |member| member.vectors.len());
        (0..sites)
            .map(|site| {
                let vectors = self.members.iter().map(|member| &member.vectors[site]);
                let values: Vec<f32> = vectors.flat_map(|vector| vector.value.clone()).collect();
                let shape = [self.members.len(), values.len() / self.members.len()];
                let data = TensorData::new(values, shape);
                trained(Tensor::<2>::from_data(data, &self.host.device())).val()
            })
            .collect()
    }

    /// The last hidden states under the vectors.
    fn hidden(&self, input: &TokenInput, leaves: &[Tensor<2>]) -> Result<Tensor<3>> {
        let of_row: Vec<i64> = self.rows.iter().map(|row| row.fact as i64).collect();
        let shape = [of_row.len()];
        let of_row =
            Tensor::<1, Int>::from_data(TensorData::new(of_row, shape), &self.host.device());
        let vectors = |leaf: &Tensor<2>| leaf.clone().select(0, of_row.clone());
        let mut after = self.after.clone();
        let mut added = Vec::new();
        match &self.spot {
            Spot::Stream => {
                after =
                    after.map(|(number, stream)| (number, add_first(stream, vectors(&leaves[0]))));
            }
            Spot::Layers(paths) => {
                let pairs = paths.iter().zip(leaves);
                added.extend(pairs.map(|(path, leaf)| AddFirst {
                    path: path.clone(),
                    vectors: vectors(leaf),
                }));
            }
        }
        let span = Span::new(&self.blocks, after, usize::MAX);
        let mut hooks: Vec<&dyn Hooks> = vec![&span];
        hooks.extend(added.iter().map(|hook| hook as &dyn Hooks));
        let mut past = self.past.clone();
        self.host
            .hidden(input, &Pass::default(), &hooks, past.as_mut())
    }

    /// Log-probabilities over the vocabulary where targets are predicted, `[places, vocabulary]`,
    /// and at the lookup tokens of texts that should stay, `[members, vocabulary]`.
    fn log_probabilities(&self, hidden: Tensor<3>, input: &TokenInput) -> (Tensor<2>, Tensor<2>) {
        let time = hidden.dims()[1];
        let columns = |(row, parts): (usize, &Row)| {
            let places = parts.predicts.clone();
            places.map(move |column| (row * time + column) as i64)
        };
        let mut places: Vec<i64> = self.rows.iter().enumerate().flat_map(columns).collect();
        let answers = places.len();
        let stay = self.rows.iter().enumerate();
        let stay = stay.filter(|(_, row)| row.predicts.is_empty());
        places.extend(stay.map(|(row, _)| (row * time) as i64));
        let count = places.len();
        let all = log_probabilities(self.host, hidden, places, input);
        (
            all.clone().narrow(0, 0, answers),
            all.narrow(0, answers, count - answers),
        )
    }

    /// A value for every place at which a target is predicted: of its member, the place in the
    /// target, and its row.
    fn per_place<T>(&self, value: impl Fn(&Member, usize, &Row) -> T) -> Vec<T> {
        let mut values = Vec::new();
        for row in &self.rows {
            let member = &self.members[row.fact];
            let places = 0..row.predicts.len();
            values.extend(places.map(|place| value(member, place, row)));
        }
        values
    }

    fn outcome(&self, chosen: &[f32], right: &[i64], divergence: &[f32]) -> Outcome {
        let count = self.members.len();
        let mut outcome = Outcome {
            loss: vec![0.0; count],
            probability: vec![0.0; count],
            right: vec![(0, 0); count],
            divergence: divergence.iter().copied().map(f64::from).collect(),
        };
        let mut begin = 0;
        for row in self.rows.iter().filter(|row| !row.predicts.is_empty()) {
            let end = begin + row.predicts.len();
            let texts = self.members[row.fact].texts as f64;
            let sum: f64 = chosen[begin..end].iter().copied().map(f64::from).sum();
            let loss = -sum / (end - begin) as f64;
            outcome.loss[row.fact] += loss / texts;
            outcome.probability[row.fact] += (-loss).exp() / texts;
            if row.prefixed {
                let hits = right[begin..end]
                    .iter()
                    .filter(|right| **right == 1)
                    .count();
                let (seen, all) = outcome.right[row.fact];
                outcome.right[row.fact] = (seen + hits, all + (end - begin));
            }
            begin = end;
        }
        outcome
    }

    /// Goes on with these members only, where that saves enough of a pass.
    fn keep(&mut self, going: &[usize], before: &mut Option<Tensor<2>>) -> Result<()> {
        if going.len() * 4 > self.members.len() * 3 {
            return Ok(());
        }
        let new: BTreeMap<usize, usize> = going
            .iter()
            .enumerate()
            .map(|(new, old)| (*old, new))
            .collect();
        let kept: Vec<usize> = (0..self.rows.len())
            .filter(|row| new.contains_key(&self.rows[*row].fact))
            .collect();
        let pick = |numbers: &[usize]| {
            let numbers: Vec<i64> = numbers.iter().map(|number| *number as i64).collect();
            let count = [numbers.len()];
            Tensor::<1, Int>::from_data(TensorData::new(numbers, count), &self.host.device())
        };
        if let Some(past) = &mut self.past {
            past.select(&kept)?;
        }
        let chosen = pick(&kept);
        self.after = self
            .after
            .take()
            .map(|(number, stream)| (number, stream.select(0, chosen)));
        *before = before.take().map(|before| before.select(0, pick(going)));
        self.rows.retain(|row| new.contains_key(&row.fact));
        for row in &mut self.rows {
            row.fact = new[&row.fact];
        }
        let longest = self.rows.iter().map(|row| row.from.len()).max();
        if let (Some(longest), Some((_, stream))) = (longest, &mut self.after) {
            *stream = stream.clone().narrow(1, 0, longest);
        }
        let mut place = 0;
        self.members.retain(|_| {
            place += 1;
            new.contains_key(&(place - 1))
        });
        Ok(())
    }
}

impl Member {
    /// The whole loss of a member.
    fn total(&self, outcome: &Outcome, place: usize, options: &Search) -> f64 {
        let pairs = self.vectors.iter().zip(&self.activations);
        let lengths: f64 = pairs
            .map(|(vector, activation)| vector.length() / length(activation).powi(2))
            .sum();
        outcome.loss[place]
            + options.kl_factor * outcome.divergence[place]
            + options.weight_decay * lengths
    }

    /// Whether the search for this member ends here.
    fn is_done(
        &mut self,
        outcome: &Outcome,
        place: usize,
        loss: f64,
        options: &Search,
    ) -> Result<bool> {
        if !loss.is_finite() {
            return Err(Error::Numeric(format!(
                "the loss of fact {} is {loss}; the weights or the learning rate of the search are at fault",
                self.number
            )));
        }
        let (right, all) = outcome.right[place];
        let is_hit = options.is_hit(right, all, self.texts - 1);
        let patience = self.hits.ends(is_hit, options.patience);
        let sure =
            options.probability_stop > 0.0 && outcome.probability[place] > options.probability_stop;
        Ok(patience || sure || loss < options.loss_stop)
    }

    /// A step of Adam on one vector; the gradient of the term in its length is added here.
    fn step(&mut self, site: usize, gradient: &[f32], options: &Search) {
        let vector = &mut self.vectors[site];
        let activation = length(&self.activations[site]);
        let own = vector.length();
        let factor = match own > 0.0 {
            true => (options.weight_decay / (own * activation.powi(2))) as f32,
            false => 0.0,
        };
        let pairs = gradient.iter().zip(&vector.value);
        let gradient: Vec<f32> = pairs.map(|(g, value)| g + factor * value).collect();
        vector.step(&gradient, options.learning_rate);
        vector.clamp(options.clamp * activation);
    }
}

impl Targets {
    /// Notes where a member stands; the last vector is the one whose activation is written.
    fn note(&mut self, member: &Member, loss: f64, step: usize) {
        let (Some(vector), Some(activation)) = (member.vectors.last(), member.activations.last())
        else {
            return;
        };
        for (place, (value, change)) in activation.iter().zip(&vector.value).enumerate() {
            self.values[(place, member.number)] = f64::from(*value) + f64::from(*change);
        }
        self.losses[member.number] = loss;
        self.steps[member.number] = step;
    }
}

/// The texts of a fact: those that end in the target, and the one that should stay.
fn rows(place: usize, fact: &Fact) -> Vec<Row> {
    let target = |prefixed: bool, prompt: &Prompt| {
        let known = &fact.target[..fact.target.len() - 1];
        let from = [&prompt.ids[prompt.lookup..], known].concat();
        let first = prompt.ids.len() - 1 - prompt.lookup;
        Row {
            fact: place,
            before: prompt.ids[..prompt.lookup].to_vec(),
            predicts: first..first + fact.target.len(),
            from,
            prefixed,
        }
    };
    let mut rows = vec![target(false, &fact.bare)];
    rows.extend(fact.prefixed.iter().map(|prompt| target(true, prompt)));
    let essence = &fact.essence;
    rows.push(Row {
        fact: place,
        before: essence.ids[..essence.lookup].to_vec(),
        from: vec![essence.ids[essence.lookup]],
        predicts: 0..0,
        prefixed: false,
    });
    rows
}

/// Keys and values of what stands in front of the lookup tokens; `None` where nothing does.
fn past(host: &Transformer, rows: &[Row]) -> Result<Option<KvCache>> {
    let before: Vec<Vec<u32>> = rows.iter().map(|row| row.before.clone()).collect();
    if before.iter().all(Vec::is_empty) {
        return Ok(None);
    }
    let pad = host.pad_token().unwrap_or(0);
    let input = TokenInput::from_ids(&before, pad, true, &host.device());
    let mut cache = KvCache::new();
    host.hidden(&input, &Pass::default(), &[], Some(&mut cache))?;
    cache.fix();
    Ok(Some(cache))
}
