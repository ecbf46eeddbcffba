//! The rules of design §5, a case each: definitions, timed inputs, expected
//! decisions. Times are minutes; `at` is when the log took the record.

mod activation;
mod answers;
mod audience;
mod frequency;
mod generated;
mod limits;
mod play;
mod reference;
mod windows;
