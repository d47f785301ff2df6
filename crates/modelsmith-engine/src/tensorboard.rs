//! TensorBoard event files: scalars in TFRecord framing, each length and record with a masked
//! CRC-32C, each record an `Event` protocol message of three fields.

use modelsmith_core::error::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file that TensorBoard reads.
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates `events.out.tfevents.SECONDS.PART` in a folder; every start of a run has its own.
    ///
    /// # Errors
    /// The folder or file cannot be made.
    pub(crate) fn create(folder: &Path, part: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        let seconds = now() as u64;
        let path = folder.join(format!("events.out.tfevents.{seconds}.{part}"));
        // An event stream is appended to while it is read, so it cannot be written and renamed.
        let file = File::create(&path).map_err(|error| Error::io(&path, error))?;
        let mut events = Self { path, file };
        let mut event = Vec::new();
        put_double(&mut event, 1, now());
        put_bytes(&mut event, 3, b"brain.Event:2");
        events.write(&event)?;
        Ok(events)
    }

    /// Appends one scalar.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<()> {
        let event = scalar_event(now(), tag, step, value as f32);
        self.write(&event)
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        self.file
            .write_all(&framed(event))
            .map_err(|error| Error::io(&self.path, error))
    }
}

fn scalar_event(time: f64, tag: &str, step: u64, value: f32) -> Vec<u8> {
    let mut scalar = Vec::new();
    put_bytes(&mut scalar, 1, tag.as_bytes());
    put_key(&mut scalar, 2, 5);
    scalar.extend(value.to_le_bytes());
    let mut summary = Vec::new();
    put_bytes(&mut summary, 1, &scalar);
    let mut event = Vec::new();
    put_double(&mut event, 1, time);
    put_key(&mut event, 2, 0);
    put_varint(&mut event, step);
    put_bytes(&mut event, 5, &summary);
    event
}

/// Length, its checksum, the record, its checksum.
fn framed(record: &[u8]) -> Vec<u8> {
    let length = (record.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(record.len() + 16);
    bytes.extend(length);
    bytes.extend(masked_crc(&length).to_le_bytes());
    bytes.extend(record);
    bytes.extend(masked_crc(record).to_le_bytes());
    bytes
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

fn put_key(out: &mut Vec<u8>, field: u64, wire: u64) {
    put_varint(out, field << 3 | wire);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_double(out: &mut Vec<u8>, field: u64, value: f64) {
    put_key(out, field, 1);
    out.extend(value.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(out, field, 2);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_bytes_of_its_message() {
        let event = scalar_event(0.5, "a", 300, 1.0);
        let expected = [
            9, 0, 0, 0, 0, 0, 0, 0xe0, 0x3f, // wall_time
            16, 0xac, 2, // step 300
            42, 10, // summary
            10, 8, // value
            10, 1, b'a', // tag
            21, 0, 0, 0x80, 0x3f, // simple_value 1.0
        ];
        assert_eq!(event, expected);
    }

    #[test]
    fn a_record_is_framed_with_both_checksums() {
        let bytes = framed(b"xyz");
        assert_eq!(bytes[..8], 3u64.to_le_bytes());
        assert_eq!(bytes[8..12], masked_crc(&3u64.to_le_bytes()).to_le_bytes());
        assert_eq!(&bytes[12..15], b"xyz");
        assert_eq!(bytes[15..], masked_crc(b"xyz").to_le_bytes());
        // CRC-32C of "123456789" is the algorithm's published check value.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }
}
