//! Named parameters of any module, with the rank erased so that one piece of code can list, save,
//! load, clip and step all of them.
//!
//! Names are the module paths that burn's visitor walks; ids that burn draws at random play no part.

use crate::error::{Error, Result};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use std::cell::Cell;
use std::collections::BTreeMap;

/// A float tensor of any rank: its shape beside its values in row-major order.
#[derive(Clone, Debug)]
pub struct Flat {
    /// Shape of the tensor.
    pub shape: Vec<usize>,
    /// The values, `[shape.product()]`, f32.
    pub values: Tensor<1>,
}

impl Flat {
    /// Erases the rank of a tensor; no copy for contiguous tensors.
    pub fn new<const D: usize>(tensor: Tensor<D>) -> Self {
        let shape = tensor.dims().to_vec();
        let count = shape.iter().product::<usize>();
        Self {
            shape,
            values: tensor.reshape([count]),
        }
    }

    /// From plain numbers.
    pub fn from_vec(values: Vec<f32>, shape: &[usize], device: &Device) -> Self {
        let count = values.len();
        Self::from_data(TensorData::new(values, [count]), shape, device)
    }

    /// From data of one dimension.
    pub(crate) fn from_data(data: TensorData, shape: &[usize], device: &Device) -> Self {
        Self {
            shape: shape.to_vec(),
            values: Tensor::from_data(data, device),
        }
    }

    /// The tensor with its rank restored.
    ///
    /// # Errors
    /// The rank asked for is not the rank of the shape.
    pub fn tensor<const D: usize>(&self) -> Result<Tensor<D>> {
        let shape: [usize; D] = self.shape.as_slice().try_into().map_err(|_| {
            Error::Failed(format!(
                "a tensor of shape {:?} was asked for with rank {D}",
                self.shape
            ))
        })?;
        Ok(self.values.clone().reshape(shape))
    }

    /// Replaces the values by `f` of them, which finds them unshared where they are.
    pub fn change(&mut self, f: impl FnOnce(Tensor<1>) -> Tensor<1>) {
        let nothing = Tensor::empty([0], &self.values.device());
        self.values = f(std::mem::replace(&mut self.values, nothing));
    }

    /// The values as plain numbers, row-major.
    pub fn to_vec(&self) -> Vec<f32> {
        to_vec(self.values.clone())
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The values of a tensor in row-major order as f32.
pub fn to_vec<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .convert::<f32>()
        .try_into_vec()
        .unwrap_or_default()
}

/// A parameter with its name.
#[derive(Clone, Debug)]
pub struct Named {
    /// Module path, for instance `pairs.3.lora_A`.
    pub name: String,
    /// Its value, detached from any graph.
    pub value: Flat,
    /// Whether training changes it.
    pub trainable: bool,
}

/// Anything with named parameters; every burn module has them.
pub trait Parameters {
    /// All float parameters in the order of the module's fields.
    fn parameters(&self) -> Vec<Named>;

    /// Hands out all parameters, in the same order, to be changed. Nothing of the module shares
    /// their buffers meanwhile, so that they can be written in place. Values must keep their
    /// shapes; trainable ones become fresh leaves of the autodiff graph.
    fn update(&mut self, change: &mut dyn FnMut(&mut [Named]));

    /// Replaces values: `change` gets name and value and returns the new value, or `None` to
    /// leave it.
    fn replace(&mut self, change: &mut dyn FnMut(&str, &Flat) -> Option<Flat>) {
        self.update(&mut |parameters| {
            for Named { name, value, .. } in parameters {
                if let Some(new) = change(name, value) {
                    *value = new;
                }
            }
        });
    }

    /// Takes the gradients of all trainable parameters out of `gradients`, by name. A parameter
    /// that took no part in the loss is absent.
    fn take_gradients(&self, gradients: &mut Gradients) -> BTreeMap<String, Flat>;

    /// Makes the parameters that `trainable` accepts leaves of the autodiff graph, and plain
    /// constants of the others.
    fn set_trainable(&mut self, trainable: &dyn Fn(&str) -> bool);
}

impl<M: Module> Parameters for M {
    fn parameters(&self) -> Vec<Named> {
        let mut lister = Lister::default();
        self.visit(&mut lister);
        lister.found
    }

    fn update(&mut self, change: &mut dyn FnMut(&mut [Named])) {
        let mut lender = Lender::default();
        // The module before is dropped here, and with it what shared the values.
        *self = self.clone().map(&mut lender);
        change(&mut lender.lent);
        let mut returner = Returner(lender.lent.into_iter());
        *self = self.clone().map(&mut returner);
    }

    fn take_gradients(&self, gradients: &mut Gradients) -> BTreeMap<String, Flat> {
        let mut taker = Taker {
            path: Path::default(),
            gradients,
            found: BTreeMap::new(),
        };
        self.visit(&mut taker);
        taker.found
    }

    fn set_trainable(&mut self, trainable: &dyn Fn(&str) -> bool) {
        let mut switch = Switch {
            path: Path::default(),
            trainable,
        };
        *self = self.clone().map(&mut switch);
    }
}

/// A frozen parameter: a constant outside any graph.
pub fn frozen<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(value.without_autodiff()).set_require_grad(false)
}

thread_local! {
    static FOR_USE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `load`, in which [`trained`] gives constants: for parameters that nothing will train.
///
/// A leaf that never sees a backward pass is never taken out of autodiff's tables, about 1 kB each,
/// not even when it is dropped.
pub fn for_use<T>(load: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            FOR_USE.set(self.0);
        }
    }
    let _before = Before(FOR_USE.replace(true));
    load()
}

