//! One Rust file as the rules see it: its text, the same text with comments and literals blanked, and
//! which lines are tests.
//!
//! The scanner knows comments, strings of every kind and character literals, and matches braces; it does
//! not parse. Blanked text keeps its length and its lines, so positions mean the same in both.

use std::ops::Range;

/// A Rust file.
#[derive(Clone, Debug)]
pub(super) struct Source {
    path: String,
    text: String,
    code: String,
    /// Byte ranges of items under `#[cfg(test)]`.
    tests: Vec<Range<usize>>,
    /// Names of modules declared under `#[cfg(test)]` that are files of their own.
    test_modules: Vec<String>,
    all_tests: bool,
}

impl Source {
    pub(super) fn new(path: String, text: String) -> Self {
        let code = blanked(&text);
        let (tests, test_modules) = test_items(&code);
        let all_tests =
            ["/tests/", "/benches/", "/examples/", "/fuzz/"].iter().any(|room| path.contains(room));
        Self { path, text, code, tests, test_modules, all_tests }
    }

    /// Relative to the root of the workspace, with `/`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The text with comments and literals blanked.
    pub(super) fn code(&self) -> &str {
        &self.code
    }

    /// Lines of the whole file.
    pub(super) fn lines(&self) -> usize {
        self.text.lines().count()
    }

    /// Lines outside tests.
    pub(super) fn lines_without_tests(&self) -> usize {
        if self.all_tests {
            return 0;
        }
        let in_tests = self.tests.iter().map(|range| self.text[range.clone()].lines().count()).sum::<usize>();
        self.lines() - in_tests.min(self.lines())
    }

    /// True if the whole file is test code.
    pub(super) fn is_test_file(&self) -> bool {
        self.all_tests
    }

    /// True if the byte at `position` is in a test.
    pub(super) fn is_test(&self, position: usize) -> bool {
        self.all_tests || self.tests.iter().any(|range| range.contains(&position))
    }

    /// The line of a byte, counted from 1.
    pub(super) fn line_of(&self, position: usize) -> usize {
        self.code.as_bytes()[..position].iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    /// The end of the block that opens at the first `{` from `position` on, if there is one before a `;`.
    pub(super) fn block_end(&self, position: usize) -> Option<usize> {
        match item_end(&self.code, position) {
            (end, true) => Some(end),
            (_, false) => None,
        }
    }
}

/// Marks files that are modules under `#[cfg(test)]` in their parent.
pub(super) fn mark_external_test_modules(sources: &mut [Source]) {
    let mut test_paths = Vec::new();
    for source in sources.iter() {
        let directory = module_directory(source.path());
        for module in &source.test_modules {
            test_paths.push(format!("{directory}/{module}.rs"));
            test_paths.push(format!("{directory}/{module}/"));
        }
    }
    for source in sources {
        let is_test =
            |path: &String| source.path == *path || path.ends_with('/') && source.path.starts_with(path);
        source.all_tests |= test_paths.iter().any(is_test);
    }
}

/// The directory in which the submodules of the file at `path` live.
fn module_directory(path: &str) -> &str {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    ["/mod", "/lib", "/main"].iter().find_map(|name| stem.strip_suffix(name)).unwrap_or(stem)
}

/// The byte ranges of items under `#[cfg(test)]`, and the names of those that are modules in other files.
fn test_items(code: &str) -> (Vec<Range<usize>>, Vec<String>) {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut modules = Vec::new();
    for attribute in ["#[cfg(test)]", "#[cfg(all(test,"] {
        for (start, _) in code.match_indices(attribute) {
            let item = after_attributes(code, start);
            let (end, has_block) = item_end(code, item);
            if !has_block && let Some(name) = external_module(&code[item..end]) {
                modules.push(name.to_owned());
            }
            if !ranges.iter().any(|range| range.contains(&start)) {
                ranges.push(start..end);
            }
        }
    }
    (ranges, modules)
}

/// The name in `mod name;`, with any visibility before it.
fn external_module(item: &str) -> Option<&str> {
    let words = item.trim_end_matches(';').split_whitespace().collect::<Vec<_>>();
    let position = words.iter().position(|word| *word == "mod")?;
    (position + 2 == words.len()).then(|| words[position + 1])
}

/// The first byte after the attributes that stand at `position`.
fn after_attributes(code: &str, mut position: usize) -> usize {
    let bytes = code.as_bytes();
    loop {
        while bytes.get(position).is_some_and(u8::is_ascii_whitespace) {
            position += 1;
        }
        if bytes.get(position) != Some(&b'#') {
            return position;
        }
        let mut depth = 0_usize;
        while let Some(byte) = bytes.get(position) {
            position += 1;
            match byte {
                b'[' => depth += 1,
                b']' if depth == 1 => break,
                b']' => depth -= 1,
                _ => {}
            }
        }
    }
}

/// The end of the item that starts at `position`, and whether it has a block in braces.
fn item_end(code: &str, position: usize) -> (usize, bool) {
    let mut braces = 0_usize;
    let mut others = 0_usize;
    for (offset, byte) in code.as_bytes()[position..].iter().enumerate() {
        match byte {
            b'{' => braces += 1,
            b'}' if braces <= 1 => return (position + offset + 1, true),
            b'}' => braces -= 1,
            b'(' | b'[' => others += 1,
            b')' | b']' => others = others.saturating_sub(1),
            b';' if braces == 0 && others == 0 => return (position + offset + 1, false),
            _ => {}
        }
    }
    (code.len(), false)
}

/// `text` with the content of comments, strings and character literals replaced by spaces.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut position = 0;
    while position < bytes.len() {
        let rest = &bytes[position..];
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(bytes, position) {
            length
        } else if rest[0] == b'"' {
            quoted(rest)
        } else if let Some(length) = character(rest) {
            length
        } else {
            position += 1;
            continue;
        };
        for byte in &mut code[position..position + length] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        position += length;
    }
    String::from_utf8_lossy(&code).into_owned()
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut position = 0;
    while position < rest.len() {
        if rest[position..].starts_with(b"/*") {
            depth += 1;
            position += 2;
        } else if rest[position..].starts_with(b"*/") {
            depth -= 1;
            position += 2;
            if depth == 0 {
                return position;
            }
        } else {
            position += 1;
        }
    }
    rest.len()
}

