//! How is one safetensors file read: mapped, checked once, then handed out tensor by tensor?

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::{Advice, Mmap, UncheckedAdvice};

use super::dtype::{self, DType};
use super::header;
pub use super::header::{
    Header, MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS, TensorInfo, parse_header,
};
use super::kind::{plain_file, refused_by_name, shown};
use crate::error::{Error, Result, suggest};

/// Bytes that the system maps at most around a page that is touched (Linux: `fault_around_bytes`).
const AROUND: usize = 1 << 16;

/// One tensor of a file or of memory: what it is called, what it is, and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View<'a> {
    /// Name, as in the checkpoint.
    pub name: &'a str,
    /// Element type of the bytes.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: &'a [usize],
    /// Little-endian elements in row-major order, aligned to nothing.
    pub bytes: &'a [u8],
}

/// A safetensors file whose header has been checked in full.
///
/// The data stays on disk and is mapped into memory; a tensor costs nothing until it is read.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    header: Header,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Mapped { map: Mmap, file: File, stamp: Stamp },
    Owned(Vec<u8>),
}

/// What tells that a file was written to after it was opened.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }
}

impl Reader {
    /// Maps a file and checks its header.
    ///
    /// Refused with the cause named: pickles and other formats by name or content, Git LFS
    /// pointers, web pages, and every header that does not describe the file exactly.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        plain_file(path)?;
        if let Some(reason) = refused_by_name(path) {
            return Err(Error::file(path, reason));
        }
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        let metadata = file.metadata().map_err(|source| Error::io(path, source))?;
        if metadata.len() == 0 {
            return Err(Error::file(
                path,
                "the file is empty; download or write it again",
            ));
        }
        // SAFETY: the map is read-only. Another process that shortens the file could still make
        // a read fault, so every access compares size and time of change first; our own writers
        // replace files by renaming and never shorten one in place.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::io(path, source))?;
        let stamp = Stamp::of(&metadata);
        let header = header::parse(&map).map_err(|problem| Error::file(path, problem))?;
        Ok(Self {
            path: path.to_path_buf(),
            header,
            data: Data::Mapped { map, file, stamp },
        })
    }

    /// Takes a whole file from memory, with the same checks; errors name it `<bytes>`.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Ok(Self {
            path: PathBuf::from("<bytes>"),
            header: parse_header(&bytes)?,
            data: Data::Owned(bytes),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header.tensors.keys().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.header.tensors.len()
    }

    /// Whether the file holds no tensor.
    pub fn is_empty(&self) -> bool {
        self.header.tensors.is_empty()
    }

    /// Whether the file holds a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.header.tensors.contains_key(name)
    }

    /// The header's free text.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// Bytes of all tensors together.
    pub fn data_bytes(&self) -> u64 {
        self.header
            .tensors
            .values()
            .map(|info| info.byte_len() as u64)
            .sum()
    }

    /// Type, shape and place of a tensor; an unknown name is an error with near names.
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.tensors.get(name).ok_or_else(|| {
            let near = suggest(name, self.names());
            Error::file(&self.path, format!("no tensor {}; {near}", shown(name)))
        })
    }

    /// A tensor's bytes as stored.
    ///
    /// An error if the tensor is unknown or the file changed since it was opened.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let (begin, end) = self.info(name)?.offsets;
        self.check_unchanged()?;
        let file: &[u8] = match &self.data {
            Data::Mapped { map, .. } => map,
            Data::Owned(bytes) => bytes,
        };
        let start = self.header.data_start;
        Ok(&file[start + begin..start + end])
    }

    /// A tensor with its description, as stored.
    pub fn view<'a>(&'a self, name: &str) -> Result<View<'a>> {
        let bytes = self.bytes(name)?;
        let (name, info) = self
            .header
            .tensors
            .get_key_value(name)
            .ok_or_else(|| Error::file(&self.path, format!("no tensor {}", shown(name))))?;
        Ok(View {
            name,
            dtype: info.dtype,
            shape: &info.shape,
            bytes,
        })
    }

    /// A tensor's elements as `f32`, row-major.
    ///
    /// F32 is copied; F16 and BF16 are converted exactly. Other types are an error that names
    /// tensor and type: turning them into floats would be a guess.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>> {
        let dtype = self.info(name)?.dtype;
        let bytes = self.bytes(name)?;
        dtype::decode(dtype, bytes).ok_or_else(|| {
            let (name, dtype) = (shown(name), dtype.name());
            Error::file(
                &self.path,
                format!("tensor {name} is {dtype}; expected F32, F16 or BF16 here"),
            )
        })
    }

    /// Asks the system to read a part of a tensor's bytes soon; a hint, which may do nothing.
    pub fn prefetch(&self, name: &str, part: Range<usize>) {
        if let Some((map, begin, length)) = self.mapped(name, &part) {
            // Without the hint the pages are read when they are touched.
            let _ = map.advise_range(Advice::WillNeed, begin, length);
        }
    }

    /// Gives back the memory that a part of a tensor's bytes takes in this process; it is mapped
    /// again when it is read again. Some pages of its neighbours go with it.
    pub fn release(&self, name: &str, part: Range<usize>) {
        let Some((map, begin, length)) = self.mapped(name, &part) else {
            return;
        };
        // A touched page brings those around it, which would stay when only the tensor's own went.
        let first = begin.saturating_sub(AROUND);
        let last = (begin + length + AROUND).min(map.len());
        // SAFETY: the map is read-only and backed by the file, so a page that is dropped holds
        // the same bytes when it is touched again; no borrow sees a difference.
        #[allow(unsafe_code)]
        // What is not given back costs memory, and changes nothing else.
        let _ =
            unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, first, last - first) };
    }

    /// The map and the place in it of a part of a tensor's bytes.
    fn mapped(&self, name: &str, part: &Range<usize>) -> Option<(&Mmap, usize, usize)> {
        let Data::Mapped { map, .. } = &self.data else {
            return None;
        };
        let (begin, end) = self.header.tensors.get(name)?.offsets;
        let first = self.header.data_start + begin + part.start;
        let last = self.header.data_start + (begin + part.end).min(end);
        (first < last).then(|| (map, first, last - first))
    }

    /// Fails if the file's size or time of change differ from those at opening.
    pub fn check_unchanged(&self) -> Result<()> {
        let Data::Mapped { file, stamp, .. } = &self.data else {
            return Ok(());
        };
        let metadata = file
            .metadata()
            .map_err(|source| Error::io(&self.path, source))?;
        let now = Stamp::of(&metadata);
        if now == *stamp {
            return Ok(());
        }
        Err(Error::file(
            &self.path,
            format!(
                "the file was changed while in use (it had {} bytes, now {}); stop whatever writes \
                 to it and start again",
                stamp.size, now.size
            ),
        ))
    }
}
