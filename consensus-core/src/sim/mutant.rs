//! Rules that are broken on purpose, so that the checks can show that they find it.
//!
//! These live in the simulator's disk and driver: production code carries none of them. They exist only
//! with the feature `mutants`; without it [`Mutant`] has no values.

/// A broken rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// Term and vote of a synced write reach the disk only with the write after it.
    #[cfg(feature = "mutants")]
    VoteNotSynced,
    /// A synced write is reported durable and is not until the machine syncs for another reason, which is
    /// never.
    #[cfg(feature = "mutants")]
    LogNotSynced,
    /// A write is reported durable when it is handed to the writer.
    #[cfg(feature = "mutants")]
    AcknowledgeBeforePersist,
}

impl Mutant {
    /// All that this build has.
    pub const ALL: &'static [Self] = &[
        #[cfg(feature = "mutants")]
        Self::VoteNotSynced,
        #[cfg(feature = "mutants")]
        Self::LogNotSynced,
        #[cfg(feature = "mutants")]
        Self::AcknowledgeBeforePersist,
    ];

    /// The name on command lines.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "mutants")]
            Self::VoteNotSynced => "vote-not-synced",
            #[cfg(feature = "mutants")]
            Self::LogNotSynced => "log-not-synced",
            #[cfg(feature = "mutants")]
            Self::AcknowledgeBeforePersist => "acknowledge-before-persist",
        }
    }

    /// The mutant of a name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }

    pub(crate) fn keeps_votes_back(self) -> bool {
        match self {
            #[cfg(feature = "mutants")]
            Self::VoteNotSynced => true,
            #[cfg(feature = "mutants")]
            Self::LogNotSynced | Self::AcknowledgeBeforePersist => false,
        }
    }

    pub(crate) fn never_syncs(self) -> bool {
        match self {
            #[cfg(feature = "mutants")]
            Self::LogNotSynced => true,
            #[cfg(feature = "mutants")]
            Self::VoteNotSynced | Self::AcknowledgeBeforePersist => false,
        }
    }

    pub(crate) fn acknowledges_early(self) -> bool {
        match self {
            #[cfg(feature = "mutants")]
            Self::AcknowledgeBeforePersist => true,
            #[cfg(feature = "mutants")]
            Self::VoteNotSynced | Self::LogNotSynced => false,
        }
    }
}
