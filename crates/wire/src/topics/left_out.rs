//! Predicates for members that are omitted because their default means the same.

pub fn is_zero(n: &u32) -> bool {
    *n == 0
}
