//! Who is asked what, when: windows, gates, and what a record leads to.

pub mod apply;
pub mod decision;
pub mod windows;
