//! When the end of a certificate is worth a word.

use std::collections::HashMap;

use super::Certificate;

/// A first warning.
const SOON_DAYS: i64 = 30;
/// Somebody must act.
const VERY_SOON_DAYS: i64 = 7;
/// What is not fine is said again after this time.
const REPEAT_SECONDS: i64 = 24 * 60 * 60;

/// How near the end of a certificate is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Level {
    Fine,
    Soon,
    VerySoon,
    Ended,
}

impl Level {
    pub(super) fn of(certificate: &Certificate, now: i64) -> Self {
        match certificate.days_left(now) {
            _ if certificate.not_after < now => Self::Ended,
            days if days < VERY_SOON_DAYS => Self::VerySoon,
            days if days < SOON_DAYS => Self::Soon,
            _ => Self::Fine,
        }
    }

    /// What to say, if anything.
    pub(super) fn words(self, days_left: i64) -> Option<String> {
        match self {
            Self::Fine => None,
            Self::Soon | Self::VerySoon => Some(format!("ends in {days_left} days")),
            Self::Ended => Some("has ended".to_owned()),
        }
    }
}

/// What was said last of each certificate, and when.
#[derive(Debug, Default)]
pub(super) struct Watch {
    said: HashMap<String, (Level, i64)>,
}

impl Watch {
    /// Whether this is to be said: it has changed, or is not fine and was said long ago.
    pub(super) fn is_news(&mut self, name: &str, level: Level, now: i64) -> bool {
        let news = match self.said.get(name) {
            Some((before, at)) => *before != level || (level != Level::Fine && now - at >= REPEAT_SECONDS),
            None => level != Level::Fine,
        };
        if news {
            self.said.insert(name.to_owned(), (level, now));
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Pin;
    use crate::security::roles::Roles;

    const DAY: i64 = 24 * 60 * 60;

    #[test]
    fn warnings_begin_30_days_before_the_end_and_are_urgent_from_7_on() {
        let certificate = Certificate {
            subject: String::new(),
            pin: Pin::of_public_key(b""),
            roles: Roles::default(),
            not_before: 0,
            not_after: 100 * DAY,
        };
        for (now, level, words) in [
            (70 * DAY, Level::Fine, None),
            (70 * DAY + 1, Level::Soon, Some("ends in 29 days")),
            (93 * DAY, Level::Soon, Some("ends in 7 days")),
            (93 * DAY + 1, Level::VerySoon, Some("ends in 6 days")),
            (100 * DAY, Level::VerySoon, Some("ends in 0 days")),
            (100 * DAY + 1, Level::Ended, Some("has ended")),
        ] {
            let found = Level::of(&certificate, now);
            assert_eq!((found, found.words(certificate.days_left(now)).as_deref()), (level, words), "{now}");
        }
    }

    #[test]
    fn each_change_is_news_and_what_is_not_fine_is_again_after_a_day() {
        let mut watch = Watch::default();
        assert!(!watch.is_news("own", Level::Fine, 0));
        assert!(watch.is_news("own", Level::Soon, 1));
        assert!(watch.is_news("ca", Level::Soon, 1), "of each certificate by itself");
        assert!(!watch.is_news("own", Level::Soon, DAY));
        assert!(watch.is_news("own", Level::Soon, DAY + 1));
        assert!(watch.is_news("own", Level::VerySoon, DAY + 2));
        assert!(watch.is_news("own", Level::Fine, DAY + 3));
        assert!(!watch.is_news("own", Level::Fine, 9 * DAY));
    }
}
