//! The operations of a training step and of generation at their sizes: a row each in
//! [`operations`].

use super::inputs::{Inputs, Work};
use super::shape::Shape;
use burn::tensor::Tensor;
use modelsmith_core::mask::Mask;
use modelsmith_kernels as kernels;

/// An operation to be timed.
pub(super) struct Operation {
    /// Its name.
    pub(super) name: &'static str,
    /// Whether gradients are computed too.
    pub(super) backward: bool,
    /// Floating-point operations of its matrix products.
    pub(super) flops: f64,
    /// Whether a side of these is `bf16`.
    pub(super) half: bool,
    /// Makes the inputs, and what does the work once.
    pub(super) prepare: Box<dyn Fn(&mut Inputs) -> Work>,
}

/// All rows of the table.
pub(super) fn operations(shape: &Shape) -> Vec<Operation> {
    let mut list = List::default();
    products(&mut list, *shape);
    layers(&mut list, *shape);
    attention(&mut list, *shape);
    losses_and_updates(&mut list, *shape);
    generation(&mut list, *shape);
    list.half = true;
    in_half(&mut list, *shape);
    list.rows
}

/// The three products of every dense layer, then the layers themselves, plain and with LoRA.
fn products(list: &mut List, shape: Shape) {
    let Shape {
        batch,
        time,
        width,
        inner,
        rank,
        ..
    } = shape;
    let rows = batch * time;
    for (inputs, outputs) in [(width, width), (width, inner), (inner, width)] {
        let flops = product(rows, inputs, outputs);
        list.forward("matmul x Wt", flops, move |new| {
            let (x, w) = (
                new.constant([rows, inputs]),
                new.constant([outputs, inputs]),
            );
            move || x.clone().matmul(w.clone().transpose())
        });
        list.forward("matmul g W", flops, move |new| {
            let (g, w) = (
                new.constant([rows, outputs]),
                new.constant([outputs, inputs]),
            );
            move || g.clone().matmul(w.clone())
        });
        list.forward("matmul gt x", flops, move |new| {
            let (g, x) = (new.constant([rows, outputs]), new.constant([rows, inputs]));
            move || g.clone().transpose().matmul(x.clone())
        });
        list.both("linear", [flops, 2.0 * flops], move |new| {
            let (x, w) = (
                new.tracked([batch, time, inputs]),
                new.tracked([outputs, inputs]),
            );
            move || kernels::linear(x.clone(), w.clone(), None, None)
        });
        let low = product(rows, inputs + outputs, rank);
        // The frozen base has a gradient of its input alone.
        list.both(
            "lora linear",
            [flops + low, flops + 2.0 * low],
            move |new| {
                let (x, w) = (
                    new.tracked([batch, time, inputs]),
                    new.constant([outputs, inputs]),
                );
                let (a, b) = (new.tracked([rank, inputs]), new.tracked([outputs, rank]));
                let change = kernels::LowRank { a, b, scale: 2.0 };
                move || kernels::linear(x.clone(), w.clone(), None, Some(change.clone()))
            },
        );
    }
}

/// What stands between the products.
fn layers(list: &mut List, shape: Shape) {
    let Shape {
        batch,
        time,
        width,
        heads,
        inner,
        ..
    } = shape;
    if shape.gated {
        list.both("rms norm", [0.0; 2], move |new| {
            let (x, w) = (new.tracked([batch, time, width]), new.tracked([width]));
            move || kernels::rms_norm(x.clone(), w.clone(), 1e-6)
        });
        list.both("rotate", [0.0; 2], move |new| {
            let x = new.tracked([batch, time, heads, width / heads]);
            let [cos, sin] = [(); 2].map(|()| new.constant([1, time, 1, width / heads / 2]));
            move || kernels::rotate(x.clone(), cos.clone(), sin.clone())
        });
        list.both("swiglu", [0.0; 2], move |new| {
            let [gate, up] = [(); 2].map(|()| new.tracked([batch, time, inner]));
            move || kernels::swiglu(gate.clone(), up.clone())
        });
    } else {
        list.both("layer norm", [0.0; 2], move |new| {
            let (x, w, b) = (
                new.tracked([batch, time, width]),
                new.tracked([width]),
                new.tracked([width]),
            );
            move || kernels::layer_norm(x.clone(), w.clone(), Some(b.clone()), 1e-5)
        });
        list.both("gelu tanh", [0.0; 2], move |new| {
            let x = new.tracked([batch, time, inner]);
            move || kernels::gelu_tanh(x.clone())
        });
    }
    // Backward the gradient goes both ways as it is.
    list.forward("residual add", 0.0, move |new| {
        let [x, y] = [(); 2].map(|()| new.constant([batch, time, width]));
        move || x.clone() + y.clone()
    });
}

/// Causal attention over whole sequences, and the softmax where its probabilities are looked at.
fn attention(list: &mut List, shape: Shape) {
    let Shape {
        batch,
        time,
        width,
        heads,
        ..
    } = shape;
    list.both("softmax", [0.0; 2], move |new| {
        let x = new.tracked([batch, heads, time, time]);
        let bias = new.constant([1, 1, time, time]);
        move || kernels::softmax(x.clone(), Some(bias.clone()))
    });
    // Half of the scores are hidden; backward there are four products instead of two.
    let flops = product(batch * time, time + 1, width);
    list.both("attention", [flops, 2.0 * flops], move |new| {
        let dim = width / heads;
        let qkv = [(); 3].map(|()| new.tracked([batch, time, heads, dim]));
        let scale = (dim as f64).sqrt().recip();
        move || {
            let [q, k, v] = qkv.clone().map(|x| x.swap_dims(1, 2));
            kernels::attention(q, k, v, scale, &Mask::causal())
        }
    });
}