/// Whether this is inside [`for_use`].
pub(crate) fn is_for_use() -> bool {
    FOR_USE.get()
}

/// A trainable parameter: a leaf of the autodiff graph; a constant [`for_use`].
pub fn trained<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    if is_for_use() {
        return frozen(value);
    }
    Param::from_tensor(value.without_autodiff().autodiff().require_grad())
}

/// The dotted module path during a walk.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn dotted(&self) -> String {
        self.0.join(".")
    }
}

/// The part of a walk that keeps its `path`.
macro_rules! follows_path {
    () => {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.enter(name);
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.exit();
        }
    };
}

#[derive(Default)]
struct Lister {
    path: Path,
    found: Vec<Named>,
}

impl ModuleVisitor for Lister {
    follows_path!();

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        self.found.push(Named {
            name: self.path.dotted(),
            trainable: value.is_require_grad(),
            value: Flat::new(value.without_autodiff()),
        });
    }
}

/// Takes every value out of a module and leaves an empty one.
#[derive(Default)]
struct Lender {
    path: Path,
    lent: Vec<Named>,
}

impl ModuleMapper for Lender {
    follows_path!();

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = param.into_value();
        let empty = Tensor::empty([0; D], &value.device().without_autodiff());
        self.lent.push(Named {
            name: self.path.dotted(),
            trainable: value.is_require_grad(),
            value: Flat::new(value.without_autodiff()),
        });
        frozen(empty)
    }
}

/// Puts the values back in their order.
struct Returner(std::vec::IntoIter<Named>);

impl ModuleMapper for Returner {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(Named {
            value, trainable, ..
        }) = self.0.next()
        else {
            return param;
        };
        // The shape has this module's rank: it was taken out of it.
        let shape: [usize; D] = std::array::from_fn(|axis| value.shape[axis]);
        let value = value.values.reshape(shape);
        if trainable {
            trained(value)
        } else {
            frozen(value)
        }
    }
}

struct Taker<'a> {
    path: Path,
    gradients: &'a mut Gradients,
    found: BTreeMap<String, Flat>,
}

impl ModuleVisitor for Taker<'_> {
    follows_path!();

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if !value.is_require_grad() {
            return;
        }
        if let Some(gradient) = value.grad_remove(self.gradients) {
            self.found.insert(self.path.dotted(), Flat::new(gradient));
        }
    }
}

struct Switch<'a> {
    path: Path,
    trainable: &'a dyn Fn(&str) -> bool,
}

impl ModuleMapper for Switch<'_> {
    follows_path!();

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = param.val();
        if (self.trainable)(&self.path.dotted()) {
            trained(value)
        } else {
            frozen(value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;

    #[derive(Module, Debug)]
    struct Two {
        matrix: Param<Tensor<2>>,
        vectors: Vec<Param<Tensor<1>>>,
    }

    fn two() -> Two {
        let flex = Device::flex();
        let vector = |x: f32| Tensor::<1>::full([2], x, &flex);
        Two {
            matrix: trained(Tensor::full([2, 3], 1.0, &flex)),
            vectors: vec![frozen(vector(2.0)), trained(vector(3.0))],
        }
    }

    fn listed(module: &Two) -> Vec<(String, Vec<usize>, Vec<f32>, bool)> {
        let row = |n: Named| (n.name, n.value.shape.clone(), n.value.to_vec(), n.trainable);
        module.parameters().into_iter().map(row).collect()
    }

    #[test]
    fn an_update_hands_out_every_value_unshared_and_puts_back_what_became_of_it() {
        let mut module = two();
        let mut expected = listed(&module);
        module.update(&mut |parameters| {
            for Named { value, .. } in parameters {
                value.change(|values| {
                    let primitive = values.clone().try_into_primitive::<Flex>().unwrap();
                    drop(values);
                    assert!(primitive.is_unique());
                    Tensor::from_primitive::<Flex>(primitive) * 2.0
                });
            }
        });
        for (_, _, values, _) in &mut expected {
            values.iter_mut().for_each(|x| *x *= 2.0);
        }
        assert_eq!(listed(&module), expected);
        assert!(module.matrix.val().is_require_grad());
    }

    #[test]
    fn what_is_made_for_use_is_constant_and_only_that() {
        let requires = |module: &Two| module.matrix.val().is_require_grad();
        let mut made = for_use(two);
        assert!(!requires(&made) && requires(&two()));
        made.set_trainable(&|_| true);
        assert!(requires(&made));
        let panicked = std::panic::catch_unwind(|| for_use(|| panic!("on purpose")));
        assert!(panicked.is_err() && requires(&two()));
    }

    #[test]
    fn a_copy_made_before_an_update_keeps_its_values() {
        let mut module = two();
        let copy = module.clone();
        module.replace(&mut |name, value| {
            let mut value = value.clone();
            value.change(|values| values + 1.0);
            (name != "vectors.1").then_some(value)
        });
        assert_eq!(listed(&copy), listed(&two()));
        let values = |module: &Two| module.vectors.iter().map(|v| to_vec(v.val())[0]).collect();
        let found: Vec<f32> = values(&module);
        assert_eq!(found, [3.0, 3.0]);
        assert_eq!(to_vec(module.matrix.val()), [2.0; 6]);
    }
}
