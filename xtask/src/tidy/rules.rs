//! Rules on the text of one Rust file.
//!
//! Determinism of the core's rooms, no `unwrap` outside tests, sizes, marks of unfinished work, module
//! docs, bounded channels, no sleeping tests. What a file may know of other parts is in
//! [`super::directions`].

use super::source::Source;
use super::{Finding, occurrences};

/// Lines of a file without its tests; more is an error.
const LINES_WITHOUT_TESTS: usize = 600;

/// Lines of a file with its tests; more is listed, for somebody to look at.
pub(super) const LINES_WITH_TESTS: usize = 800;

/// Lines of a function, from its first to its closing brace; more is an error.
const FUNCTION_LINES: usize = 70;

/// Rooms in which the same events must always give the same effects.
const DETERMINISTIC: [&str; 3] =
    ["consensus-core/src/replica/", "consensus-core/src/ledger/", "consensus-core/src/sim/"];

/// What would make them depend on something else.
const NONDETERMINISTIC: [(&str, &str); 14] = [
    ("HashMap", "its order differs from run to run; use BTreeMap"),
    ("HashSet", "its order differs from run to run; use BTreeSet"),
    ("std::time", "time arrives as Event::Tick"),
    ("Instant", "time arrives as Event::Tick"),
    ("SystemTime", "time arrives as Event::Tick"),
    ("std::thread", "the driver owns all threads"),
    ("thread::spawn", "the driver owns all threads"),
    ("tokio", "the core knows no runtime"),
    ("rand", "randomness comes from the seeded generator"),
    ("getrandom", "randomness comes from the seeded generator"),
    ("std::fs", "files belong to storage"),
    ("std::net", "the network belongs to the server"),
    ("std::env", "configuration arrives as values"),
    ("static mut", "state lives in the replica"),
];

/// Exceptions: file, token, why it does no harm there.
const DETERMINISM_ALLOWED: [(&str, &str, &str); 2] = [
    (
        "consensus-core/src/ledger/window.rs",
        "HashMap",
        "seeded by the caller, asked by key only, its order never seen",
    ),
    (
        "consensus-core/src/ledger/pipeline.rs",
        "HashMap",
        "seeded by the caller, asked by key only, its order never seen",
    ),
];

/// Text that marks unfinished work.
const MARKS: [&str; 8] =
    ["todo!", "unimplemented!", "dbg!", "#[ignore]", "#[ignore =", "FIXME", "XXX", "static mut"];

/// Channels without a bound.
const UNBOUNDED: [&str; 5] =
    ["unbounded_channel", "UnboundedSender", "UnboundedReceiver", "mpsc::unbounded", "mpsc::channel()"];

/// What writes a log line.
const LOG_MACROS: [&str; 5] =
    ["tracing::error!(", "tracing::warn!(", "tracing::info!(", "tracing::debug!(", "tracing::trace!("];

/// Lines above a pause in which the loop that it belongs to is looked for.
const POLL_LINES: usize = 10;

/// Checks every rule of this file.
pub(super) fn all(source: &Source) -> Vec<Finding> {
    let rules = [
        determinism,
        unwraps,
        length,
        function_length,
        marks,
        module_docs,
        unbounded_channels,
        sleeping_tests,
        log_messages,
    ];
    rules.iter().flat_map(|rule| rule(source)).collect()
}

fn finding(source: &Source, position: usize, rule: &'static str, message: impl Into<String>) -> Finding {
    let line = source.line_of(position);
    Finding { path: source.path().to_owned(), line, rule, message: message.into() }
}

fn determinism(source: &Source) -> Vec<Finding> {
    if !DETERMINISTIC.iter().any(|room| source.path().starts_with(room)) || source.is_test_file() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (token, why) in NONDETERMINISTIC {
        let allowed =
            DETERMINISM_ALLOWED.iter().any(|(path, name, _)| *path == source.path() && *name == token);
        if allowed {
            continue;
        }
        for position in occurrences(source.code(), token) {
            if !source.is_test(position) {
                findings.push(finding(source, position, "determinism", format!("{token}: {why}")));
            }
        }
    }
    findings
}

fn unwraps(source: &Source) -> Vec<Finding> {
    let message = "unwrap() outside tests: return the error, or expect(\"why it cannot fail\")";
    [".unwrap()", ".unwrap_err()"]
        .iter()
        .flat_map(|token| occurrences(source.code(), token))
        .filter(|&position| !source.is_test(position))
        .map(|position| finding(source, position, "unwrap", message))
        .collect()
}

fn length(source: &Source) -> Vec<Finding> {
    let lines = source.lines_without_tests();
    if lines <= LINES_WITHOUT_TESTS {
        return Vec::new();
    }
    let message = format!("{lines} lines without tests, at most {LINES_WITHOUT_TESTS}: divide it by concern");
    vec![Finding { path: source.path().to_owned(), line: 0, rule: "length", message }]
}

