//! Headers that lie: every one is refused with its cause, none panics or allocates what it claims.

use std::fs;

use proptest::prelude::*;

use crate::files::safetensors::{Header, Reader, parse_header};

/// A file from the text of its header and its data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), data].concat()
}

/// Two tensors, metadata and ten data bytes.
pub(super) fn sound() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"F16","shape":[],"data_offsets":[8,10]}}  "#;
    file(header, b"0123456789")
}

fn refused(bytes: &[u8], cause: &str) {
    let problem = parse_header(bytes).unwrap_err();
    assert_eq!(problem.exit_code(), 3);
    assert!(
        problem.to_string().contains(cause),
        "{problem}\nlacks {cause:?}"
    );
}

/// A header of one tensor with this description, over `data` bytes.
fn refused_tensor(description: &str, data: usize, cause: &str) {
    refused(
        &file(&format!(r#"{{"a":{description}}}"#), &vec![0; data]),
        cause,
    );
}

/// What an accepted header promises to everyone who reads through it.
fn assert_sound(header: &Header, file_len: usize) {
    let mut total = header.data_start;
    for info in header.tensors.values() {
        let elements: usize = info.shape.iter().product();
        assert_eq!(elements * info.dtype.size(), info.byte_len());
        assert!(header.data_start + info.offsets.1 <= file_len);
        total += info.byte_len();
    }
    assert_eq!(total, file_len);
}

#[test]
fn a_sound_file_is_read() {
    let reader = Reader::from_bytes(sound()).unwrap();
    assert_eq!(reader.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(reader.bytes("a").unwrap(), b"01234567");
    assert_eq!(reader.info("b").unwrap().shape, [0_usize; 0]);
    assert_eq!(reader.metadata()["format"], "pt");
    assert_eq!(reader.data_bytes(), 10);
    assert_eq!(reader.f32("a").unwrap().len(), 2);
    let problem = reader.f32("aa").unwrap_err().to_string();
    assert!(problem.contains("no tensor `aa`; "), "{problem}");
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.safetensors");
    let whole = sound();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let problem = Reader::open(&path).unwrap_err();
        assert_eq!(problem.exit_code(), 3);
        assert!(problem.to_string().contains("cut.safetensors"), "{problem}");
    }
    fs::write(&path, &whole).unwrap();
    assert!(Reader::open(&path).is_ok());
}

#[test]
fn a_big_file_cut_in_half_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.safetensors");
    let size = 1_u64 << 30;
    let tensor = format!(r#"{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}"#);
    fs::write(&path, file(&format!(r#"{{"a":{tensor}}}"#), b"")).unwrap();
    // A sparse file: it takes no room on the disk.
    let sparse = fs::OpenOptions::new().append(true).open(&path).unwrap();
    sparse.set_len(size / 2).unwrap();
    let problem = Reader::open(&path).unwrap_err().to_string();
    assert!(problem.contains("cut short"), "{problem}");
}

#[test]
fn lengths_that_lie_are_refused() {
    let with_length = |length: u64| [length.to_le_bytes().as_slice(), b"{}"].concat();
    refused(b"", "empty");
    refused(b"1234", "4 bytes");
    refused(
        &with_length(1 << 63),
        "9223372036854775808 bytes, more than the limit",
    );
    refused(&with_length(u64::MAX), "more than the limit");
    refused(&with_length(100_000_001), "more than the limit");
    refused(&with_length(100_000_000), "but only 2 follow");
    refused(&with_length(3), "but only 2 follow");
    refused(&with_length(0), "header is empty");
    assert!(parse_header(&with_length(2)).is_ok());
}

#[test]
fn text_that_is_not_a_header_is_refused() {
    let not_utf8 = [&3_u64.to_le_bytes(), b"{\xff}".as_slice()].concat();
    refused(&not_utf8, "not valid UTF-8 at its byte 1");
    refused(&file("[]", b""), "begins with byte 0x5b");
    refused(&file(" {}", b""), "begins with byte 0x20");
    refused(&file("{", b""), "line 1 column 1");
    refused(&file("{} {}", b""), "trailing characters");
    refused(&file("{}\0", b""), "trailing characters");
    refused(&file(r#"{"a":1}"#, b""), "tensor `a`: invalid type");
    for open in ["[", "{\"a\":", "{\"__metadata__\":{\"a\":["] {
        refused(
            &file(&format!("{{\"a\":{}", open.repeat(100_000)), b""),
            "not as safetensors",
        );
    }
}

#[test]
fn repeated_and_foreign_keys_are_refused() {
    let tensor = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    refused(
        &file(&format!(r#"{{"a":{tensor},"a":{tensor}}}"#), b""),
        "`a` is listed twice",
    );
    let escaped = format!(r#"{{"a":{tensor},"\u0061":{tensor}}}"#);
    refused(&file(&escaped, b""), "`a` is listed twice");
    let metadata = r#"{"__metadata__":{},"__metadata__":{}}"#;
    refused(&file(metadata, b""), "`__metadata__` is listed twice");
    refused(
        &file(r#"{"__metadata__":{"x":"1","x":"2"}}"#, b""),
        "`x` is given twice",
    );
    refused(
        &file(r#"{"__metadata__":{"x":1}}"#, b""),
        "`x`: invalid type: integer",
    );
    refused(
        &file(r#"{"__metadata__":[]}"#, b""),
        "expected an object of strings",
    );
    let twice = r#"{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}"#;
    refused_tensor(twice, 1, "`dtype` is given twice");
    let foreign = r#"{"dtype":"U8","shape":[],"data_offsets":[0,1],"code":"x"}"#;
    refused_tensor(foreign, 1, "unknown field ``code``");
    refused_tensor(
        r#"{"dtype":"U8","shape":[]}"#,
        0,
        "missing field `data_offsets`",
    );
    refused_tensor(r#"["U8",[],[0,1]]"#, 1, "expected an object with dtype");
}

#[test]
fn numbers_that_lie_are_refused() {
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let cases = [
        (
            tensor("F32", "[2]", "[0,4]"),
            4,
            "takes 8 bytes, but data_offsets [0, 4] hold 4",
        ),
        (tensor("F16", "[2]", "[0,8]"), 8, "takes 4 bytes"),
        (tensor("F32", "[2]", "[8,0]"), 8, "run backwards"),
        (
            tensor("F32", "[2]", "[0,8]"),
            7,
            "ends at data byte 8, but the file holds 7",
        ),
        (
            tensor("F32", "[2]", "[0,8]"),
            9,
            "1 bytes follow the last tensor",
        ),
        (tensor("U8", "[2]", "[1,3]"), 3, "leave a hole at 0"),
        (
            tensor("U8", "[4294967296,4294967296]", "[0,0]"),
            0,
            "overflows",
        ),
        (
            tensor("F64", "[2305843009213693952]", "[0,0]"),
            0,
            "overflows",
        ),
        (
            tensor("U8", "[18446744073709551616]", "[0,0]"),
            0,
            "invalid type: floating point",
        ),
        (
            tensor("U8", "[-1]", "[0,0]"),
            0,
            "invalid value: integer `-1`",
        ),
        (
            tensor("U8", "[1.0]", "[0,1]"),
            1,
            "invalid type: floating point",
        ),
        (tensor("U8", "[\"1\"]", "[0,1]"), 1, "invalid type: string"),
        (tensor("U8", "[1]", "[0]"), 1, "invalid length 1"),
        (tensor("U8", "[1]", "[0,1,2]"), 1, "line 1 column"),
        (
            tensor("U8", "[1]", "[0,18446744073709551615]"),
            1,
            "takes 1 bytes",
        ),
        (
            tensor("U8", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,1]"),
            1,
            "more than 16 dimensions",
        ),
        (
            tensor("F8_E4M3", "[1]", "[0,1]"),
            1,
            "F8_E4M3 is not supported",
        ),
        (tensor("f32", "[1]", "[0,4]"), 4, "unknown dtype `f32`"),
    ];
    for (description, data, cause) in cases {
        refused_tensor(&description, data, cause);
    }
}

#[test]
fn tensors_that_overlap_or_leave_holes_are_refused() {
    let pair = |a: [usize; 2], b: [usize; 2]| {
        let tensor = |name: &str, [begin, end]: [usize; 2]| {
            let size = end - begin;
            format!(r#""{name}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{begin},{end}]}}"#)
        };
        file(
            &format!("{{{},{}}}", tensor("a", a), tensor("b", b)),
            &[0; 8],
        )
    };
    refused(
        &pair([0, 4], [0, 8]),
        "`b` begins at data byte 0, inside tensor `a`",
    );
    refused(&pair([0, 5], [4, 8]), "offsets overlap");
    refused(&pair([0, 8], [2, 3]), "offsets overlap");
    refused(&pair([0, 3], [4, 8]), "1 data bytes before tensor `b`");
    refused(&pair([0, 4], [4, 7]), "1 bytes follow");
    assert!(parse_header(&pair([4, 8], [0, 4])).is_ok());
    assert!(parse_header(&pair([0, 0], [0, 8])).is_ok());
}

#[test]
fn too_many_tensors_and_too_long_names_are_refused() {
    let tensor = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    let many: Vec<String> = (0..=100_000).map(|i| format!("\"{i}\":{tensor}")).collect();
    refused(
        &file(&format!("{{{}}}", many.join(",")), b""),
        "more than 100000 tensors",
    );
    let long = format!(r#"{{"{}":{tensor}}}"#, "n".repeat(5000));
    refused(&file(&long, b""), "longer than 4096 bytes");
    let free: Vec<String> = (0..=100_000).map(|i| format!("\"{i}\":\"\"")).collect();
    let free = format!(r#"{{"__metadata__":{{{}}}}}"#, free.join(","));
    refused(&file(&free, b""), "more than 100000 entries");
}

#[test]
fn flipping_any_bit_gives_a_sound_header_or_an_error() {
    let whole = sound();
    let mut accepted = 0;
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(header) = parse_header(&bytes) {
            assert_sound(&header, bytes.len());
            accepted += 1;
        }
    }
    // 80 bits of data, and those that only rename a tensor or alter free text.
    assert!((80..400).contains(&accepted), "{accepted}");
}

#[test]
fn other_formats_are_refused_with_the_cause() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&str, &[u8], &str); 9] = [
        ("pytorch_model.bin", &sound(), "pickle"),
        ("a.pt", b"", "pickle"),
        ("b.npz", b"PK\x03\x04", "NumPy"),
        ("c.gguf", b"GGUF", "GGUF"),
        (
            "d.safetensors",
            b"PK\x03\x04\x14\0\0\0\x08\0archive/data.pkl",
            "zip archive",
        ),
        ("e.safetensors", b"\x80\x02}q\x01(X\x04\0\0\0", "pickle"),
        (
            "f.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "git lfs pull",
        ),
        ("g.safetensors", b"<!doctype html><html>404", "web page"),
        ("h.safetensors", b"", "empty"),
    ];
    for (name, bytes, cause) in cases {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let problem = Reader::open(&path).unwrap_err();
        assert_eq!(problem.exit_code(), 3);
        assert!(problem.to_string().contains(cause), "{problem}");
        assert!(problem.to_string().contains(name), "{problem}");
    }
    assert!(
        Reader::open(dir.path())
            .unwrap_err()
            .to_string()
            .contains("folder")
    );
    assert_eq!(
        Reader::open(dir.path().join("absent"))
            .unwrap_err()
            .exit_code(),
        3
    );
}

#[test]
fn a_header_of_640_bytes_is_not_taken_for_a_pickle() {
    let header = format!("{{}}{}", " ".repeat(638));
    let bytes = file(&header, b"");
    assert_eq!(bytes[..2], [0x80, 0x02]);
    assert!(parse_header(&bytes).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_header(&bytes);
        let framed = file(&format!("{{{}", String::from_utf8_lossy(&bytes)), &bytes);
        let _ = parse_header(&framed);
    }

    #[test]
    fn damage_in_several_places_never_panics(
        damage in proptest::collection::vec((0_usize..150, any::<u8>()), 1..6),
        cut in 0_usize..150,
    ) {
        let mut bytes = sound();
        for (at, value) in damage {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        for bytes in [&bytes[..], &bytes[..cut.min(bytes.len())]] {
            if let Ok(header) = parse_header(bytes) {
                assert_sound(&header, bytes.len());
            }
        }
    }
}