/// The length of the raw string that starts at `position`, with its prefix.
fn raw_string(bytes: &[u8], position: usize) -> Option<usize> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if position > 0 && is_word(bytes[position - 1]) {
        return None;
    }
    let rest = &bytes[position..];
    let prefix = [&b"br"[..], b"cr", b"r"].into_iter().find(|prefix| rest.starts_with(prefix))?;
    let hashes = rest[prefix.len()..].iter().take_while(|&&byte| byte == b'#').count();
    let open = prefix.len() + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let body = &rest[open + 1..];
    let end = body.windows(close.len()).position(|window| window == close).unwrap_or(body.len());
    Some((open + 1 + end + close.len()).min(rest.len()))
}

fn quoted(rest: &[u8]) -> usize {
    let mut position = 1;
    while position < rest.len() {
        match rest[position] {
            b'\\' => position += 2,
            b'"' => return position + 1,
            _ => position += 1,
        }
    }
    rest.len()
}

/// The length of a character literal, or nothing for a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    if rest[0] != b'\'' {
        return None;
    }
    if rest.get(1) == Some(&b'\\') {
        let end = rest.iter().skip(3).position(|&byte| byte == b'\'')?;
        return Some(end + 4);
    }
    // One character of up to four bytes, then the quote.
    let first = *rest.get(1)?;
    let width = match first {
        0x00..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("consensus-core/src/x.rs".into(), text.into())
    }

    #[test]
    fn comments_strings_and_characters_are_blanked_and_lifetimes_are_not() {
        let text = "a // x.unwrap()\nb /* c /* d */ e */ f \"g\\\"h\" r#\"i\"j\"# b\"k\" 'l' '\\'' &'m n '{'";
        let code = blanked(text);
        let words = code.split_whitespace().collect::<Vec<_>>();
        assert_eq!(words, ["a", "b", "f", "b", "&'m", "n"], "{code}");
        assert_eq!(code.len(), text.len());
    }

    #[test]
    fn items_under_cfg_test_are_tests_to_their_closing_brace() {
        let file =
            source("fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n    fn b() { {} }\n}\nfn c() {}\n");
        let position = |name: &str| file.code().find(name).expect("is in the text");
        assert!(!file.is_test(position("fn a")));
        assert!(file.is_test(position("fn b")));
        assert!(!file.is_test(position("fn c")));
        assert_eq!(file.lines_without_tests(), 2);
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_is_found_through_its_parent() {
        let mut sources = vec![
            Source::new("core/src/replica/mod.rs".into(), "#[cfg(test)]\npub(crate) mod stories;\n".into()),
            Source::new("core/src/replica/stories.rs".into(), "fn a() {}\n".into()),
            Source::new("core/src/replica/ready.rs".into(), "fn a() {}\n".into()),
        ];
        mark_external_test_modules(&mut sources);
        let tests = sources.iter().map(Source::is_test_file).collect::<Vec<_>>();
        assert_eq!(tests, [false, true, false]);
    }
}
