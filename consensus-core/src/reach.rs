//! Marks at places that a test campaign has to reach.
//!
//! `reach!(Name)` stands at a place that means something: a snapshot was interrupted, a tail overwritten, a
//! message refused for this very reason. The simulator counts how often its seeds came there, and fails when
//! they never did: what was not reached was not tested. In builds without the simulator a mark is nothing.
//!
//! The counts belong to the thread that runs a seed; nobody but the simulator's report reads them.

/// Counts that this place was reached; with a condition, only if it holds.
macro_rules! reach {
    ($mark:ident) => {
        #[cfg(feature = "sim")]
        $crate::reach::hit($crate::reach::Mark::$mark);
    };
    ($mark:ident, $condition:expr) => {
        #[cfg(feature = "sim")]
        if $condition {
            $crate::reach::hit($crate::reach::Mark::$mark);
        }
    };
}

pub(crate) use reach;

#[cfg(feature = "sim")]
pub use marks::{COUNT, Mark, hit, take};

#[cfg(feature = "sim")]
mod marks {
    use std::cell::Cell;

    macro_rules! marks {
        ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
            /// A place to reach.
            #[derive(Clone, Copy, PartialEq, Eq, Debug)]
            pub enum Mark {
                $($(#[doc = $doc])+ $name,)+
            }

            impl Mark {
                /// All of them.
                pub const ALL: &'static [Self] = &[$(Self::$name,)+];

                /// The name on command lines.
                pub const fn name(self) -> &'static str {
                    match self {
                        $(Self::$name => stringify!($name),)+
                    }
                }
            }
        };
    }