/// The head of a language model with its loss, and what follows the gradients.
fn losses_and_updates(list: &mut List, shape: Shape) {
    let Shape {
        width, vocabulary, ..
    } = shape;
    let rows = shape.batch * shape.time;
    let flops = product(rows, width, vocabulary);
    list.both(
        "linear cross-entropy, frozen head",
        [flops, flops],
        move |new| {
            let (x, w) = (
                new.tracked([rows, width]),
                new.constant([vocabulary, width]),
            );
            let targets = new.classes(rows, vocabulary);
            move || kernels::linear_cross_entropy(x.clone(), w.clone(), targets.clone())
        },
    );
    list.both("linear cross-entropy", [flops, 2.0 * flops], move |new| {
        let (x, w) = (new.tracked([rows, width]), new.tracked([vocabulary, width]));
        let targets = new.classes(rows, vocabulary);
        move || kernels::linear_cross_entropy(x.clone(), w.clone(), targets.clone())
    });
    let count = shape.parameters();
    list.push("square sum", move |new| {
        let x = [new.constant([count])];
        Box::new(move || {
            kernels::square_sum(&x);
            0
        })
    });
    list.push("adamw", move |new| {
        let gradient = new.constant([count]);
        let [mut value, mut first, second] = [(); 3].map(|()| new.changed([count]));
        let mut second = second.abs();
        Box::new(move || {
            kernels::adamw(vec![kernels::AdamWParameter {
                value: &mut value,
                gradient: gradient.clone(),
                first: &mut first,
                second: &mut second,
                step: ADAMW,
            }]);
            0
        })
    });
}

const ADAMW: kernels::AdamWStep = kernels::AdamWStep {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    steps: 10,
    learning_rate: 1e-6,
    weight_decay: 0.0,
    scale: 1.0,
};

/// A token at a time: products of a row or a few with every weight.
fn generation(list: &mut List, shape: Shape) {
    let Shape {
        width,
        inner,
        vocabulary,
        ..
    } = shape;
    for rows in [1, 8] {
        for (inputs, outputs) in [
            (width, width),
            (width, inner),
            (inner, width),
            (width, vocabulary),
        ] {
            list.forward("token x Wt", product(rows, inputs, outputs), move |new| {
                let (x, w) = (
                    new.constant([rows, 1, inputs]),
                    new.constant([outputs, inputs]),
                );
                move || kernels::linear(x.clone(), w.clone(), None, None)
            });
        }
    }
}

/// The products of a frozen host in `bf16`.
fn in_half(list: &mut List, shape: Shape) {
    let Shape {
        batch,
        time,
        width,
        inner,
        vocabulary,
        rank,
        ..
    } = shape;
    let rows = batch * time;
    for (inputs, outputs) in [(width, width), (width, inner), (inner, width)] {
        let low = product(rows, inputs + outputs, rank);
        let flops = product(rows, inputs, outputs);
        let flops = [flops + low, flops + 2.0 * low];
        list.both("lora linear, bf16", flops, move |new| {
            let (x, w) = (
                new.tracked([batch, time, inputs]),
                new.half([outputs, inputs]),
            );
            let (a, b) = (new.tracked([rank, inputs]), new.tracked([outputs, rank]));
            let change = kernels::LowRank { a, b, scale: 2.0 };
            move || kernels::linear(x.clone(), w.clone(), None, Some(change.clone()))
        });
    }
    let flops = product(rows, width, vocabulary);
    let name = "linear cross-entropy, frozen head, bf16";
    list.both(name, [flops, flops], move |new| {
        let (x, w) = (new.tracked([rows, width]), new.half([vocabulary, width]));
        let targets = new.classes(rows, vocabulary);
        move || kernels::linear_cross_entropy(x.clone(), w.clone(), targets.clone())
    });
}

/// Floating-point operations of a matrix product.
fn product(rows: usize, inputs: usize, outputs: usize) -> f64 {
    2.0 * rows as f64 * inputs as f64 * outputs as f64
}

/// The table in the making.
#[derive(Default)]
struct List {
    rows: Vec<Operation>,
    half: bool,
}

impl List {
    /// A row: an operation without gradients.
    fn forward<const D: usize, F: Fn() -> Tensor<D> + 'static>(
        &mut self,
        name: &'static str,
        flops: f64,
        build: impl Fn(&mut Inputs) -> F + 'static,
    ) {
        self.rows.push(Operation {
            name,
            backward: false,
            flops,
            half: self.half,
            prepare: Box::new(move |new| {
                let work = build(new);
                Box::new(move || work().shape().num_elements())
            }),
        });
    }

    /// Two rows: an operation forward, and forward and backward; `flops` are those of each pass.
    fn both<const D: usize, F: Fn() -> Tensor<D> + 'static>(
        &mut self,
        name: &'static str,
        flops: [f64; 2],
        build: impl Fn(&mut Inputs) -> F + Copy + 'static,
    ) {
        self.forward(name, flops[0], build);
        self.rows.push(Operation {
            name,
            backward: true,
            flops: flops[0] + flops[1],
            half: self.half,
            prepare: Box::new(move |new| {
                let work = build(new);
                Box::new(move || {
                    let y = work();
                    // The gradient that arrives is one everywhere.
                    drop(y.backward());
                    y.shape().num_elements()
                })
            }),
        });
    }

    /// A row of an operation that gives no tensor.
    fn push(&mut self, name: &'static str, prepare: impl Fn(&mut Inputs) -> Work + 'static) {
        self.rows.push(Operation {
            name,
            backward: false,
            flops: 0.0,
            half: self.half,
            prepare: Box::new(prepare),
        });
    }
}
