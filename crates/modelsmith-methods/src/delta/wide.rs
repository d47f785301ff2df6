//! Loops compiled for the widest registers of the processor, without unsafe code.

/// What a closure of [`wide!`](crate::wide) takes with it; see there.
#[derive(Debug)]
pub struct Once;

/// Runs an expression in a version for each width of registers, and picks the one that the processor has.
///
/// The compiler makes such versions of what it inlines only. A closure that can be called once and no more is its own
/// `FnOnce`, so its attribute holds; others are called through a shim that stays outside.
#[macro_export]
macro_rules! wide {
    ($body:expr) => {{
        let once = $crate::delta::Once;
        $crate::delta::Arch::new().dispatch(
            #[inline(always)]
            || {
                let _once = once;
                $body
            },
        )
    }};
}
