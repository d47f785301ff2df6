//! The threads that operations share.

/// Does `work` on a thread of the pool, so that an operation in it starts its parts by handing them to
/// the others; from any other thread each operation would sleep and be woken.
pub(crate) fn within<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| work())
}
