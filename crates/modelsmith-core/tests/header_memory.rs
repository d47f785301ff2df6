//! A header cannot make the reader allocate more than a stated multiple of the file.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use modelsmith_core::files::safetensors::parse_header;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator with a high-water mark.
struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise is the system's requirement.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the system's requirement.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Highest number of bytes allocated above the start while the header was parsed.
fn peak_of(bytes: &[u8]) -> usize {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let _ = parse_header(bytes);
    PEAK.load(Ordering::Relaxed).saturating_sub(before)
}

fn file(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}

/// One test only, for the high-water mark belongs to the process.
#[test]
fn memory_is_bounded_by_the_file_not_by_its_claims() {
    let megabyte = 1 << 20;
    let tensor = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    let join = |count: usize, entry: &dyn Fn(usize) -> String| {
        (0..count).map(entry).collect::<Vec<_>>().join(",")
    };
    let hostile = [
        file(&format!(
            r#"{{"a":{{"shape":[{}0]}}}}"#,
            "0,".repeat(megabyte)
        )),
        file(&format!(
            r#"{{"a":{{"data_offsets":[{}0]}}}}"#,
            "0,".repeat(megabyte)
        )),
        file(&format!(r#"{{"a":{}"#, "[".repeat(megabyte))),
        file(&format!(r#"{{"{}":{tensor}}}"#, "\\u0041".repeat(megabyte))),
        file(&format!(r#"{{"{}":{tensor}}}"#, "x".repeat(megabyte))),
        file(&format!(
            "{{{}}}",
            join(150_000, &|i| format!("\"{i}\":{tensor}"))
        )),
        file(&format!(
            r#"{{"__metadata__":{{{}}}}}"#,
            join(150_000, &|i| format!("\"{i}\":\"\""))
        )),
        [&(1_u64 << 62).to_le_bytes(), b"{}".as_slice()].concat(),
        [&99_999_999_u64.to_le_bytes(), b"{}".as_slice()].concat(),
    ];
    for bytes in &hostile {
        let (peak, size) = (peak_of(bytes), bytes.len());
        let start = String::from_utf8_lossy(&bytes[8..size.min(40)]);
        // An empty metadata entry of 12 bytes takes two strings and a tree slot.
        assert!(
            peak < 16 * size + 4096,
            "{peak} bytes for a file of {size}: {start}"
        );
    }
    let mut flipped = file(&format!(r#"{{"a":{tensor},"b":{tensor}}}"#));
    for bit in 0..flipped.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        let peak = peak_of(&flipped);
        assert!(peak < 16_384, "bit {bit}: {peak} bytes");
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}