fn function_length(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for position in occurrences(source.code(), "fn") {
        let named = source.code()[position + 2..].starts_with([' ', '\n']);
        let Some(end) = source.block_end(position).filter(|_| named && !source.is_test(position)) else {
            continue;
        };
        let lines = source.line_of(end - 1) - source.line_of(position) + 1;
        if lines > FUNCTION_LINES {
            let message = format!("a function of {lines} lines, at most {FUNCTION_LINES}: it fits a screen");
            findings.push(finding(source, position, "function-length", message));
        }
    }
    findings
}

fn marks(source: &Source) -> Vec<Finding> {
    // The list of the marks is itself not a mark: strings are blanked. Comments count only for words.
    let mut findings = Vec::new();
    for token in MARKS {
        for position in occurrences(source.code(), token) {
            findings.push(finding(source, position, "marks", format!("{token}: finish it or leave it out")));
        }
    }
    for (number, line) in source.text().lines().enumerate() {
        let comment = line.trim_start().strip_prefix("//").unwrap_or_default();
        let marked = comment.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| {
            let marks = ["TODO", "FIXME", "XXX"];
            marks.contains(&word)
        });
        if marked {
            let message = "a note to do something later: do it or leave it out".to_owned();
            findings.push(Finding {
                path: source.path().to_owned(),
                line: number + 1,
                rule: "marks",
                message,
            });
        }
    }
    findings
}

fn module_docs(source: &Source) -> Vec<Finding> {
    if source.is_test_file() {
        return Vec::new();
    }
    let first = source.text().lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    if first.is_some_and(|line| line.starts_with("//!")) {
        return Vec::new();
    }
    let message = "no module doc: say in 3 to 15 lines what it is for and what it deliberately does not do";
    vec![Finding { path: source.path().to_owned(), line: 1, rule: "module-docs", message: message.into() }]
}

fn unbounded_channels(source: &Source) -> Vec<Finding> {
    UNBOUNDED
        .iter()
        .flat_map(|token| occurrences(source.code(), token).map(move |position| (token, position)))
        .filter(|(_, position)| !source.is_test(*position))
        .map(|(token, position)| {
            let message = format!("{token}: every queue has a bound");
            finding(source, position, "unbounded", message)
        })
        .collect()
}

/// True for measurements and examples, which wait as their users do, and for the controllers of the stories of
/// CITA-Cloud chains, which play how long an execution or an outage lasts.
fn is_demonstration(path: &str) -> bool {
    path.contains("/benches/") || path.contains("/examples/") || path.ends_with("/tests/cita/controllers.rs")
}

/// True for the pause of a loop that asks again: a `loop` or `while` stands a few lines above.
fn is_in_loop(code: &str, position: usize) -> bool {
    let above = code[..position].lines().rev().take(POLL_LINES).collect::<Vec<_>>().join(" ");
    ["loop", "while"].iter().any(|word| occurrences(&above, word).next().is_some())
}

fn sleeping_tests(source: &Source) -> Vec<Finding> {
    let message = "a test that sleeps: wait for the event itself, with a limit";
    ["thread::sleep", "time::sleep"]
        .iter()
        .flat_map(|token| occurrences(source.code(), token))
        .filter(|&position| source.is_test(position) && !is_demonstration(source.path()))
        .filter(|&position| !is_in_loop(source.code(), position))
        .map(|position| finding(source, position, "sleeping-test", message))
        .collect()
}

/// Values belong into fields: a message is what people search and count lines by. Stand-ins for tests may say more.
fn log_messages(source: &Source) -> Vec<Finding> {
    if !source.path().starts_with("consensus-") {
        return Vec::new();
    }
    LOG_MACROS
        .iter()
        .flat_map(|token| occurrences(source.code(), token).map(move |position| (token, position)))
        .filter(|(_, position)| !source.is_test(*position))
        .filter(|(token, position)| formats_a_message(source, position + token.len() - 1))
        .map(|(_, position)| {
            finding(source, position, "log-message", "a value in the message of a log line: make it a field")
        })
        .collect()
}

