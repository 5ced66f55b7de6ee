#![no_main]
#![allow(dead_code, reason = "each target uses a part of what the targets share")]

use std::cell::RefCell;
use std::mem::ManuallyDrop;

#[path = "../../tests/fuzz/targets/mod.rs"]
mod targets;

thread_local! {
    // At the process's end there is no runtime any more that could stop its node.
    static TARGET: RefCell<ManuallyDrop<targets::envelopes::Target>> =
        RefCell::new(ManuallyDrop::new(targets::envelopes::Target::new()));
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    TARGET.with_borrow_mut(|target| target.run(bytes));
});
