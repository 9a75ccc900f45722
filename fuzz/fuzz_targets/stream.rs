//! A stream of messages, cut anywhere. The corpus is tried in every run of the tests too.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| insula_pg_proxy::fuzz::stream(data));
