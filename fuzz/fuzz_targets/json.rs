#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| askwhen::fuzz::TARGETS
    .iter()
    .find(|(name, _)| *name == "json")
    .expect("a target")
    .1(bytes));
