//! What is written is what is read, by this reader and by the format's own.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use crate::files::{
    Checkpoint, DType, Reader, TensorSpec, View, metadata_pt, write_safetensors, write_streamed,
};

fn view<'a>(name: &'a str, dtype: DType, shape: &'a [usize], bytes: &'a [u8]) -> View<'a> {
    View {
        name,
        dtype,
        shape,
        bytes,
    }
}

#[test]
fn mixed_types_come_back_aligned_and_in_any_given_order_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..48).collect();
    let tensors = [
        view("c", DType::U8, &[3], &bytes[..3]),
        view("b", DType::BF16, &[1, 5], &bytes[..10]),
        view("a", DType::F32, &[2, 2], &bytes[..16]),
        view("scalar \"q\" \u{1F600}", DType::I64, &[], &bytes[..8]),
        view("none", DType::F16, &[0, 7], &[]),
    ];
    let first = dir.path().join("first.safetensors");
    write_safetensors(&first, &tensors, &metadata_pt()).unwrap();
    let reader = Reader::open(&first).unwrap();
    assert_eq!(reader.len(), tensors.len());
    for tensor in &tensors {
        assert_eq!(reader.view(tensor.name).unwrap(), *tensor);
        let begin = reader.info(tensor.name).unwrap().offsets.0;
        assert_eq!(begin % tensor.dtype.size(), 0);
    }
    let mut reversed = tensors;
    reversed.reverse();
    let second = dir.path().join("second.safetensors");
    write_safetensors(&second, &reversed, &metadata_pt()).unwrap();
    let written = fs::read(&first).unwrap();
    assert_eq!(written, fs::read(&second).unwrap());
    assert_eq!(u64::from_le_bytes(written[..8].try_into().unwrap()) % 8, 0);
}

#[test]
fn the_reference_reader_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let bytes: Vec<u8> = (0..24).collect();
    let tensors = [
        view("w", DType::F32, &[2, 3], &bytes),
        view("h\n\u{7f}", DType::F16, &[4], &bytes[..8]),
        view("flag", DType::Bool, &[1], &bytes[..1]),
    ];
    write_safetensors(&path, &tensors, &metadata_pt()).unwrap();
    let written = fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&written).unwrap();
    assert_eq!(theirs.len(), 3);
    for tensor in &tensors {
        let found = theirs.tensor(tensor.name).unwrap();
        assert_eq!(found.data(), tensor.bytes);
        assert_eq!(found.shape(), tensor.shape);
        assert_eq!(
            format!("{:?}", found.dtype()).to_uppercase(),
            tensor.dtype.name()
        );
    }
    let rewritten = safetensors::serialize(
        theirs.tensors(),
        Some([("format".to_string(), "pt".to_string())].into()),
    )
    .unwrap();
    assert_eq!(written, rewritten);
}

#[test]
fn unaligned_data_is_read() {
    let header = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    for padding in 0..8 {
        let header = format!("{header}{}", " ".repeat(padding));
        let length = (header.len() as u64).to_le_bytes();
        let bytes = [&length, header.as_bytes(), &1.5_f32.to_le_bytes()].concat();
        assert_eq!(Reader::from_bytes(bytes).unwrap().f32("w").unwrap(), [1.5]);
    }
}

#[test]
fn only_floats_become_floats() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let halves = DType::F16.encode(&[0.5, -2.0]).unwrap();
    let tensors = [
        view("half", DType::F16, &[2], &halves),
        view("ids", DType::I64, &[1], &[0; 8]),
    ];
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.f32("half").unwrap(), [0.5, -2.0]);
    let problem = checkpoint.f32("ids").unwrap_err().to_string();
    assert!(problem.contains("tensor `ids` is I64"), "{problem}");
}

#[test]
fn a_file_changed_while_open_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let data = vec![1; 100_000];
    write_safetensors(
        &path,
        &[view("w", DType::U8, &[100_000], &data)],
        &metadata_pt(),
    )
    .unwrap();
    let reader = Reader::open(&path).unwrap();
    // Replacing the file by renaming leaves the opened one as it was.
    write_safetensors(&path, &[view("v", DType::U8, &[1], &[2])], &metadata_pt()).unwrap();
    assert_eq!(reader.bytes("w").unwrap(), data);
    let reader = Reader::open(&path).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(8)
        .unwrap();
    for problem in [reader.bytes("v").unwrap_err(), reader.f32("v").unwrap_err()] {
        assert!(
            problem.to_string().contains("changed while in use"),
            "{problem}"
        );
    }
}

#[test]
fn tensors_that_cannot_be_written_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let twice = [
        view("a", DType::U8, &[1], &[1]),
        view("a", DType::U8, &[1], &[1]),
    ];
    let cases: [(&[View<'_>], &str); 4] = [
        (&twice, "given twice"),
        (&[view("__metadata__", DType::U8, &[1], &[1])], "reserved"),
        (
            &[view("a", DType::F32, &[2], &[1; 4])],
            "has 4 bytes to write",
        ),
        (&[view("a", DType::F32, &[usize::MAX, 2], &[])], "overflows"),
    ];
    for (tensors, cause) in cases {
        let problem = write_safetensors(&path, tensors, &BTreeMap::new()).unwrap_err();
        assert!(problem.to_string().contains(cause), "{problem}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn streaming_asks_for_each_tensor_once_in_file_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let specs = ["b", "a", "c"].map(|name| TensorSpec::new(name, DType::F32, [1]));
    let mut asked = Vec::new();
    write_streamed(&path, &specs, &metadata_pt(), &mut |spec| {
        asked.push(spec.name.clone());
        Ok(Cow::Owned(vec![0; 4]))
    })
    .unwrap();
    assert_eq!(asked, ["a", "b", "c"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_tensors_survive(
        tensors in proptest::collection::btree_map(
            "\\PC{1,12}",
            (0_usize..13, proptest::collection::vec(0_usize..4, 0..4), any::<u8>()),
            0..8,
        ),
    ) {
        prop_assume!(!tensors.contains_key("__metadata__"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let specs: Vec<TensorSpec> = tensors
            .iter()
            .map(|(name, (dtype, shape, _))| TensorSpec::new(name, DType::ALL[*dtype], shape.as_slice()))
            .collect();
        let content = |spec: &TensorSpec| vec![tensors[&spec.name].2; spec.byte_len().unwrap()];
        write_streamed(&path, &specs, &metadata_pt(), &mut |spec| Ok(content(spec).into())).unwrap();
        let reader = Reader::open(&path).unwrap();
        prop_assert_eq!(reader.len(), specs.len());
        for spec in &specs {
            let found = reader.view(&spec.name).unwrap();
            prop_assert_eq!(found.bytes, &content(spec)[..]);
            prop_assert_eq!(found.shape, &spec.shape[..]);
            prop_assert_eq!(found.dtype, spec.dtype);
        }
    }
}
