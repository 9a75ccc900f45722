//! Sessions of two clients that share servers. The corpus is tried in every run of the tests too.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| insula_pg_proxy::fuzz::session(data));
