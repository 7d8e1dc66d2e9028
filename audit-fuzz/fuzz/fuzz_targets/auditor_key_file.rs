#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| audit_fuzz::auditor_key_file(data));
