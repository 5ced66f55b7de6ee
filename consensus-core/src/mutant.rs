//! Rules that are broken on purpose, so that the checks can show that they find it.
//!
//! A rule is broken where it stands: production code asks [`is`] there, in one line. Without the feature
//! `mutants` the answer is a constant `false` and nothing of this is left in the program; no build without
//! debug assertions may have the feature. Which rule is broken is a matter of the thread, so that many runs go on
//! side by side ([`broken`]).
//!
//! The simulator must find each within a number of seeds, a story or the comparison of the simulator's disk with the
//! engine each of the others ([`Proof`]).

#[cfg(all(feature = "mutants", not(debug_assertions)))]
compile_error!("the feature `mutants` breaks rules on purpose and is never part of a release");

/// What shows that a broken rule is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// One of the simulator's first seeds, this many at most, ends with a violation.
    Seeds(u64),
    /// A story of the replica or of the storage fails (`replica/stories/mutants.rs`): no run of the simulator comes
    /// there.
    Story,
    /// The simulator's disk and the store on the real engine part ways
    /// (`storage-faults/tests/simulated_disk.rs`).
    Comparison,
}

/// Declares the broken rules with their names on command lines and their proofs.
macro_rules! mutants {
    ($($(#[doc = $words:literal])+ $name:ident: $text:literal, $proof:expr;)+) => {
        /// A broken rule.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[allow(dead_code, reason = "the rules of the simulator's own parts are named only where it is built")]
        pub enum Mutant {
            $($(#[doc = $words])+ $name,)+
        }

        impl Mutant {
            /// All that this build has.
            pub const ALL: &'static [Self] =
                if cfg!(feature = "mutants") { &[$(Self::$name),+] } else { &[] };

            /// The name on command lines.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What shows that it is found.
            pub const fn proof(self) -> Proof {
                match self { $(Self::$name => $proof,)+ }
            }
        }
    };
}

use Proof::{Comparison, Seeds, Story};

mutants! {
    // The simulator's disk and driver.

    /// Term and vote of a synced write reach the disk only with the write after it.
    VoteNotSynced: "vote-not-synced", Seeds(40);
    /// A synced write is reported durable and is not until the machine syncs for another reason, which is never.
    LogNotSynced: "log-not-synced", Seeds(40);
    /// Of two writes that are not synced the later one is done first, in part.
    UnsyncedReordered: "unsynced-reordered", Comparison;
    /// A write is reported durable when it is handed to the writer.
    AcknowledgeBeforePersist: "acknowledge-before-persist", Seeds(40);
    /// The simulator's own application leaves the ids that it knows out of its record and its snapshots.
    DedupNotInSnapshot: "dedup-not-in-snapshot", Seeds(40);

    // What is durable when.

    /// A start takes the term from the disk and not the vote in it.
    VoteForgottenAtRestart: "vote-forgotten-at-restart", Seeds(40);
    /// The commit index is written in a batch before that of its entries.
    CommitSavedBeforeLog: "commit-saved-before-log", Seeds(40);
    /// The applied index counts what was handed to the application, not what it has taken.
    AppliedSavedBeforeApplication: "applied-saved-before-application", Seeds(40);
    /// What promises something leaves at once.
    PromisesNotHeld: "promises-not-held", Seeds(40);
    /// A leader speaks in its term before its term and its own vote are durable.
    LeaderSpeaksEarly: "leader-speaks-early", Seeds(60);
    /// A replaced tail is not removed by the batch that replaces it.
    ReplacedTailKept: "replaced-tail-kept", Seeds(40);
    /// A record is read whatever its checksum says.
    ChecksumNotChecked: "checksum-not-checked", Story;
    /// A follower stores some entries without their payload.
    PayloadNotStored: "payload-not-stored", Seeds(40);
    /// A late notice of durability counts for a tail that was replaced since.
    LateNoticeCounts: "late-notice-counts", Story;
    /// An acknowledgement is not repeated, even if the first one was lost.
    AcknowledgementNeverRepeated: "acknowledgement-never-repeated", Seeds(40);
    /// The only voter stands for election while its log is not durable.
    SoleVoterDoesNotWait: "sole-voter-does-not-wait", Story;

    // The way to the application.

    /// A committed entry is skipped while others wait for the application.
    CommittedEntrySkipped: "committed-entry-skipped", Seeds(40);
    /// The ledger takes an entry that it has again.
    AppliedAgain: "applied-again", Seeds(40);
    /// The application is given more whatever waits for it.
    BacklogUnbounded: "backlog-unbounded", Seeds(40);
    /// Rounds are handed to the writer whatever waits for it.
    WriterUnbounded: "writer-unbounded", Seeds(40);
    /// Proposals are taken whatever is in flight.
    ProposalsUnbounded: "proposals-unbounded", Seeds(40);

    // Answers.

    /// A ticket outlives the leadership that it was given in and stands for whatever is at its index.
    AnswersByIndexOnly: "answers-by-index-only", Seeds(40);
    /// What was in flight when leadership was lost is never answered.
    LostProposalsUnanswered: "lost-proposals-unanswered", Seeds(40);
    /// A replica that does not lead lets the raft crate forward proposals.
    ProposalsForwarded: "proposals-forwarded", Seeds(200);
    /// A leader answers a read without asking anybody whether it still leads.
    StaleLeaderReads: "stale-leader-reads", Seeds(100);
    /// Every read is asked under the same context.
    ReadContextReused: "read-context-reused", Seeds(40);
    /// A read is answered before the application has what it must see.
    ReadBeforeApplied: "read-before-applied", Seeds(40);
    /// Role and term are told as they were.
    LeadershipToldLate: "leadership-told-late", Seeds(40);
    /// A transfer of leadership is never given up.
    TransferNeverGivenUp: "transfer-never-given-up", Seeds(200);
    /// A leader that was not heard for long still makes a follower ready.
    SilentLeaderCounts: "silent-leader-counts", Seeds(40);
    /// A replica is ready however far its application is behind.
    ReadyWhileBehind: "ready-while-behind", Seeds(40);
    /// Leadership may go to a peer that is no voter or was not heard.
    TransferToAnybody: "transfer-to-anybody", Story;

    /// Of the voters that could take over, the one that is furthest behind does.
    TransferToWhoLags: "transfer-to-who-lags", Story;
    /// A leader whose disk takes nothing leads on.
    HungDiskLeads: "hung-disk-leads", Story;

    // The gate.

    /// Every message passes.
    GateOpen: "gate-open", Seeds(40);

    // Snapshots.

    /// A received snapshot is acknowledged before it is durable.
    SnapshotAcknowledgedEarly: "snapshot-acknowledged-early", Seeds(40);
    /// A start does not go on with an installation that a crash interrupted.
    InterruptedInstallForgotten: "interrupted-install-forgotten", Seeds(100);
    /// The log is compacted in a batch before that of the snapshot.
    CompactedBeforeSnapshot: "compacted-before-snapshot", Seeds(40);
    /// One entry too many is compacted.
    CompactionOffByOne: "compaction-off-by-one", Seeds(40);
    /// Nobody notices that a snapshot was lost on its way.
    SnapshotLossUnnoticed: "snapshot-loss-unnoticed", Seeds(40);

    // Membership.

    /// Learners count in elections and commits.
    LearnerCounted: "learner-counted", Seeds(40);
    /// A new membership is not saved.
    MembershipNotSaved: "membership-not-saved", Story;
    /// A membership change takes effect when it is appended.
    MembershipAppliedAtAppend: "membership-applied-at-append", Story;
    /// Several changes go one by one instead of through a joint phase.
    ChangesOneByOne: "changes-one-by-one", Story;
    /// A second change is proposed while one is pending.
    SecondChangeTaken: "second-change-taken", Story;
    /// A leader may take itself out.
    LeaderTakesItselfOut: "leader-takes-itself-out", Story;
    /// A store that was begun anew says that it is the former one.
    NewStoreUnderOldName: "new-store-under-old-name", Seeds(40);
    /// A replica that was removed does not learn it.
    RemovedNotTold: "removed-not-told", Story;
    /// A store without membership, which may have lost its votes, votes.
    NewcomerVotes: "newcomer-votes", Story;

    // The ledger.

    /// A transaction that the chain has is put into it again.
    DuplicateNotLeftOut: "duplicate-not-left-out", Seeds(40);
    /// A transaction's place counts those before it that were left out of the block.
    PlaceCountsSkipped: "place-counts-skipped", Seeds(200);
    /// A start counts the places of the ids that it reads from 1.
    PlacesShiftAtOpen: "places-shift-at-open", Seeds(100);
    /// A start does not read the window of known ids.
    WindowNotReadAtOpen: "window-not-read-at-open", Seeds(40);
    /// A block carries no hash of the one before.
    BlocksNotChained: "blocks-not-chained", Seeds(40);
    /// The data hash of a block covers no transaction but the first.
    DataHashOfFirstOnly: "data-hash-of-first-only", Seeds(100);
}

impl Mutant {
    /// The mutant of a name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }
}

#[cfg(feature = "mutants")]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether this rule is broken on this thread.
#[cfg(feature = "mutants")]
pub(crate) fn is(mutant: Mutant) -> bool {
    BROKEN.get() == Some(mutant)
}

/// No rule is broken.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

/// Does something with a rule broken on this thread, and mends it, even if that panics.
pub fn broken<T>(mutant: Option<Mutant>, act: impl FnOnce() -> T) -> T {
    #[cfg(feature = "mutants")]
    let _mended = Mended(BROKEN.replace(mutant));
    #[cfg(not(feature = "mutants"))]
    let _ = mutant;
    act()
}

/// Restores what was broken before.
#[cfg(feature = "mutants")]
struct Mended(Option<Mutant>);

#[cfg(feature = "mutants")]
impl Drop for Mended {
    fn drop(&mut self) {
        BROKEN.set(self.0);
    }
}

#[cfg(all(test, feature = "mutants"))]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_broken_within_and_whole_again_after_a_panic() {
        let broken_inside =
            broken(Some(Mutant::GateOpen), || (is(Mutant::GateOpen), is(Mutant::AppliedAgain)));
        assert_eq!((broken_inside, is(Mutant::GateOpen)), ((true, false), false));
        std::panic::catch_unwind(|| broken(Some(Mutant::GateOpen), || panic!("found")))
            .expect_err("it panics");
        assert!(!is(Mutant::GateOpen));
    }

    #[test]
    fn names_are_distinct_and_lead_back() {
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::by_name(mutant.name()), Some(*mutant));
        }
    }
}
