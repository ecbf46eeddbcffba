//! The binary: parse, configure, run, exit.

use std::process::ExitCode;

/// Requests, users and records are many small values, which other threads free than those
/// that made them. RocksDB and librdkafka keep the C library's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    askwhen::cli::main()
}
