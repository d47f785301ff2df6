//! Sizes of a training step.

/// The sizes that the operations of a step have.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What it is called.
    pub name: &'static str,
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub time: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Width inside the MLP.
    pub inner: usize,
    /// Tokens known.
    pub vocabulary: usize,
    /// Blocks.
    pub layers: usize,
    /// Llama's block (RMS norm, rotation, SwiGLU) or else GPT-2's (layer norm, GELU).
    pub gated: bool,
    /// Rank of LoRA.
    pub rank: usize,
}

impl Shape {
    /// Names of the shapes there are.
    pub const NAMES: [&'static str; 2] = ["15m", "124m"];

    /// The shape of a name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "15m" => Some(Self::llama_15m()),
            "124m" => Some(Self::gpt2_124m()),
            _ => None,
        }
    }

    /// A Llama of 15 million parameters at 8 x 128 tokens.
    pub fn llama_15m() -> Self {
        Self {
            name: "15m",
            batch: 8,
            time: 128,
            width: 288,
            heads: 6,
            inner: 768,
            vocabulary: 32_000,
            layers: 6,
            gated: true,
            rank: 8,
        }
    }

    /// GPT-2 small at 8 x 128 tokens.
    pub fn gpt2_124m() -> Self {
        Self {
            name: "124m",
            width: 768,
            heads: 12,
            inner: 3072,
            vocabulary: 50_257,
            layers: 12,
            gated: false,
            ..Self::llama_15m()
        }
    }

    /// Weights of the whole model, without the positions.
    pub(super) fn parameters(&self) -> usize {
        let mlp = if self.gated { 3 } else { 2 } * self.inner;
        self.vocabulary * self.width + self.layers * self.width * (4 * self.width + mlp)
    }

    #[cfg(test)]
    pub(super) fn tiny(gated: bool) -> Self {
        Self {
            name: "tiny",
            batch: 2,
            time: 4,
            width: 8,
            heads: 2,
            inner: 12,
            vocabulary: 20,
            layers: 1,
            gated,
            rank: 2,
        }
    }
}
