#![no_main]
#![allow(dead_code, reason = "each target uses a part of what the targets share")]

use std::cell::RefCell;

#[path = "../../tests/fuzz/targets/mod.rs"]
mod targets;

thread_local! {
    static TARGET: RefCell<targets::configuration::Target> = RefCell::new(targets::configuration::Target::new());
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    TARGET.with_borrow_mut(|target| target.run(bytes));
});
