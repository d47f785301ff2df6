//! The instructions of the matrix unit (Intel AMX), and whether there are any.
//!
//! The compiler has no stable functions for them yet, so they are written out. A thread configures the
//! unit's eight tiles before it uses them and releases them after.

use super::pack::TILE;
use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

/// Whether this processor has the unit and the system lets this process use it.
/// `MODELSMITH_MATRIX_UNIT=0` says no.
pub(crate) fn available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let off = std::env::var_os("MODELSMITH_MATRIX_UNIT").is_some_and(|value| value == "0");
        !off && crate::tiles::available()
            && std::arch::is_x86_feature_detected!("avx512bf16")
            && has_tiles()
            && permitted()
    })
}

/// The processor's word for tiles and their `bf16` products.
fn has_tiles() -> bool {
    const BOTH: u32 = 1 << 24 | 1 << 22;
    __cpuid_count(7, 0).edx & BOTH == BOTH
}

/// Asks the system for the state that the tiles need; it is not every process's.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let answer: i64;
    // SAFETY: the call touches no memory of this process, and the registers it changes are named.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The tiles of this thread, configured as long as this lives.
pub(super) struct Tiles;

impl Tiles {
    /// Eight tiles of 16 rows of 64 bytes.
    ///
    /// # Safety
    /// The unit is [`available`].
    pub(super) unsafe fn new() -> Self {
        #[repr(align(64))]
        struct Configuration([u8; 64]);
        let mut all = Configuration([0; 64]);
        all.0[0] = 1;
        for tile in 0..8 {
            all.0[16 + 2 * tile] = 64;
            all.0[48 + tile] = 16;
        }
        // SAFETY: 64 bytes in the form that the instruction reads.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const all, options(nostack, readonly)) };
        Self
    }

    /// 32 by 32 sums over `chunks` of a left strip and a right panel in `P` parts: written to `out`,
    /// whose rows are `row` values apart, or added to what is there.
    ///
    /// Of the nine products of three parts by three, the six are formed that `f32` can tell from zero.
    ///
    /// # Safety
    /// The operands have this many chunks, and the output has room.
    pub(super) unsafe fn multiply<const P: usize>(
        &self,
        chunks: usize,
        [left, right]: [*const u8; 2],
        out: *mut f32,
        row: usize,
        add: bool,
    ) {
        let step = row * size_of::<f32>();
        let lower = out.wrapping_add(16 * row);
        // SAFETY: the caller's promises, and tiles 0 to 3 are the four quarters of the output.
        unsafe {
            match add {
                true => asm!(
                    "tileloadd tmm0, [{upper} + {step}]",
                    "tileloadd tmm1, [{upper} + {step} + 64]",
                    "tileloadd tmm2, [{lower} + {step}]",
                    "tileloadd tmm3, [{lower} + {step} + 64]",
                    upper = in(reg) out, lower = in(reg) lower, step = in(reg) step,
                    options(nostack, readonly),
                ),
                false => asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    options(nostack, nomem),
                ),
            }
            match P {
                1 => single(chunks, left, right),
                _ => triple(chunks, left, right),
            }
            asm!(
                "tilestored [{upper} + {step}], tmm0",
                "tilestored [{upper} + {step} + 64], tmm1",
                "tilestored [{lower} + {step}], tmm2",
                "tilestored [{lower} + {step} + 64], tmm3",
                upper = in(reg) out, lower = in(reg) lower, step = in(reg) step,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: nothing of the tiles is read after this.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Multiplies and adds `rounds` times in tiles that stay in their registers; gives the number of
/// floating-point operations, two for each multiply-add.
///
/// # Safety
/// The unit is [`available`].
pub(crate) unsafe fn multiply_adds(rounds: usize) -> f64 {
    // SAFETY: the caller's promise; configured tiles are zero.
    unsafe {
        let _tiles = Tiles::new();
        asm!(
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {n}",
            "jnz 2b",
            n = inout(reg) rounds.max(1) => _,
            options(nostack, nomem),
        );
    }
    (rounds.max(1) * 4 * 2 * 16 * 16 * 32) as f64
}

/// Adds the products of operands in one part: tiles 4 and 5 are the left's, 6 and 7 the right's.
unsafe fn single(chunks: usize, left: *const u8, right: *const u8) {
    // SAFETY: the caller's operands have this many chunks of two tiles.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm6, [{b} + {row}]",
            "tileloadd tmm4, [{a} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {row} + {tile}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {row} + {tile}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 2 * {tile}",
            "add {b}, 2 * {tile}",
            "dec {n}",
            "jnz 2b",
            a = inout(reg) left => _,
            b = inout(reg) right => _,
            n = inout(reg) chunks => _,
            row = in(reg) 64usize,
            tile = const TILE,
            options(nostack, readonly),
        );
    }
}

/// Adds the products of operands in three parts `h`, `m`, `l`: `hl`, `hm`, `mm`, `mh`, `lh`, `hh`, in
/// an order in which each has a part in common with the one before it, which stays in its tiles.
unsafe fn triple(chunks: usize, left: *const u8, right: *const u8) {
    // SAFETY: the caller's operands have this many chunks of three times two tiles.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm4, [{a} + {row}]",
            "tileloadd tmm6, [{b} + {row} + 4 * {tile}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {row} + 5 * {tile}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {row} + {tile}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{b} + {row} + 2 * {tile}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{b} + {row} + 3 * {tile}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a} + {row} + 2 * {tile}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {row} + 3 * {tile}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{b} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{b} + {row} + {tile}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a} + {row} + 4 * {tile}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {row} + 5 * {tile}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {row} + {tile}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 6 * {tile}",
            "add {b}, 6 * {tile}",
            "dec {n}",
            "jnz 2b",
            a = inout(reg) left => _,
            b = inout(reg) right => _,
            n = inout(reg) chunks => _,
            row = in(reg) 64usize,
            tile = const TILE,
            options(nostack, readonly),
        );
    }
}
