//! Can any bytes make the safetensors reader panic, or believe a header that lies?
//!
//! Run with `cargo +nightly fuzz run safetensors_header` in the folder above `fuzz`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use modelsmith_core::files::Reader;
use modelsmith_core::files::safetensors::parse_header;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = parse_header(bytes) else {
        return;
    };
    let reader = Reader::from_bytes(bytes.to_vec()).expect("both take the same bytes");
    let mut total = header.data_start;
    for (name, info) in &header.tensors {
        let elements: usize = info.shape.iter().product();
        assert_eq!(elements * info.dtype.size(), info.byte_len());
        assert_eq!(reader.bytes(name).expect("it is listed").len(), info.byte_len());
        assert_eq!(reader.f32(name).is_ok(), info.dtype.is_readable_as_f32());
        total += info.byte_len();
    }
    assert_eq!(total, bytes.len(), "the tensors cover the data exactly");
});
