//! What the loops for 512-bit vectors share.

use crate::memory::LANES;
use std::arch::x86_64::{
    __m512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_setzero_ps, _mm512_shuffle_f32x4,
    _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

/// Turns 16 rows of 16 values: value `n` of row `k` becomes value `k` of row `n`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn turn(rows: &mut [__m512; LANES]) {
    // Pairs, then fours, within lanes of 128 bits; then the lanes.
    let mut pairs = [_mm512_setzero_ps(); LANES];
    for n in (0..LANES).step_by(2) {
        pairs[n] = _mm512_unpacklo_ps(rows[n], rows[n + 1]);
        pairs[n + 1] = _mm512_unpackhi_ps(rows[n], rows[n + 1]);
    }
    for n in (0..LANES).step_by(4) {
        let [a, b, c, d] = [0, 1, 2, 3].map(|at| _mm512_castps_pd(pairs[n + at]));
        rows[n] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        rows[n + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        rows[n + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        rows[n + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    for k in 0..4 {
        let [a, b, c, d] = [rows[k], rows[k + 4], rows[k + 8], rows[k + 12]];
        let even = _mm512_shuffle_f32x4::<0x88>(a, b);
        let odd = _mm512_shuffle_f32x4::<0xdd>(a, b);
        let even_high = _mm512_shuffle_f32x4::<0x88>(c, d);
        let odd_high = _mm512_shuffle_f32x4::<0xdd>(c, d);
        rows[k] = _mm512_shuffle_f32x4::<0x88>(even, even_high);
        rows[4 + k] = _mm512_shuffle_f32x4::<0x88>(odd, odd_high);
        rows[8 + k] = _mm512_shuffle_f32x4::<0xdd>(even, even_high);
        rows[12 + k] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_high);
    }
}
