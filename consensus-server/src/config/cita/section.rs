//! Reads the keys of one TOML table by name and kind, gathering every mistake.
//!
//! The whole file is parsed once into values that know their place, so that a wrong type in one key hides
//! no mistake in another. What was never asked for is what nobody knows.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::mistake::{Lines, Mistake};

/// One table of a file.
pub(super) struct Section<'a> {
    name: &'static str,
    text: &'a str,
    lines: Lines,
    table: Option<&'a DeTable<'a>>,
    asked: BTreeSet<&'static str>,
    /// What was found wrong so far.
    pub(super) mistakes: Vec<Mistake>,
}

/// A value that is in the file, and where.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) at: Range<usize>,
}

impl<'a> Section<'a> {
    /// `table` is `None` where the file has no such section: all keys have their defaults.
    pub(super) fn new(name: &'static str, text: &'a str, table: Option<&'a DeTable<'a>>) -> Self {
        Self { name, text, lines: Lines::of(text), table, asked: BTreeSet::new(), mistakes: Vec::new() }
    }

    /// A mistake at a key; at a place of the file if there is one.
    pub(super) fn mistake(&mut self, key: &str, at: Option<&Range<usize>>, what: String) {
        let line = at.map(|at| self.line(at));
        self.mistakes.push(Mistake { line, key: self.full(key), what });
    }

    /// The line of a place of the file.
    pub(super) fn line(&self, at: &Range<usize>) -> usize {
        self.lines.at(at.start)
    }

    /// A key as messages name it.
    pub(super) fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    /// The keys that were never asked for, with their lines.
    pub(super) fn unknown(&self) -> Vec<(usize, String)> {
        let keys = self.table.iter().flat_map(|table| table.keys());
        keys.filter(|key| !self.asked.contains(key.as_ref().as_ref()))
            .map(|key| (self.line(&key.span()), self.full(key.as_ref())))
            .collect()
    }

    /// A value of any kind.
    fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.insert(key);
        self.table?.get(key)
    }

    /// A value of one kind; another kind is a mistake.
    fn typed<T>(
        &mut self,
        key: &'static str,
        kind: &str,
        read: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
    ) -> Option<Found<T>> {
        let spanned = self.value(key)?;
        let (value, at) = (spanned.as_ref(), spanned.span());
        let Some(value) = read(value) else {
            let found = value.type_str();
            self.mistake(key, Some(&at), format!("is of type {found}, must be {kind}"));
            return None;
        };
        Some(Found { value, at })
    }

    /// A text.
    pub(super) fn text(&mut self, key: &'static str) -> Option<Found<&'a str>> {
        self.typed(key, "a string", DeValue::as_str)
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.flag_if_there(key).unwrap_or(default)
    }

    /// `true` or `false`, if the file says.
    pub(super) fn flag_if_there(&mut self, key: &'static str) -> Option<bool> {
        self.typed(key, "true or false", DeValue::as_bool).map(|found| found.value)
    }

    /// A table of keys that the file invents.
    pub(super) fn table(&mut self, key: &'static str) -> Option<&'a DeTable<'a>> {
        self.typed(key, "a table", DeValue::as_table).map(|found| found.value)
    }

    /// A whole number within a bound, if the file has it; outside of the bound it is a mistake.
    pub(super) fn number_if_there(
        &mut self,
        key: &'static str,
        bound: RangeInclusive<u64>,
    ) -> Option<Found<u64>> {
        let found = self.typed(key, "a whole number", integer)?;
        if let Some(value) = found.value.and_then(|value| u64::try_from(value).ok())
            && bound.contains(&value)
        {
            return Some(Found { value, at: found.at });
        }
        let is = self.text.get(found.at.clone()).unwrap_or_default().to_owned();
        let (low, high) = bound.into_inner();
        let bound =
            if high == u64::MAX { format!("at least {low}") } else { format!("between {low} and {high}") };
        self.mistake(key, Some(&found.at), format!("is {is}, must be {bound}"));
        None
    }

    /// A whole number within a bound.
    pub(super) fn number(&mut self, key: &'static str, default: u64, bound: RangeInclusive<u64>) -> u64 {
        self.number_if_there(key, bound).map_or(default, |found| found.value)
    }

    /// A number, whole or not, if the file has it.
    pub(super) fn decimal(&mut self, key: &'static str) -> Option<Found<f64>> {
        self.typed(key, "a number", float)
    }

    /// A list of numbers, whole or not.
    pub(super) fn numbers(&mut self, key: &'static str) -> Option<Found<Vec<f64>>> {
        self.typed(key, "a list of numbers", |value| {
            value.as_array()?.iter().map(|number| float(number.as_ref())).collect()
        })
    }
}

/// A whole number; the inner `None` is one that does not fit.
fn integer(value: &DeValue<'_>) -> Option<Option<i128>> {
    let integer = value.as_integer()?;
    Some(i128::from_str_radix(integer.as_str(), integer.radix()).ok())
}

fn float(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(float) => float.as_str().parse().ok(),
        DeValue::Integer(_) => integer(value)?.map(|whole| whole as f64),
        _ => None,
    }
}