    marks! {
        /// The gate refused: addressed to another node.
        GateOtherReceiver,
        /// The gate refused: sender is not the peer.
        GateOtherSender,
        /// The gate refused: no term.
        GateNoTerm,
        /// The gate refused: term too far ahead.
        GateTermTooFar,
        /// The gate refused: entries in a message that carries none.
        GateStrayEntries,
        /// The gate refused: snapshot in a message that carries none.
        GateStraySnapshot,
        /// The gate refused: previous entry from a later term.
        GateLaterPrevious,
        /// The gate refused: entries not contiguous.
        GateGap,
        /// The gate refused: entry terms out of order.
        GateTermsOutOfOrder,
        /// The gate refused: entry too large.
        GateEntryTooLarge,
        /// The gate refused: append too large.
        GateAppendTooLarge,
        /// The gate refused: acknowledges what we do not have.
        GateAcknowledgesTooMuch,
        /// The gate refused: rejection hints above what it rejects.
        GateHintTooHigh,
        /// The gate refused: asks for a snapshot of what we do not have.
        GateSnapshotTooHigh,
        /// The gate refused: snapshot message without snapshot.
        GateNoSnapshot,
        /// The gate refused: snapshot without position.
        GateSnapshotNowhere,
        /// The gate refused: snapshot from a later term.
        GateSnapshotLaterTerm,
        /// The gate refused: index out of range.
        GateIndexOutOfRange,
        /// The gate refused a snapshot with an impossible membership.
        GateImpossibleMembership,
        /// The gate refused: type not for peers.
        GateTypeNotForPeers,
        /// A newcomer without membership was asked for its vote.
        NewcomerAskedToVote,
        /// An append arrived while the application took a snapshot.
        AppendWhileInstalling,
        /// An append was dropped because the application lagged behind.
        AppendBeyondApplyBacklog,
        /// An append was dropped because the writer lagged behind.
        AppendBeyondWriterBacklog,
        /// A candidate met a follower that had heard its leader lately.
        VoteRefusedInLease,
        /// A message of a former term was stepped.
        MessageOfAFormerTerm,
        /// On a chain without history the designated replica stood at once.
        StoodFirst,
        /// The only voter waited for its disk before it stood.
        SoleVoterWaitedForItsDisk,
        /// A restart resumed the installation of a snapshot.
        InstallResumed,
        /// The application reported entries that a snapshot had replaced.
        AppliedBelowSnapshot,
        /// Leadership was lost between the gathering of proposals and their append.
        ProposalsLostInTheirRound,
        /// A read waited for the first commit of its leader's term.
        ReadBeforeFirstCommit,
        /// A leader refused proposals because its application lagged behind.
        ProposalBeyondApplyBacklog,
        /// An acknowledgement that had just left was not repeated.
        AcknowledgementNotRepeated,
        /// No Ready was taken because the writer's queue was at its bound.
        WriterQueueFull,
        /// A received snapshot waited for the writes before it.
        SnapshotWaitedForRounds,
        /// Committed entries were held back because the application lagged behind.
        CommittedHeldBack,
        /// A leader's appends waited until its term and vote were durable.
        LeaderHeldItsTongue,
        /// Messages without a write of their own waited for an earlier write.
        ReadyRodeOnEarlierWrite,
        /// A tail of the log was overwritten.
        TailReplaced,
        /// A tail was overwritten while earlier entries were on their way to the disk.
        TailReplacedUnderWay,
        /// A notice of durability was withheld because a later write replaces a tail.
        NoticeWithheld,
        /// A received snapshot replaced a log that had entries.
        SnapshotReplacedLongerLog,
        /// Commit and applied index were written without a sync.
        WrittenLazily,
        /// A change was refused because another one was pending.
        ChangeWhileOneIsPending,
        /// A change was refused because leadership was being handed over.
        ChangeDuringTransfer,
        /// A leader was asked to take itself out.
        LeaderToRemoveItself,
        /// A membership change entered its joint phase.
        JointEntered,
        /// A joint phase was left.
        JointLeft,
        /// A replica applied its own removal.
        RemovalApplied,
        /// A leader applied a change that took its vote.
        LeaderLostItsVote,
        /// Leadership was lost while a membership change was awaited.
        ChangeLostWithLeadership,
        /// A peer needed a snapshot that was not there.
        SnapshotWanted,
        /// A snapshot was built that the replica could not use any more.
        SnapshotOutdated,
        /// A snapshot let the log before it go.
        LogCompacted,
        /// The transport lost a snapshot, and another one was sent.
        SnapshotFailed,
        /// A snapshot was not acknowledged in time and counted as lost.
        SnapshotLate,
        /// The application had taken a snapshot.
        SnapshotInstalled,
        /// A lagging peer or the application needed entries that memory had let go.
        EntriesReadFromStore,
        /// Entries left memory because the store had them.
        TailLetGo,
        /// An election looked through committed entries for membership changes.
        UnappliedScanned,
        /// A peer needed a snapshot, and the newest was from before a membership change.
        SnapshotFromBeforeTheChange,
        /// A read was not confirmed in time.
        ReadExpired,
        /// Leadership was lost while a read waited.
        ReadLostWithLeadership,
        /// Leadership was lost with proposals in flight.
        ProposalsLost,
        /// The proposals of a round did not fit one message.
        ProposalsInTwoMessages,
        /// A proposal was refused because too many bytes were not committed.
        UncommittedBytesFull,
        /// A transfer to a node that is no member was refused.
        TransferToNobody,
        /// A transfer to a learner was refused.
        TransferToLearner,
        /// A transfer to a node that was not heard was refused.
        TransferToSilentNode,
        /// A transfer to a node that received a snapshot was refused.
        TransferToNodeInSnapshot,
        /// Leadership was handed over.
        TransferDone,
        /// A leader whose disk hung handed over.
        HandedOverFromHungDisk,
        /// A leader's disk hung, and nobody had more than it.
        NobodyToTakeOverFromHungDisk,
        /// A transfer was given up.
        TransferTooSlow,
        /// A leader stepped down.
        SteppedDown,
        /// A snapshot replaced a log on the disk.
        LogReplacedOnDisk,
        /// A tail left the disk in the batch that overwrites it.
        TailRemovedOnDisk,
        /// A log was compacted in the middle of a term.
        CompactedWithinATerm,
        /// A store that had lost its end was refused at open.
        LostEndFound,
        /// The ledger ignored an entry that it had.
        LedgerIgnoredARepetition,
        /// The ledger left out a transaction that its chain had.
        LedgerLeftOutADouble,
        /// A proposal held nothing new, and no block was made of it.
        LedgerMadeNoBlock,
        /// A block took its parent's time, because its proposer's clock was behind.
        LedgerClampedTime,
        /// A message of a former process arrived.
        ReplayFromFormerIncarnation,
        /// A message arrived that was meant for a store that is gone.
        LetterForAStoreThatIsGone,
        /// A message arrived from another store than the chain knows.
        LetterFromAnotherStore,
        /// A leader was heard whose new store this node had not heard of.
        LedByAnUnknownStore,
        /// A candidate asked from a new store that this node had not heard of.
        AskedByAnUnknownStore,
        /// Damage that the cluster would not survive was left out.
        AtlasForbidsDamage,
        /// A flipped bit was overwritten or compacted before it was read.
        DamageOverwritten,
        /// A replica read a flipped bit and halted.
        HaltedByDamage,
        /// The membership is as the operator wishes.
        OperatorContent,
        /// A majority recovered without the others.
        CoreRecovered,
        /// A cluster that had lost too much stood still.
        StoodStill,
        /// A leader had not heard yet that another one led a later term.
        TwoLeadersOfTwoTerms,
        /// A node whose store was new was given the chain.
        NewcomerJoined,
        /// A node crashed while a snapshot was being installed.
        CrashInTheMiddleOfASnapshot,
        /// A crash kept a part of what was not synced.
        CrashLostSomeAndKeptSome,
        /// A sync took longer than an election timeout.
        SyncLongerThanAnElection,
        /// An application was behind its store after a restart, and took what it had lost from the log.
        ApplicationBehindAtStart,
        /// An application was ahead of its store after a restart.
        ApplicationAheadAtStart,
    }

    /// How many marks there are.
    pub const COUNT: usize = Mark::ALL.len();

    thread_local! {
        static HITS: [Cell<u64>; COUNT] = const { [const { Cell::new(0) }; COUNT] };
    }

    /// Counts that a place was reached on this thread.
    pub fn hit(mark: Mark) {
        HITS.with(|hits| hits[mark as usize].set(hits[mark as usize].get() + 1));
    }

    /// The counts of this thread, in the order of [`Mark::ALL`], which begin anew.
    pub fn take() -> Vec<u64> {
        HITS.with(|hits| hits.iter().map(|count| count.replace(0)).collect())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_mark_counts_where_it_is_reached_and_begins_anew() {
            take();
            reach!(GateNoTerm);
            reach!(GateNoTerm, 1 > 2);
            reach!(GateNoTerm, 2 > 1);
            assert_eq!(take()[Mark::GateNoTerm as usize], 2);
            assert_eq!(take().iter().sum::<u64>(), 0);
        }
    }
}
