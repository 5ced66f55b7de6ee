//! The built-in application as pure logic.
