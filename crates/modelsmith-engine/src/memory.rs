//! Memory of this process, as the system accounts it.

/// Peak resident memory in bytes (`VmHWM`); `None` where the system does not tell.
pub fn peak_resident() -> Option<u64> {
    status("VmHWM:")
}

/// Resident memory in bytes (`VmRSS`); `None` where the system does not tell.
pub(crate) fn resident() -> Option<u64> {
    status("VmRSS:")
}

fn status(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Begins a new peak at what is resident now, where the system allows it.
pub(crate) fn reset_peak() {
    // Without it the peak covers the whole process: still a bound from above.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn the_peak_covers_what_was_touched() {
        let block = std::hint::black_box(vec![1u8; 32 << 20]);
        assert!(super::peak_resident().unwrap() >= block.len() as u64);
    }
}
