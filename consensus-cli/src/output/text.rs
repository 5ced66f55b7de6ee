//! Bytes, times and numbers as people read and type them.

use std::fmt;

use bytes::Bytes;

const HEX: &str = "hex:";
/// Longest line about something that went wrong.
const WORDS_CHARACTERS_MAX: usize = 2000;

/// Bytes as text if they are text without control characters, otherwise `hex:` and digits. Text that
/// starts with `hex:` is shown in digits too, so that [`parse`] always gives the same bytes back.
pub(crate) fn show(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(HEX) && !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("{HEX}{}", hex::encode(bytes)),
    }
}

/// The bytes that [`show`] shows so.
pub(crate) fn parse(text: &str) -> Result<Bytes, String> {
    match text.strip_prefix(HEX) {
        Some(digits) => hex::decode(digits).map(Bytes::from).map_err(|error| format!("after hex: {error}")),
        None => Ok(Bytes::copy_from_slice(text.as_bytes())),
    }
}

/// A node as people know it: by its number, or by the first 8 bytes of its validator's address, which are its
/// number on a CITA-Cloud chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeName {
    id: u64,
    by_address: bool,
}

impl NodeName {
    pub(crate) fn new(id: u64, by_address: bool) -> Self {
        Self { id, by_address }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.by_address { write!(f, "{:016x}", self.id) } else { write!(f, "{}", self.id) }
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// At most `chars_max` characters of a text, the cut marked.
pub(crate) fn shorten(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}

/// Words that a damaged file may be a part of, as one line of a terminal: shortened, control characters escaped.
pub(crate) fn one_line(words: &str) -> String {
    let mut line = String::new();
    // No more than will be shown is escaped.
    for character in words.chars().take(WORDS_CHARACTERS_MAX + 1) {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    shorten(&line, WORDS_CHARACTERS_MAX)
}

/// 1234567 as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 block`, `1,234 blocks`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", thousands(number))
}

/// Bytes with a binary unit: `17 B`, `1.5 KiB`, `2.0 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    let scaled = |shift: u32| bytes as f64 / f64::from(1u32 << shift);
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", scaled(10)),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", scaled(20)),
        _ => format!("{:.1} GiB", scaled(30)),
    }
}

/// Microseconds in the unit that reads best: `850 µs`, `1.25 ms`, `3.10 s`.
pub(crate) fn micros(us: u64) -> String {
    match us {
        0..1000 => format!("{us} µs"),
        1000..1_000_000 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// Milliseconds of a time span, coarse: `350 ms`, `12 s`, `3 min`, `5 h`, `9 d`.
pub(crate) fn span_ms(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// Unix milliseconds as `2026-03-01T12:00:00.000Z`; 0 as `never`; a time after the year 9999 as a number.
pub(crate) fn time(unix_ms: u64) -> String {
    const YEAR_10000_MS: u64 = 253_402_300_800_000;
    match unix_ms {
        0 => return "never".to_owned(),
        YEAR_10000_MS.. => return format!("{unix_ms} ms"),
        _ => {}
    }
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day of a day counted from 1970-01-01, by taking off whole years, then whole months.
fn date(mut days: u64) -> (u64, usize, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_damaged_file_says_is_one_line_and_no_command() {
        assert_eq!(
            one_line("cannot read MANIFEST\n\u{0}\u{1b}[2J"),
            "cannot read MANIFEST\\n\\u{0}\\u{1b}[2J"
        );
        assert_eq!(one_line(&"x".repeat(5000)).chars().count(), WORDS_CHARACTERS_MAX + 1);
    }

    #[test]
    fn shown_bytes_parse_back_to_themselves() {
        for bytes in [&b"plain"[..], b"", b"\xff\x00", b"a\nb", b"hex:00", "grüße".as_bytes()] {
            assert_eq!(parse(&show(bytes)).expect("parses"), bytes, "{bytes:?}");
        }
        assert_eq!(show(b"hex:00"), "hex:6865783a3030");
    }

    #[test]
    fn times_are_utc_calendar_times() {
        assert_eq!(time(0), "never");
        assert_eq!(time(1), "1970-01-01T00:00:00.001Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
        assert_eq!(time(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
        assert_eq!(time(u64::MAX), "18446744073709551615 ms");
    }

    #[test]
    fn quantities_read_well() {
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(999), "999");
        assert_eq!(count(1, "block"), "1 block");
        assert_eq!(count(1000, "block"), "1,000 blocks");
        assert_eq!(size(17), "17 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(2 << 20), "2.0 MiB");
        assert_eq!(size(3 << 30), "3.0 GiB");
        assert_eq!(size(5 << 40), "5120.0 GiB");
        assert_eq!(micros(850), "850 µs");
        assert_eq!(micros(1250), "1.25 ms");
        assert_eq!(shorten("grüße", 3), "grü…");
        assert_eq!(shorten("abc", 3), "abc");
    }
}
