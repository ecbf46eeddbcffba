//! Whether a user may be asked: windows, gates, the decision on a trigger, and everything
//! else that a record of the journal does to its user.

pub mod apply;
pub mod decision;
pub mod windows;
