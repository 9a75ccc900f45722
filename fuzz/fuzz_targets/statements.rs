//! What looks at SQL texts. The corpus is tried in every run of the tests too.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| insula_pg_proxy::fuzz::statements(data));
