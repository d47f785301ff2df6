//! Matrices in memory, in `f32` or `bf16`, as products read them.

use crate::memory::{Source, Value};
use crate::rows;
use burn::backend::flex::FlexTensor;
use burn::backend::{DType, TensorMetadata};
use half::bf16;
use rayon::prelude::*;

/// The numbers of a matrix, by their kind.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    Single(&'a [f32]),
    Half(&'a [bf16]),
}

/// Evaluates an expression for the numbers of a matrix, whichever kind they are.
macro_rules! of_any_kind {
    ($values:expr, $name:ident => $then:expr) => {
        match $values {
            $crate::matrix::Values::Single($name) => $then,
            $crate::matrix::Values::Half($name) => $then,
        }
    };
}
pub(crate) use of_any_kind;

impl Values<'_> {
    fn len(&self) -> usize {
        of_any_kind!(self, values => values.len())
    }

    fn part(self, from: usize, to: usize) -> Self {
        match self {
            Self::Single(values) => Self::Single(&values[from..to]),
            Self::Half(values) => Self::Half(&values[from..to]),
        }
    }
}

/// A matrix somewhere in memory, with a step between its rows and one between its columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: Values<'a>,
    pub(crate) shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Values in order, `rows` by `columns`.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::in_rows(Values::Single(values), rows, columns)
    }

    /// The same for numbers of any kind.
    pub(crate) fn in_rows(values: Values<'a>, rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "a matrix of another size");
        Self {
            values,
            shape: [rows, columns],
            strides: [columns, 1],
        }
    }

    /// A tensor of rank 2, `f32` or `bf16`, that [`rows::unflipped`] gave, read where it lies.
    pub(crate) fn of(tensor: &'a FlexTensor) -> Self {
        let (shape, layout) = (tensor.shape(), tensor.layout());
        let stride = |axis: usize| {
            usize::try_from(layout.strides()[axis]).expect("a tensor that is not flipped")
        };
        let values = match tensor.dtype() {
            DType::BF16 => Values::Half(tensor.storage::<bf16>()),
            _ => Values::Single(tensor.storage::<f32>()),
        };
        let found = Self {
            values: values.part(layout.start_offset(), values.len()),
            shape: [shape[0], shape[1]],
            strides: [stride(0), stride(1)],
        };
        found.check();
        found
    }

    /// The rows of the last axis of a tensor that [`rows::contiguous`] gave.
    pub(crate) fn last_axis(tensor: &'a FlexTensor) -> Self {
        let (values, shape) = (rows::values(tensor), tensor.shape());
        let width = shape.as_slice().last().copied().unwrap_or(1);
        let before = shape.num_dims().saturating_sub(1);
        let count = shape.as_slice()[..before].iter().product();
        Self::new(values, count, width)
    }

    /// Whether the numbers are `bf16`.
    pub(crate) fn is_half(&self) -> bool {
        matches!(self.values, Values::Half(_))
    }

    /// Rows and columns.
    pub(crate) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The transpose, in the same memory.
    pub(crate) fn t(self) -> Self {
        Self {
            values: self.values,
            shape: [self.shape[1], self.shape[0]],
            strides: [self.strides[1], self.strides[0]],
        }
    }

    /// Some of the rows.
    pub(crate) fn rows(self, from: usize, to: usize) -> Self {
        assert!(from <= to && to <= self.shape[0], "rows beyond a matrix");
        let start = match from == to {
            true => 0,
            false => from * self.strides[0],
        };
        Self {
            values: self.values.part(start, self.values.len()),
            shape: [to - from, self.shape[1]],
            strides: self.strides,
        }
    }

    /// All values, if they lie in order.
    pub(crate) fn in_order(&self) -> Option<Values<'a>> {
        let [rows, columns] = self.shape;
        let steps =
            (columns <= 1 || self.strides[1] == 1) && (rows <= 1 || self.strides[0] == columns);
        steps.then(|| self.values.part(0, rows * columns))
    }

    /// The addresses, for the loops, of values that are these.
    pub(crate) fn source<T: Value>(&self, values: &[T]) -> Source<T> {
        Source {
            at: values.as_ptr(),
            row: self.strides[0],
            column: self.strides[1],
        }
    }

    /// A copy rounded to `bf16`.
    pub(crate) fn half(&self) -> Half {
        Half {
            values: self.single().into_par_iter().map(bf16::from_f32).collect(),
            shape: self.shape,
        }
    }

    /// A copy in `f32`, in order.
    pub(crate) fn single(&self) -> Vec<f32> {
        let [rows, columns] = self.shape;
        of_any_kind!(self.values, values => {
            let place = |at: usize| at / columns * self.strides[0] + at % columns * self.strides[1];
            (0..rows * columns).map(|at| values[place(at)].single()).collect()
        })
    }

    fn check(&self) {
        if self.shape.contains(&0) {
            return;
        }
        let last: usize = (0..2)
            .map(|axis| (self.shape[axis] - 1) * self.strides[axis])
            .sum();
        assert!(last < self.values.len(), "a matrix within its memory");
    }
}

/// Values of a matrix in `bf16`, in order.
pub(crate) struct Half {
    pub(crate) values: Vec<bf16>,
    shape: [usize; 2],
}

impl Half {
    /// The matrix.
    pub(crate) fn matrix(&self) -> Matrix<'_> {
        let [rows, columns] = self.shape;
        Matrix::in_rows(Values::Half(&self.values), rows, columns)
    }
}
