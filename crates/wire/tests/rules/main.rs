//! The rules of the gates, a case each: definitions, timed inputs, expected
//! decisions. Times are minutes; `at` is when the log took the record.

mod activation;
mod answers;
mod audience;
mod clocks;
mod frequency;
mod generated;
mod limits;
mod opinion;
mod pairs;

mod past;
mod play;
mod reference;
mod rules;
mod windows;