/// Whether the call whose bracket is at `open` has a literal with a brace among its own arguments.
fn formats_a_message(source: &Source, open: usize) -> bool {
    let (text, code) = (source.text().as_bytes(), source.code().as_bytes());
    let (mut depth, mut literal, mut position) = (0, false, open);
    while position < text.len() {
        match text[position] {
            b'\\' if literal => position += 1,
            b'"' if code[position] == b' ' => literal = !literal,
            b'{' if literal && depth == 1 => return true,
            b'(' if !literal => depth += 1,
            b')' if !literal => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return false;
        }
        position += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the rules that `text` breaks at `path`, with the lines.
    fn broken(path: &str, text: &str) -> Vec<(&'static str, usize)> {
        let text = format!("//! A file.\n{text}");
        let source = Source::new(path.into(), text);
        all(&source).into_iter().map(|finding| (finding.rule, finding.line)).collect()
    }

    const REPLICA: &str = "consensus-core/src/replica/x.rs";

    #[test]
    fn a_clock_randomness_a_thread_or_a_hash_map_in_the_replica_is_found() {
        for text in [
            "use std::time::Instant;\n",
            "use std::collections::HashMap;\n",
            "fn a() { std::thread::spawn(b); }\n",
            "use tokio::sync::mpsc;\n",
            "fn a() -> u64 { rand::random() }\n",
        ] {
            assert!(broken(REPLICA, text).contains(&("determinism", 2)), "{text}");
            assert_eq!(broken("consensus-server/src/x.rs", text), [], "{text}");
        }
    }

    #[test]
    fn tests_and_comments_in_the_replica_may_name_a_clock() {
        let text = "// no Instant here\n#[cfg(test)]\nmod tests {\n    use std::time::Instant;\n}\n";
        assert_eq!(broken(REPLICA, text), []);
    }

    #[test]
    fn an_unwrap_outside_tests_is_found() {
        assert_eq!(broken(REPLICA, "fn a() { b().unwrap(); }\n"), [("unwrap", 2)]);
        assert_eq!(broken(REPLICA, "#[cfg(test)]\nmod tests {\n    fn a() { b().unwrap(); }\n}\n"), []);
        assert_eq!(broken(REPLICA, "fn a() { b().unwrap_or(0); }\n"), []);
    }

    #[test]
    fn a_file_beyond_the_bound_is_found_and_its_tests_do_not_count() {
        let code = "const A: u8 = 0;\n".repeat(LINES_WITHOUT_TESTS);
        assert_eq!(broken(REPLICA, &code), [("length", 0)]);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{code}}}\n");
        assert_eq!(broken(REPLICA, &tests), []);
    }

    #[test]
    fn a_function_beyond_a_screen_is_found() {
        let body = "    a();\n".repeat(FUNCTION_LINES);
        assert_eq!(broken(REPLICA, &format!("fn b() {{\n{body}}}\n")), [("function-length", 2)]);
        assert_eq!(broken(REPLICA, "type A = fn() -> u8;\ntrait B {\n    fn c();\n}\n"), []);
    }

    #[test]
    fn marks_of_unfinished_work_are_found() {
        for text in
            ["fn a() { todo!() }\n", "fn a() { dbg!(1); }\n", "#[ignore]\nfn a() {}\n", "// TODO: b\n"]
        {
            assert_eq!(broken(REPLICA, text), [("marks", 2)], "{text}");
        }
    }

    #[test]
    fn a_file_without_module_docs_is_found() {
        let source = Source::new(REPLICA.into(), "use a::b;\n".into());
        let rules = all(&source).into_iter().map(|finding| finding.rule).collect::<Vec<_>>();
        assert_eq!(rules, ["module-docs"]);
    }

    #[test]
    fn an_unbounded_channel_is_found() {
        for text in ["fn a() { mpsc::unbounded_channel(); }\n", "fn a() { std::sync::mpsc::channel(); }\n"] {
            assert_eq!(broken("consensus-server/src/x.rs", text), [("unbounded", 2)], "{text}");
        }
        assert_eq!(broken("consensus-server/src/x.rs", "fn a() { mpsc::channel(8); }\n"), []);
    }

    #[test]
    fn a_test_that_sleeps_is_found() {
        let text = "#[cfg(test)]\nmod tests {\n    fn a() { std::thread::sleep(b); }\n}\n";
        assert_eq!(broken("consensus-server/src/x.rs", text), [("sleeping-test", 4)]);
        let text = "#[cfg(test)]\nmod tests {\n    fn a() { while !c() { std::thread::sleep(b); } }\n}\n";
        assert_eq!(broken("consensus-server/src/x.rs", text), []);
    }

    #[test]
    fn a_value_in_the_message_of_a_log_line_is_found() {
        let path = "consensus-server/src/x.rs";
        for text in [
            "fn a() { tracing::warn!(\"{b} is gone\"); }\n",
            "fn a() { tracing::warn!(c, \"{} is gone\", b); }\n",
            "fn a() { tracing::error!(c = d(e), \"a (b) {c}\"); }\n",
        ] {
            assert_eq!(broken(path, text), [("log-message", 2)], "{text}");
        }
        for text in [
            "fn a() { tracing::warn!(b, \"it is gone\"); }\n",
            "fn a() { tracing::warn!(b = %format_args!(\"{b:03o}\"), \"it is (not) gone\"); let c = \"{d}\"; }\n",
            "fn a() { tracing::debug!(\"a \\\" quote\"); }\n",
        ] {
            assert_eq!(broken(path, text), [], "{text}");
        }
    }
}
