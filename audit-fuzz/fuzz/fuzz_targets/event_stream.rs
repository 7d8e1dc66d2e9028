#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| audit_fuzz::event_stream(data));
